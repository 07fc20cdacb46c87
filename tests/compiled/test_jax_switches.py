"""Every entry point under JAX's switches: promotion, x64, disable_jit, debug_nans, tracer leaks, transfer guard.

A check that concerns only tracing (promotion, leaks) traces the program and does not compile it.
"""

import contextlib
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eigenjax

SLOW = pytest.mark.slow
N = 6
KEY = 0


def matrix(kind, dtype=np.float32):
    entries = np.random.default_rng(7).standard_normal((N, N)).astype(dtype)
    made = {
        "symmetric": entries + entries.T,
        "definite": entries @ entries.T + np.eye(N, dtype=dtype),
        "general": entries,
        "tall": entries[:, :4],
        "copies": np.diag(np.array([7, 7, 7, 2, 0, 0], dtype)),
        "zero": np.zeros((N, N), dtype),
    }[kind]
    return jnp.asarray(made)


def solver(name, *fields, **options):
    def call(a):
        result = getattr(eigenjax, name)(a, 2, **options)
        return [getattr(result, field) for field in fields]

    return call


def symmetric(**options):
    return solver("eigsh", "eigenvalues", "eigenvectors", **options)


def estimator(name, **options):
    return lambda a: jax.tree.leaves(getattr(eigenjax, name)(a, key=jax.random.key(KEY), **options))[0]


def mean_square(params, batch):
    return jnp.mean((batch @ params) ** 2)


def preconditioned(a):
    return eigenjax.eigsh(a, 2, which="SA", preconditioner=eigenjax.diagonal_operator(1 / jnp.diagonal(a)))[:2]


PAIRS = ("eigenvalues", "eigenvectors")
TRIPLETS = ("left", "values", "right")
NARROW = {"basis_dtype": jnp.bfloat16}
# Each entry: call, kind of the matrix, and whether reverse mode is supported.
CALLS = {
    **{f"eigsh {which}": (symmetric(which=which), "symmetric", True) for which in ("LA", "SA", "LM", "BE", "SM")},
    "eigsh sigma": (symmetric(sigma=0.3), "symmetric", True),
    "eigsh restarted": (symmetric(krylov_dim=4), "symmetric", True),
    "eigsh blocks": (symmetric(block_size=2, krylov_dim=4), "symmetric", True),
    "eigsh verify": (symmetric(verify=True, krylov_dim=4), "symmetric", True),
    "eigsh preconditioned": (preconditioned, "definite", True),
    "eigsh offload": (symmetric(basis="offload"), "symmetric", True),
    "eigsh recompute": (symmetric(basis="recompute"), "symmetric", True),
    "eigsh narrow": (symmetric(**NARROW), "symmetric", True),
    "eigsh warm": (lambda a: eigenjax.eigsh(a, 2, v0=jnp.eye(3, N, dtype=a.dtype))[:2], "symmetric", True),
    "eigsh copies": (symmetric(verify=True, krylov_dim=4), "copies", True),
    "eigsh zero": (symmetric(krylov_dim=4), "zero", True),
    "lanczos": (solver("lanczos", *PAIRS), "symmetric", True),
    "lanczos copies": (solver("lanczos", *PAIRS, reorthogonalize=False), "copies", True),
    "power": (solver("deflated_power_iteration", *PAIRS, max_iter=9, momentum=0.1), "definite", True),
    "power zero": (solver("deflated_power_iteration", *PAIRS, max_iter=9), "zero", True),
    **{f"eigs {w}": (solver("eigs", *PAIRS, which=w), "general", True) for w in ("LM", "LR", "SR", "LI")},
    "eigs zero": (solver("eigs", *PAIRS), "zero", True),
    "svds": (solver("svds", *TRIPLETS), "tall", True),
    "svds verify": (solver("svds", *TRIPLETS, krylov_dim=3, verify=True), "tall", True),
    "svds zero": (solver("svds", *TRIPLETS), "zero", True),
    "svds SM": (solver("svds", *TRIPLETS, which="SM", krylov_dim=4), "tall", True),
    "svds SM zero": (solver("svds", *TRIPLETS, which="SM"), "zero", True),
    "eigh": (eigenjax.eigh, "copies", True),
    "eigh of a pencil": (lambda a: eigenjax.eigh(a, a @ a + jnp.eye(N, dtype=a.dtype)), "symmetric", True),
    "eig": (eigenjax.eig, "general", True),
    "eig of a batch": (lambda a: eigenjax.eig(jnp.stack([a, 2 * a])), "general", True),
    "svd": (eigenjax.svd, "tall", True),
    "eigenvalue_condition": (eigenjax.eigenvalue_condition, "general", False),
    "left_eigenvectors": (lambda a: eigenjax.left_eigenvectors(a, eigenjax.eigs(a, 2))[1], "general", False),
    "gauge_residual": (lambda a: eigenjax.gauge_residual(eigenjax.eigsh(a, 2), jnp.ones((2, N))), "symmetric", False),
    "adjoint_info": (lambda a: eigenjax.adjoint_info(a, eigenjax.eigsh(a, 2), jnp.ones((2, N)))[1], "symmetric", False),
    **{
        f"trace {method}": (estimator("trace", num_matvecs=4, method=method), "symmetric", True)
        for method in ("xtrace", "hutch++", "hutchinson")
    },
    "trace exact": (estimator("trace"), "symmetric", True),
    "diagonal": (estimator("diagonal", num_matvecs=4), "symmetric", False),
    "logdet": (estimator("logdet", num_probes=2), "definite", False),
    "frobenius_norm": (estimator("frobenius_norm", num_matvecs=4), "symmetric", False),
    "trace_of_function": (estimator("trace_of_function", f=jnp.exp, num_probes=2), "symmetric", False),
    "expm_multiply": (lambda a: eigenjax.expm_multiply(a, a[0], krylov_dim=8)[0], "symmetric", True),
    "matrix_function": (lambda a: eigenjax.matrix_function(a, jnp.exp, a[0])[0], "symmetric", False),
    "density": (
        lambda a: eigenjax.spectral_density(a, key=jax.random.key(KEY), num_probes=2, krylov_dim=4).density(a[0]),
        "symmetric",
        False,
    ),
    "distribution": (
        lambda a: eigenjax.spectral_density(a, key=jax.random.key(KEY), num_probes=2).cdf_standard_error(a[0]),
        "copies",
        False,
    ),
    "operators": (
        lambda a: eigenjax.to_dense(2 * eigenjax.as_operator(a).shift(1.0) - eigenjax.as_operator(a)),
        "symmetric",
        True,
    ),
    "low_rank": (
        lambda a: eigenjax.low_rank(eigenjax.eigsh(a, 2), damping=0.5).inverse().sample(jax.random.key(KEY), 2),
        "definite",
        True,
    ),
    "symmetry_error": (
        lambda a: eigenjax.symmetry_error(eigenjax.as_operator(a), jax.random.key(KEY)),
        "general",
        False,
    ),
    "hessian": (
        lambda a: eigenjax.hessian(lambda p, b: jnp.mean((b @ p) ** 2), a[0], a, batch_size=4)(a[1]),
        "general",
        False,
    ),
}
FORWARD = {
    "eigsh": (symmetric(derivative="forward"), "symmetric"),
    "eigsh sigma": (symmetric(sigma=0.3, derivative="forward"), "symmetric"),
    "lanczos": (solver("lanczos", *PAIRS, derivative="forward"), "symmetric"),
    "eigs": (solver("eigs", *PAIRS, derivative="forward"), "general"),
    "svds": (solver("svds", *TRIPLETS, derivative="forward"), "tall"),
    "svds SM": (solver("svds", *TRIPLETS, which="SM", derivative="forward"), "tall"),
    "eigh": (eigenjax.eigh, "copies"),
    "eig": (eigenjax.eig, "general"),
    "svd": (eigenjax.svd, "tall"),
}


