"""Wrong calls: an immediate error names the function, the argument, the given value and the remedy."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eigenjax
from eigenjax import as_operator, estimate, memory_mapped_batches, run, stream

MATRIX = jnp.diag(jnp.arange(2.0, 8.0))
OP = as_operator(MATRIX)
PARAMS = jnp.linspace(0.5, 1.0, 3)
BATCHES = [np.full((5, 3), 0.5, np.float32), np.eye(5, 3, dtype=np.float32)]
KEY = jax.random.key(4)


def loss(params, batch):
    return jnp.mean((batch @ params) ** 2)


TRACE = functools.partial(eigenjax.trace, key=KEY)
STREAM = stream(loss, PARAMS, BATCHES)


def traced(call):
    """Return a function that makes the call with its one argument traced."""
    return lambda: jax.jit(call)(MATRIX)


RUN = {
    "no operator": (lambda: run(), "run needs op"),
    "no k": (lambda: run(OP), "run needs k"),
    "k": (lambda: run(OP, 1.5), r"run got k=1\.5: give an int"),
    "too many pairs": (lambda: run(OP, 9), "run got k=9: the operator is 6 x 6, so choose 1 <= k <= 6"),
    "which": (lambda: run(OP, 1, which="sa"), "run got which='sa': write which='SA'"),
    "tol as text": (lambda: run(OP, 1, tol="1e-5"), "run got tol='1e-5': give a number"),
    "several tols": (lambda: run(OP, 1, tol=jnp.ones(3)), r"run got tol=an array float32\[3\]"),
    "sigma as text": (lambda: run(OP, 1, sigma="zero"), "run got sigma='zero': give one real number"),
    "several sigmas": (lambda: run(OP, 1, sigma=jnp.ones(2)), r"run got sigma=an array float32\[2\]"),
    "sigma with which": (lambda: run(OP, 1, sigma=3.5, which="LM"), r"run got which='LM' and sigma=3\.5.*leave one"),
    "progress": (lambda: run(OP, 1, progress="bar"), "run got progress='bar': give True or False"),
    "verify": (lambda: run(OP, 1, verify=2), "run got verify=2: give True or False"),
    "every": (lambda: run(OP, 1, every="often"), "run got every='often': give an int"),
    "block": (lambda: run(OP, 1, block_size=2.0), r"run got block_size=2\.0: give an int"),
    "krylov_dim": (lambda: run(OP, 1, krylov_dim="all"), "run got krylov_dim='all': give an int"),
    "max_matvecs": (lambda: run(OP, 1, max_matvecs=-3), "run got max_matvecs=-3: give 1 or more"),
    "directory": (lambda: run(OP, 1, checkpoint_dir=7), "run got checkpoint_dir=7: give the path"),
    "empty directory": (lambda: run(OP, 1, checkpoint_dir=""), "run got checkpoint_dir='': give the path"),
    "NUL": (lambda: run(OP, 1, checkpoint_dir="a\0"), "run got checkpoint_dir=.*give the path"),
    "key": (lambda: run(OP, 1, key=11), r"run got key=11: give a typed key, such as jax.random.key\(0\)"),
    "v0 as text": (lambda: run(OP, 1, v0="random"), "run got v0='random', which is no array"),
    "v0 of another shape": (lambda: run(OP, 1, v0=jnp.ones(4)), r"run: v0: the array has shape \(4,\)"),
    "nothing": (lambda: run(None, 1), "run: expected an operator.*got NoneType"),
    "a function": (lambda: run(lambda v: v, 1), "run: a callable operator says nothing of its vectors"),
    "a problem": (lambda: run(eigenjax.Problem(loss, PARAMS), 1), "run: expected an operator.*got Problem"),
    "shapes": (lambda: run(jax.eval_shape(as_operator, MATRIX), 1), "run got an operator of shapes.*estimate"),
    "SciPy's name": (lambda: run(OP, 1, ncv=30), "run got ncv=30: run calls it krylov_dim"),
    "an unknown name": (lambda: run(OP, 1, checkpoints="x"), "run got checkpoints='x'"),
    "under jit": (traced(lambda a: run(a, 1, progress=False)), r"run is a loop.*jit.*call eigsh\(op, k\) there"),
    "of a closure under jit": (traced(lambda a: run(lambda v: a @ v, 1, v0=jnp.ones(6))), "run is a loop.*jit"),
    "of constants under jit": (traced(lambda a: run(OP, 1, progress=False).eigenvalues + a), "run is a loop.*jit"),
    "under vmap": (lambda: jax.vmap(lambda a: run(a, 1))(MATRIX[None]), "run is a loop.*vmap"),
    "under grad": (lambda: jax.grad(lambda a: run(a, 1).eigenvalues[0])(MATRIX), "run is a loop.*grad"),
    "v0 of another shape for a stream": (lambda: run(STREAM, 1, v0=jnp.ones(4)), r"run: v0: .*shape \(4,\)"),
}
ESTIMATORS = {
    "with k": (lambda: run(OP, 1, estimator=TRACE), "run got k=1 and estimator: an estimate takes its own options"),
    "with tol": (
        lambda: run(OP, tol=0.1, estimator=TRACE),
        r"run got tol=0\.1 and estimator: .* leave one of them out",
    ),
    "with verify": (lambda: run(OP, verify=False, estimator=TRACE), "run got verify=False and estimator"),
    "no function": (lambda: run(OP, estimator="trace"), "run got estimator='trace': give a function of the operator"),
    "no estimate": (lambda: run(OP, estimator=lambda op: op), "run got estimator=.* made no estimate.*give a function"),
    "two": (
        lambda: run(OP, estimator=lambda op: (TRACE(op), TRACE(op)), progress=False),
        "run: estimator made a second",
    ),
    "of a solver": (lambda: run(OP, estimator=lambda op: eigenjax.eigsh(op, 1)), "only trace, diagonal.*can take"),
    "without key": (lambda: run(OP, estimator=eigenjax.trace), "trace needs key.*give key="),
    "its option": (lambda: run(OP, estimator=lambda op: TRACE(op, num_matvecs=0)), "num_matvecs=0: give 2 or more"),
    "under jit": (traced(lambda a: run(a, estimator=TRACE)), "run is a loop.*jit"),
    "a stream under jit": (
        lambda: jax.jit(lambda key: eigenjax.trace(STREAM, key=key))(KEY),
        "trace: .*call trace outside",
    ),
}
STREAMS = {
    "no batches": (lambda: stream(loss, PARAMS), "stream needs batches"),
    "another order": (lambda: stream(PARAMS, loss, BATCHES), r"stream got loss=an array float32\[3\]: give loss\("),
    "a path": (lambda: stream(loss, PARAMS, "x.npy"), r"stream got batches='x.npy': give memory_mapped_batches"),
    "a dict": (lambda: stream(loss, PARAMS, {"x": BATCHES[0]}), "stream got batches=.*one batch: give a list"),
    "an array": (lambda: stream(loss, PARAMS, BATCHES[0]), r"stream got batches=an array float32\[5,3\], which is one"),
    "batches of text": (lambda: stream(loss, PARAMS, ["a"]), "stream got the first batch='a', which is no array"),
    "batches of nothing": (lambda: stream(loss, PARAMS, [None]), "stream got the first batch=None, which holds no"),
    "batches of objects": (lambda: stream(loss, PARAMS, [object()]), "stream got the first batch.*no array"),
    "params as text": (lambda: stream(loss, "params", BATCHES), "stream got params='params': give a pytree"),
    "no params": (lambda: stream(loss, {}, BATCHES), "stream got params={}, which holds no arrays"),
    "a loss of params": (
        lambda: stream(lambda p: jnp.sum(p), PARAMS, BATCHES),
        r"stream: loss\(params, batch\) failed",
    ),
    "a loss with more": (lambda: stream(lambda p, b: (loss(p, b), b), PARAMS, BATCHES), "stream: loss.*gives tuple"),
    "an integer loss": (lambda: stream(lambda p, b: jnp.int32(1), PARAMS, BATCHES), "stream: loss.*dtype is int32"),
    "mode": (lambda: stream(loss, PARAMS, BATCHES, mode="both"), "stream: mode='both'"),
    "batch_size": (lambda: stream(loss, PARAMS, BATCHES, batch_size="4"), "stream: batch_size='4'"),
    "a number for weight": (
        lambda: stream(loss, PARAMS, BATCHES, weight=1.0),
        r"stream got weight=1\.0: give weight\(",
    ),
    "weights as text": (lambda: stream(loss, PARAMS, BATCHES, weight=str)(PARAMS), r"stream got weight\(batch\)="),
    "no weights": (lambda: stream(loss, PARAMS, BATCHES, weight=lambda b: None)(PARAMS), r"weight\(batch\)=None"),
    "a NaN weight": (lambda: stream(loss, PARAMS, BATCHES, weight=lambda b: np.nan)(PARAMS), "batch 0: .*=nan: give"),
    "a negative weight": (lambda: stream(loss, PARAMS, BATCHES, weight=lambda b: -2)(PARAMS), "=-2: give one number"),
    "sharding": (lambda: stream(loss, PARAMS, BATCHES, sharding="data"), "stream got sharding='data': give a jax.sh"),
    "params under jit": (lambda: jax.jit(lambda p: stream(loss, p, BATCHES)(p))(PARAMS), "stream is a loop.*jit"),
    "a later batch": (
        lambda: stream(loss, PARAMS, [BATCHES[0], np.ones((2, 4), np.float32)])(PARAMS),
        "stream: the matvec with batch 1 failed",
    ),
    "a vector of another shape": (lambda: STREAM(jnp.ones(4)), r"given to the stream: the array has shape \(4,\)"),
    "no rows": (lambda: STREAM.products(PARAMS), r"a row of vectors: the array has shape \(\)"),
    "twice": (lambda: 2.0 * STREAM, "a stream cannot be added or multiplied: build it into the curvature"),
    "a sum": (lambda: STREAM + STREAM, "a stream cannot be added or multiplied"),
    "a difference": (lambda: OP - STREAM, "stream"),
    "an array of it": (lambda: np.asarray(STREAM), r"got a stream: .*eigenjax.run\(stream, k\)"),
    "a jax array of it": (lambda: jnp.asarray(STREAM), r"got a stream: .*eigenjax.run\(stream, k\)"),
}
ESTIMATES = {
    "no k": (lambda: estimate(OP), "estimate needs k"),
    "k": (lambda: estimate(OP, "3"), "estimate got k='3'"),
    "nothing": (lambda: estimate(None, 1), "estimate: expected an operator"),
    "a function": (lambda: estimate(lambda v: v, 1), r"estimate got .*as_operator\(f, like=params\)"),
    "a rectangle": (lambda: estimate(jax.ShapeDtypeStruct((3, 4), jnp.float32), 1), r"estimate: .*shape \(3, 4\)"),
    "a stream": (lambda: estimate(STREAM, 1), r"run\(stream, k\).*estimate\(stream.first_operator\(\), k\)"),
    "mesh": (lambda: estimate(OP, 1, mesh=4), "estimate got mesh=4: give a jax.sharding.Mesh"),
    "which": (lambda: estimate(OP, 1, which="top"), "estimate got which='top': choose one of 'LM', 'LA'"),
    "block_size": (lambda: estimate(OP, 1, block_size=None), "estimate got block_size=None: give an int"),
    "jit": (lambda: jax.jit(lambda k: estimate(OP, k))(2), "traced k"),
}


KINDS = {"run": RUN, "estimator": ESTIMATORS, "stream": STREAMS, "estimate": ESTIMATES}


@pytest.mark.parametrize("case", [f"{kind}: {name}" for kind in KINDS for name in KINDS[kind]])
def test_the_call_is_answered_in_words(case):
    kind, _, name = case.partition(": ")
    call, message = KINDS[kind][name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


TAKERS = {
    "as_operator": eigenjax.as_operator,
    "eigsh": lambda s: eigenjax.eigsh(s, 1),
    "eigsh with v0": lambda s: eigenjax.eigsh(s, 1, v0=PARAMS),
    "eigs": lambda s: eigenjax.eigs(s, 1),
    "svds": lambda s: eigenjax.svds(s, 1),
    "lanczos": lambda s: eigenjax.lanczos(s, 1),
    "deflated_power_iteration": lambda s: eigenjax.deflated_power_iteration(s, 1),
    "eigh": eigenjax.eigh,
    "eig": eigenjax.eig,
    "svd": eigenjax.svd,
    "to_dense": eigenjax.to_dense,
    "symmetry_error": lambda s: eigenjax.symmetry_error(s, KEY),
    "restrict": lambda s: eigenjax.restrict(s, "*"),
    "precondition": lambda s: eigenjax.precondition(s, PARAMS),
    "blocks": eigenjax.blocks,
    "block_spectra": lambda s: eigenjax.block_spectra(s, 1),
    "spectral_norm": eigenjax.spectral_norm,
    "sharpness_penalty": eigenjax.sharpness_penalty,
    "spectrum_tracker": lambda s: eigenjax.spectrum_tracker(1).init(s),
}


@pytest.mark.parametrize("name", TAKERS)
def test_a_stream_given_to_what_is_compiled_is_sent_to_run(name):
    with pytest.raises(TypeError, match=r"a stream reads its data on the host.*eigenjax.run\(stream, k\)"):
        TAKERS[name](STREAM)


def test_a_stream_says_what_it_is_and_what_it_lacks():
    assert repr(STREAM) == "Stream of 3 numbers float32, for eigenjax.run"
    assert not hasattr(STREAM, "mv")
    with pytest.raises(AttributeError, match="a stream has no shift: build it into the curvature"):
        STREAM.shift(1.0)
    data = np.concatenate(BATCHES).astype("f8")
    np.testing.assert_allclose(STREAM @ PARAMS, 2 * data.T @ (data @ np.asarray(PARAMS, "f8")) / len(data), rtol=1e-6)


def test_an_estimate_of_a_matrix_or_of_its_shape_is_that_of_its_operator():
    estimated = estimate(OP, 2)
    assert estimated == estimate(MATRIX, 2) == estimate(jax.ShapeDtypeStruct((6, 6), jnp.float32), 2)
    assert estimated.operator_bytes == 144


@pytest.mark.slow
def test_checkpoints_less_often_than_an_int32_counts(tmp_path):
    result = run(OP, 1, krylov_dim=4, every=2**40, checkpoint_dir=tmp_path, progress=False)
    np.testing.assert_allclose(result.eigenvalues, [7.0], rtol=1e-5)


FILES = {
    "missing": (lambda folder: folder / "none.npy", FileNotFoundError, "No such file"),
    "text": (lambda folder: folder / "text.npy", ValueError, "which is no .npy file of numbers"),
    "empty": (lambda folder: folder / "empty.npy", ValueError, "which is no .npy file of numbers"),
    "archive": (lambda folder: str(folder / "several.npz"), ValueError, "an archive of several arrays"),
    "folder": (lambda folder: folder, OSError, "Is a directory"),
    "objects": (lambda folder: folder / "objects.npy", ValueError, "which is no .npy file of numbers"),
    "words": (lambda folder: folder / "words.npy", TypeError, "which is no array"),
    "bytes": (lambda folder: b"x.npy", TypeError, "which is no array"),
    "nothing": (lambda folder: (), TypeError, "which holds no arrays"),
    "lengths": (lambda folder: (BATCHES[0], np.ones(4)), ValueError, "the same number of examples"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_hold_no_array_are_named(kind, tmp_path):
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=np.ones(3), b=np.ones(3))
    np.save(tmp_path / "objects.npy", np.asarray([{}, {}], object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.asarray(["a", "b"]))
    make, error, message = FILES[kind]
    with pytest.raises(error, match=rf"memory_mapped_batches.*{message}"):
        memory_mapped_batches(make(tmp_path), 2)


@pytest.mark.parametrize("size", [None, 0, "4", True, 2.5])
def test_batch_sizes_that_are_none(size):
    with pytest.raises((TypeError, ValueError), match=f"memory_mapped_batches: batch_size={size!r}: give a positive"):
        memory_mapped_batches(BATCHES[0], size)


def test_any_path_will_do(tmp_path):
    class Path:
        def __fspath__(self):
            return str(tmp_path / "x.npy")

    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    for path in (Path(), tmp_path / "x.npy", str(tmp_path / "x.npy"), pathlib.PurePath(tmp_path / "x.npy")):
        assert [batch.shape for batch in memory_mapped_batches(path, 2)] == [(2, 2), (1, 2)]


def test_a_loss_that_is_a_sum_is_refused_where_batches_are_averaged():
    inputs = np.random.default_rng(5).standard_normal((7, 3)).astype(np.float32)
    total = lambda w, batch: jnp.sum((batch @ w) ** 2)
    with pytest.raises(ValueError, match=r"stream: loss\(params, batch\) is a sum over examples.*jnp.mean.*weight="):
        stream(total, jnp.ones(3), [inputs[:4], inputs[4:]])
    whole = 2 * inputs.T @ inputs
    np.testing.assert_allclose(stream(total, jnp.ones(3), [inputs])(jnp.ones(3)), whole.sum(1), rtol=1e-5)
    meant = stream(total, jnp.ones(3), [inputs[:4], inputs[4:]], weight=lambda batch: 1)
    np.testing.assert_allclose(2 * meant(jnp.ones(3)), whole.sum(1), rtol=1e-5)
