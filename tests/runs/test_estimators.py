"""Estimators over a stream and through `run`: equal to those in memory, few passes, resumed bit for bit."""

import functools
import re

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from eigenjax import (
    RunError,
    diagonal,
    eigsh,
    frobenius_norm,
    hessian,
    logdet,
    memory_mapped_batches,
    run,
    spectral_density,
    stream,
    trace,
    trace_of_function,
)
from eigenjax.spectrum.probing.host import HostEstimate

from .conftest import SPECS, Interrupted, contents, network_loss, same_bits

KEY = jax.random.key(3)
# More than the negative eigenvalues of the Hessian.
SHIFT = -4.0


def curvature(params, batch):
    return hessian(network_loss, params, batch).shift(SHIFT)


class Counted:
    """Batches of 8 examples from files, with the number of passes."""

    def __init__(self, data, folder):
        paths = [folder / "inputs.npy", folder / "targets.npy"]
        for path, array in zip(paths, data, strict=True):
            np.save(path, array)
        self.batches, self.passes = memory_mapped_batches(tuple(paths), 8), 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


@pytest.fixture
def problem(network, tmp_path):
    """Return the batches, the operator over them and the same operator in memory, in float64."""
    with jax.enable_x64(True):
        params, data = jax.tree.map(lambda x: np.asarray(x, "f8"), network)
        params = jax.tree.map(jnp.asarray, params)
        batches = Counted(data, tmp_path)
        op = stream(curvature, params, batches)
        batches.passes = 0
        yield batches, op, curvature(params, data)


def dense(op):
    structure = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), op.structure)
    flat, unravel = jax.flatten_util.ravel_pytree(structure)
    return np.asarray(jax.vmap(lambda e: jax.flatten_util.ravel_pytree(op(unravel(e)))[0])(jnp.eye(flat.size)))


# Each entry: the estimator and the passes that it takes. The operator has 56 rows.
CALLS = {
    "xtrace": (functools.partial(trace, num_matvecs=20, probe_batch=10), 2),
    "xtrace, odd": (functools.partial(trace, num_matvecs=21, probe_batch=4), 3 + 3),
    "hutch++": (functools.partial(trace, num_matvecs=20, method="hutch++", probe_batch=14), 2),
    "hutchinson": (functools.partial(trace, num_matvecs=20, method="hutchinson", probe_batch=20), 1),
    "exact trace": (functools.partial(trace, num_matvecs=60, probe_batch=28), 2),
    "diagonal": (functools.partial(diagonal, num_matvecs=21, probe_batch=11), 2),
    "exact diagonal": (functools.partial(diagonal, num_matvecs=60, probe_batch=56), 1),
    "frobenius_norm": (functools.partial(frobenius_norm, num_matvecs=20, probe_batch=14), 2),
    "spectral_density": (functools.partial(spectral_density, num_probes=3, krylov_dim=12, probe_batch=3), 12),
    "two batches of probes": (functools.partial(spectral_density, num_probes=3, krylov_dim=6, probe_batch=2), 6 + 6),
    "logdet": (functools.partial(logdet, num_probes=3, krylov_dim=12, probe_batch=3), 12),
    "exact logdet": (functools.partial(logdet, num_probes=3, krylov_dim=20, probe_batch=56), 1),
    "trace_of_function": (functools.partial(trace_of_function, f=jnp.sqrt, num_probes=2, krylov_dim=9), 2 * 9),
}
QUICK = ("xtrace, odd", "logdet")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CALLS]
)
def test_an_estimate_over_a_stream_is_that_in_memory(problem, name):
    batches, op, inner = problem
    estimator, passes = CALLS[name]
    found, expected = estimator(op, key=KEY), estimator(inner, key=KEY)
    assert batches.passes == passes
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_allclose(x, y, rtol=1e-9, atol=1e-9)