def squares(call):
    """Return a loss that depends on all inexact entries of the result of `call`."""

    def loss(a):
        leaves = [jnp.abs(x) for x in jax.tree.leaves(call(a)) if jnp.issubdtype(x.dtype, jnp.inexact)]
        return sum(jnp.sum(x**2 * jnp.arange(1, x.size + 1, dtype=x.dtype).reshape(x.shape)) for x in leaves)

    return loss


@contextlib.contextmanager
def strict(*, wide=False):
    # The leak check runs the garbage collector hundreds of times; freezing excludes all existing objects.
    gc.freeze()
    try:
        with (
            jax.enable_x64(wide),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
            jax.check_tracer_leaks(True),
        ):
            yield
    finally:
        gc.unfreeze()


def test_the_check_for_leaks_sees_those_into_what_was_there_before():
    held = []
    with pytest.raises(Exception, match="Leaked"), strict():
        jax.eval_shape(lambda a: held.append(2 * a), matrix("symmetric"))


def slow_but(quick, names):
    quick = (quick,) if isinstance(quick, str) else quick
    return [name if name in quick else pytest.param(name, marks=SLOW) for name in names]


QUICK = ("eigsh SM", "eigsh verify", "eigs LM", "svds", "eig of a batch", "trace xtrace", "distribution", "lanczos")


@pytest.mark.slow
@pytest.mark.parametrize("wide", [pytest.param(False, id="x32"), pytest.param(True, id="x64", marks=SLOW)])
@pytest.mark.parametrize("name", slow_but(QUICK, CALLS))
def test_it_is_traced_without_promotion_or_leak_of_tracers(name, wide):
    call, kind, has_reverse = CALLS[name]
    with strict(wide=wide):
        a = matrix(kind, np.float64 if wide else np.float32)
        jax.eval_shape(call, a)
        if has_reverse:
            assert jax.eval_shape(jax.grad(squares(call)), a).dtype == a.dtype


@pytest.mark.parametrize("name", slow_but("eig", FORWARD))
def test_forward_mode_is_traced_without_promotion_or_leak_of_tracers(name):
    call, kind = FORWARD[name]
    with strict():
        a = matrix(kind)
        jax.eval_shape(lambda a: jax.jvp(squares(call), (a,), (a,)), a)


COMPILED = ("eigsh verify", "eigs zero", "svds zero", "eigh", "eig", "distribution", "trace exact")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "eigsh verify" else SLOW) for name in COMPILED]
)
def test_nothing_is_nan_on_the_way_to_what_is_finite(name):
    call, kind, has_reverse = CALLS[name]
    with jax.debug_nans(True):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.jit(call)(matrix(kind))))
        if has_reverse:
            assert np.isfinite(jax.jit(jax.grad(squares(call)))(matrix(kind))).all()


# The matrix has three rows only: without jit each call runs operation by operation.
WITHOUT_JIT = {
    "eigh": (lambda a: eigenjax.eigh(a)[0][::-1][:1], jnp.linalg.eigvalsh),
    "lanczos": (lambda a: eigenjax.lanczos(a, 1)[0], jnp.linalg.eigvalsh),
    "eigsh": (lambda a: eigenjax.eigsh(a, 1)[0], jnp.linalg.eigvalsh),
    "eigs": (lambda a: eigenjax.eigs(a, 1)[0].real, jnp.linalg.eigvalsh),
    "svds": (lambda a: eigenjax.svds(a, 1)[1], jnp.linalg.eigvalsh),
    "power": (lambda a: eigenjax.deflated_power_iteration(a, 1, max_iter=40)[0], jnp.linalg.eigvalsh),
    "sigma": (lambda a: eigenjax.eigsh(a, 1, sigma=9.0)[0], jnp.linalg.eigvalsh),
    "recompute": (lambda a: eigenjax.eigsh(a, 1, basis="recompute")[0], jnp.linalg.eigvalsh),
}


@pytest.mark.parametrize("name", slow_but("eigh", WITHOUT_JIT))
def test_without_jit_it_finds_the_same(name):
    call, truth = WITHOUT_JIT[name]
    a = jnp.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
    largest = truth(a)[-1]
    with jax.disable_jit():
        found = call(a)
        slope = jax.grad(lambda a: call(a)[0])(a)
    np.testing.assert_allclose(found[0], largest, rtol=1e-3)
    vector = np.linalg.eigh(np.asarray(a, float))[1][:, -1]
    np.testing.assert_allclose(slope, np.outer(vector, vector), atol=5e-2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deflated_power_iteration", {"max_iter": 5, "tol": 1e-3, "momentum": 0.1}),
        pytest.param("eigsh", {"sigma": 0.3, "tol": 1e-4, "adjoint_tol": 1e-3}, marks=SLOW),
        pytest.param("svds", {"tol": np.float32(1e-3)}, marks=SLOW),
        pytest.param("eigs", {}, marks=SLOW),
    ],
)
def test_numbers_given_to_a_solver_are_moved_explicitly(name, options):
    a = matrix("definite")
    with jax.transfer_guard("disallow"):
        result = getattr(eigenjax, name)(a, 2, **options)
    assert np.isfinite(np.asarray(result.residuals)).all()


ESTIMATES = {
    "logdet": lambda a, key: eigenjax.logdet(a, key=key, num_probes=2, krylov_dim=2).estimate,
    "logdet of a matrix": lambda a, key: eigenjax.logdet(a, key=key).estimate,
    "density": lambda a, key: eigenjax.spectral_density(a, key=key, num_probes=2, krylov_dim=4).nodes,
    "warm": lambda a, key: eigenjax.eigsh(a, 2, v0=eigenjax.eigsh(a, 2)).residuals,
    "run": lambda a, key: eigenjax.run(a, 2, progress=False).residuals,
    "eigh": lambda a, key: eigenjax.eigh(a, degeneracy_tol=1e-3).eigenvalues,
    "eig": lambda a, key: eigenjax.eig(a).eigenvectors,
    "svd": lambda a, key: eigenjax.svd(a).s,
    "eigenvalue_condition": lambda a, key: eigenjax.eigenvalue_condition(a),
    "left_eigenvectors": lambda a, key: eigenjax.left_eigenvectors(a, eigenjax.eigs(a, 2)).conditions,
    "gauge_residual": lambda a, key: eigenjax.gauge_residual(eigenjax.eigsh(a, N), a),
    "symmetry_error": lambda a, key: eigenjax.symmetry_error(a, key),
    "spectral_norm": lambda a, key: eigenjax.spectral_norm(a).value,
    "density on a grid": lambda a, key: eigenjax.spectral_density(a, key=key).density(a, width=0.5),
    "distribution": lambda a, key: eigenjax.spectral_density(a, key=key).cdf_standard_error(a),
    "operators": lambda a, key: eigenjax.to_dense(2.0 * eigenjax.as_operator(a).shift(1.0)),
}


@pytest.mark.parametrize("name", slow_but("logdet", ESTIMATES))
def test_nothing_is_moved_implicitly(name):
    a, key = matrix("definite"), jax.random.key(KEY)
    with jax.transfer_guard("disallow"):
        result = ESTIMATES[name](a, key)
    assert np.isfinite(np.asarray(result)).all()