def test_exact_estimates_over_a_stream_are_those_of_the_dense_matrix(problem):
    _, op, inner = problem
    matrix = dense(inner)
    with jax.enable_x64(True):
        assert_allclose(trace(op, key=KEY, num_matvecs=60, probe_batch=56).estimate, np.trace(matrix), rtol=1e-12)
        found = diagonal(op, key=KEY, num_matvecs=60, probe_batch=56).estimate
        assert_allclose(jax.flatten_util.ravel_pytree(found)[0], np.diag(matrix), atol=1e-12)
        norm = frobenius_norm(op, key=KEY, num_matvecs=60, probe_batch=56).estimate
        assert_allclose(norm, np.linalg.norm(matrix), rtol=1e-12)
        found = logdet(op, key=KEY, num_probes=10, krylov_dim=56, probe_batch=56)
        assert_allclose(found.estimate, np.linalg.slogdet(matrix)[1], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spectral_density", "logdet", "trace_of_function"])
def test_deflation_over_a_stream(problem, name):
    batches, op, inner = problem
    estimator, passes = CALLS[name]
    deflate = eigsh(inner, 4)
    found, expected = (estimator(x, key=KEY, deflate=deflate) for x in (op, inner))
    assert batches.passes == passes + 1
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_allclose(x, y, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_a_run_in_memory_is_the_estimate_itself(problem):
    inner = problem[2]
    for name in ("xtrace, odd", "logdet"):
        estimator = functools.partial(CALLS[name][0], key=KEY)
        for x, y in zip(run(inner, estimator=estimator, progress=False), estimator(inner), strict=True):
            assert_allclose(x, y, rtol=1e-10)


def interrupted_run(op, estimator, folder, interrupt_after):
    interrupt_after(2)
    with pytest.raises(Interrupted):
        run(op, estimator=estimator, checkpoint_dir=folder, every=4, progress=False)
    interrupt_after(None)


@pytest.mark.parametrize(
    "name", ["xtrace, odd", *(pytest.param(x, marks=pytest.mark.slow) for x in ("diagonal", "two batches of probes"))]
)
def test_an_interrupted_run_is_resumed_bit_for_bit(problem, tmp_path, interrupt_after, name):
    batches, op, _ = problem
    estimator = functools.partial(CALLS[name][0], key=KEY)
    undisturbed = estimator(op)
    interrupted_run(op, estimator, tmp_path / "run", interrupt_after)
    batches.passes = 0
    resumed = run(op, estimator=estimator, checkpoint_dir=tmp_path / "run", every=4, progress=False)
    assert same_bits(resumed, undisturbed)
    # One more pass reads the first batch, to identify the data.
    assert batches.passes < CALLS[name][1] + 1
    batches.passes = 0
    again = run(op, estimator=estimator, checkpoint_dir=tmp_path / "run", every=4, progress=False)
    assert same_bits(again, undisturbed)
    assert batches.passes == 1


def test_the_directory_of_another_run_is_refused(matrix, tmp_path, interrupt_after):
    folder = tmp_path / "run"
    estimator = functools.partial(trace, key=KEY, num_matvecs=20, probe_batch=4)
    interrupted_run(matrix, estimator, folder, interrupt_after)
    before = contents(folder)
    refused = {
        "num_matvecs=20, where this call has 22": {"estimator": functools.partial(estimator, num_matvecs=22)},
        "another key": {"estimator": functools.partial(estimator, key=jax.random.key(4))},
        "its estimator is trace, where this call has diagonal": {"estimator": functools.partial(diagonal, key=KEY)},
        "its estimator is trace, where this call has none, but k pairs": {"k": 2},
    }
    for words, options in refused.items():
        with pytest.raises(RunError, match=f"holds another run: {words}"):
            run(matrix, checkpoint_dir=folder, progress=False, **options)
    with pytest.raises(RunError, match="its matvec with a fixed vector gave another result"):
        run(2 * matrix, checkpoint_dir=folder, progress=False, estimator=estimator)
    assert contents(folder) == before


@pytest.mark.slow
def test_functions_and_known_pairs_are_told_apart(matrix, tmp_path):
    make = functools.partial(functools.partial, trace_of_function, key=KEY, num_probes=2, krylov_dim=8)
    run(matrix, estimator=make(f=jnp.exp), checkpoint_dir=tmp_path, progress=False)
    for words, estimator in {"f": make(f=jnp.cos), "deflate": make(f=jnp.exp, deflate=eigsh(matrix, 2))}.items():
        with pytest.raises(RunError, match=f"holds another run: .*another {words}|holds another run: another {words}"):
            run(matrix, estimator=estimator, checkpoint_dir=tmp_path, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
def test_vectors_are_sharded_like_the_parameters(network, mode, tmp_path, interrupt_after, monkeypatch):
    params, data = network
    out = None if mode == AxisType.Auto else P(None, None)

    def loss(p, batch):
        hidden = jnp.tanh(jnp.einsum("ni,ih->nh", batch[0], p["inner"]) + p["bias"][None, :])
        return jnp.mean((jnp.einsum("nh,ho->no", hidden, p["outer"], out_sharding=out) - batch[1]) ** 2)

    states, finish = [], HostEstimate.finish
    monkeypatch.setattr(HostEstimate, "finish", lambda self: (states.append(self.state), finish(self))[1])
    mesh = jax.make_mesh((8,), ("model",), axis_types=(mode,))
    placed = {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in params.items()}
    with jax.set_mesh(mesh):
        op = stream(loss, placed, [data], sharding=NamedSharding(mesh, P()))
        estimators = {
            "trace": functools.partial(trace, key=KEY, num_matvecs=21, probe_batch=4),
            "density": functools.partial(spectral_density, key=KEY, num_probes=3, krylov_dim=6, probe_batch=2),
        }
        for name, estimator in estimators.items():
            undisturbed = run(op, estimator=estimator, progress=False)
            interrupted_run(op, estimator, tmp_path / name, interrupt_after)
            resumed = run(op, estimator=estimator, checkpoint_dir=tmp_path / name, every=4, progress=False)
            assert same_bits(resumed, undisturbed)
            expected = estimator(hessian(network_loss, params, data))
            for x, y in zip(resumed, expected, strict=True):
                assert_allclose(x, y, rtol=1e-4, atol=1e-4)
    matrices = [x for x in jax.tree.leaves(states) if x.shape[-2:] == (4, 8)]
    assert len(matrices) >= 2 * 5
    assert all(x.addressable_shards[0].data.size == x.size // 8 for x in matrices)


def test_progress_counts_passes(matrix, capfd):
    run(matrix, estimator=functools.partial(trace, key=KEY, num_matvecs=21, probe_batch=4))
    out, err = capfd.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert re.fullmatch(r"eigenjax: trace: 6/6 passes, 21/21 matvecs, done \(0:\d\d\)", last)
