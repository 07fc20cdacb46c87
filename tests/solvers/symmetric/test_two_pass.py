"""Two-pass Lanczos: no ghosts in the result, bitwise equal passes, correct flags and counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, hessian
from eigenjax.operators.base import matvec
from eigenjax.solvers.symmetric import two_pass
from eigenjax.solvers.symmetric.two_pass import two_pass_lanczos

SPECTRUM = [10, 10, 7, 5, 3, 2, 1, 0, -1, -4, -6, -8]
# The second precision takes as much time again, and adds little coverage.
QUICK_IN_FLOAT64 = pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"], indirect=True
)
OUTLIERS = [*np.linspace(100, 10, 10), *np.linspace(-1, 1, 110)]


def laplacian(rows, columns):
    second = lambda n: 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return np.kron(second(rows), np.eye(columns)) + np.kron(np.eye(rows), second(columns))


@functools.partial(jax.jit, static_argnames=("k", "krylov_dim", "which", "max_matvecs"))
def solve(matrix, tol=None, v0=None, k=5, krylov_dim=None, which="LA", max_matvecs=None):
    return two_pass_lanczos(matrix, k, krylov_dim=krylov_dim, which=which, tol=tol, max_matvecs=max_matvecs, v0=v0)


def both_passes(op, tol, k, krylov_dim):
    """Return the state before the second pass, and the state after it."""
    advance = lambda state: two_pass.step(op, state, which="LA", tol=tol)
    running = lambda state: two_pass.unfinished(state) & (state.step < krylov_dim - 1)
    state = jax.lax.while_loop(running, advance, two_pass.init(op, k=k, krylov_dim=krylov_dim))
    return state, jax.lax.while_loop(two_pass.unfinished, advance, state)


compiled_passes = jax.jit(both_passes, static_argnames=("k", "krylov_dim"))
finalize = jax.jit(lambda op, state, tol: two_pass.finalize(op, state, which="LA", tol=tol))


@pytest.mark.slow
@QUICK_IN_FLOAT64
def test_both_ends_of_a_laplacian(dtype, check_result):
    matrix = laplacian(20, 23).astype(dtype)
    which, tol = ("LA", 1e-5) if dtype == np.float32 else ("SA", 1e-8)
    result = solve(jnp.asarray(matrix), tol, which=which)
    check_result(result, matrix, which=which, tol=tol, complete=True, accuracy=tol)
    assert int(result.num_matvecs) < 2 * 300


@QUICK_IN_FLOAT64
def test_ghosts_stand_in_the_matrix_and_none_comes_out(dtype, rotated, check_result):
    # With 119 steps, where 20 suffice, all ten outliers have copies among the Ritz values.
    matrix = rotated(OUTLIERS).astype(dtype)
    op, unit = as_operator(jnp.asarray(matrix)), np.finfo(dtype).eps
    state, end = compiled_passes(op, 0.0, 10, 120)
    alpha, beta = (np.asarray(x[:119], float) for x in (state.diagonal, state.offdiagonal))
    ritz_values = np.linalg.eigvalsh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
    copies = [np.sum(np.abs(ritz_values - value) < 1e3 * unit * 100) for value in OUTLIERS[:10]]
    assert min(copies) >= 2, copies
    assert np.sum(ritz_values > 5) > 20

    result = finalize(op, end, 100 * unit)
    check_result(result, matrix, which="LA", tol=100 * unit, complete=True, accuracy=100 * unit)


def test_without_the_choice_ghosts_would_come_out(monkeypatch, rotated):
    # Negative control: if every Ritz value counts as a separate pair, some outliers are not found.
    monkeypatch.setattr(two_pass, "_GHOST_ROUNDING", 0.0)
    monkeypatch.setattr(two_pass, "_GHOST_SHARE", 0.0)
    op = as_operator(jnp.asarray(rotated(OUTLIERS), jnp.float32))
    _, state = both_passes(op, 0.0, 10, 120)
    assert not np.asarray(finalize(op, state, 1e-4).converged).all()


@QUICK_IN_FLOAT64
def test_both_passes_agree_to_the_last_bit_and_the_claims_hold(dtype, rotated):
    matrix = rotated(OUTLIERS).astype(dtype)
    before, after = compiled_passes(as_operator(jnp.asarray(matrix)), 0.0, 10, 120)
    assert not bool(before.replaying)
    assert bool(after.replaying)
    assert float(after.drift) == 0
    # Different rounding in the second pass would leave vectors of another length, or zeros.
    vectors = np.asarray(after.vectors, float)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e3 * np.finfo(dtype).eps)
    rayleigh = np.sum(vectors * (vectors @ matrix.astype(float)), axis=1)
    residuals = np.linalg.norm(vectors @ matrix.astype(float) - rayleigh[:, None] * vectors, axis=1)
    assert (residuals <= 1e3 * np.finfo(dtype).eps * 100).all()


@pytest.mark.slow
def test_an_operator_that_changes_between_the_passes_is_reported():
    calls = []

    def drifting(image):
        calls.append(1)
        return np.asarray(image) * np.float32(1 + 0.01 * len(calls))

    diagonal = jnp.asarray(OUTLIERS, jnp.float32)
    product = lambda v: jax.pure_callback(drifting, jax.ShapeDtypeStruct(v.shape, v.dtype), diagonal * v)
    result = jax.jit(lambda v0: two_pass_lanczos(product, 4, v0=v0))(jnp.ones(120))
    assert int(result.status) == Status.INCONSISTENT
    assert not np.asarray(result.converged).all()


# A repeated eigenvalue yields one vector; once the space is exhausted, random rows may still give true pairs.
SPECTRA = {
    "zero": (np.zeros(40), True),
    "identity": (np.ones(40), True),
    "rank 3": ([5, 3, 1] + [0] * 37, True),
    "two values": ([50] * 20 + [1] * 20, False),
    "triple ten": ([10, 10, 10, 5] + [1] * 36, False),
    "clusters": ([2, 2 - 1e-7, 1, 1 - 1e-3, 1 - 1e-5, *np.linspace(-1, 0, 35)], False),
    "cluster 1e-3": ([1, 1 - 1e-3, 0.5, 0.5 - 1e-3, 0.3, *np.linspace(-1, 0, 35)], True),
    "outliers": ([*np.linspace(50, 10, 5), *np.linspace(-1, 1, 35)], True),
    "times 1e-20": (1e-20 * np.linspace(-1, 3, 40), False),
    "times 1e18": (1e18 * np.linspace(-1, 3, 40), False),
}


@pytest.mark.slow
@QUICK_IN_FLOAT64
def test_no_pair_is_wrong_in_a_batch_and_nan_stays_in_its_lane(dtype, rotated, check_result):
    stack = np.stack([rotated(values) for values, _ in SPECTRA.values()]).astype(dtype)
    nan = np.full((1, 40, 40), np.nan, dtype)
    solve_all = jax.jit(jax.vmap(lambda a: two_pass_lanczos(a, 5, krylov_dim=80)))
    results = solve_all(jnp.asarray(np.concatenate([stack, nan])))
    results = [jax.tree.map(lambda x, i=i: np.asarray(x[i]), results) for i in range(len(stack) + 1)]
    for (_, complete), matrix, result in zip(SPECTRA.values(), stack, results, strict=False):
        check_result(result, matrix, which="LA", complete=complete)
    assert int(results[-1].status) == Status.NONFINITE
    assert not results[-1].converged.any()
    assert int(results[-1].num_matvecs) == 1 + 5


@pytest.mark.slow
def test_eager_jitted_and_batched_agree_from_both_ends(rotated, check_result):
    matrix = jnp.asarray(rotated(SPECTRUM), jnp.float32)
    method = functools.partial(two_pass_lanczos, k=3, krylov_dim=24, which="BE")
    eager, jitted = method(matrix), jax.jit(method)(matrix)
    lanes = jax.jit(jax.vmap(method))(jnp.stack([-matrix, matrix]))
    # The second copy of 10 is out of reach of one start vector: the next largest eigenvalue is 7.
    np.testing.assert_allclose(eager.eigenvalues, [10, -8, 7], rtol=0, atol=1e-4)
    check_result(eager, matrix, which="BE")
    for result in (jitted, jax.tree.map(lambda x: x[1], lanes)):
        np.testing.assert_allclose(result.eigenvalues, eager.eigenvalues, rtol=0, atol=1e-4)
        np.testing.assert_allclose(result.eigenvectors, eager.eigenvectors, rtol=0, atol=2e-3)
        assert int(result.num_matvecs) == int(eager.num_matvecs)


@pytest.mark.slow
def test_clusters_are_told_apart_down_to_rounding(float64, rotated, check_result):
    values = [2, 2 - 1e-7, 1, 1 - 1e-3, 1 - 1e-5, *np.linspace(-1, 0.5, 35)]
    matrix = rotated(values)
    result = solve(jnp.asarray(matrix), 1e-12, krylov_dim=160)
    check_result(result, matrix, which="LA", tol=1e-12, complete=True, accuracy=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (3, 3)])
def test_the_smallest_operators(n, k, rotated, check_result):
    stack = np.stack([rotated([4.0, -1.0, 2.0][:n]), np.zeros((n, n)), np.eye(n)]).astype(np.float32)
    results = jax.jit(jax.vmap(lambda a: two_pass_lanczos(a, k)))(jnp.asarray(stack))
    for lane, matrix in enumerate(stack):
        check_result(jax.tree.map(lambda x, lane=lane: x[lane], results), matrix, which="LA", complete=True)


@pytest.mark.slow
def test_complex_hermitian(dtype, rotated, check_result):
    matrix = rotated([5, 4, -3, 2, 1.5, 1, 0, -1], is_complex=True).astype(np.result_type(dtype, np.complex64))
    result = solve(jnp.asarray(matrix), which="LM", k=4)
    assert result.eigenvalues.dtype == dtype
    check_result(result, matrix, which="LM", complete=True, accuracy=1e-5)


def test_a_bfloat16_operator_is_solved_to_its_rounding(rotated):
    matrix = jnp.asarray(rotated(OUTLIERS), jnp.bfloat16)
    result = solve(matrix, 1e-2, k=8)
    truth = np.linalg.eigvalsh(np.asarray(matrix, float))[::-1][:8]
    np.testing.assert_allclose(result.eigenvalues, truth, rtol=0, atol=0.4)
    assert np.asarray(result.converged).all()


@pytest.mark.slow
def test_leaves_of_several_shapes(rotated, check_result):
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(()), "c": jnp.zeros(0), "d": jnp.zeros(2)}
    matrix = rotated([9, 7, -5, 4, 3, 1, 0, -1, 2]).astype(np.float32)

    def product(v):
        image = jnp.asarray(matrix) @ jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(v)])
        a, b, d = jnp.split(image, [6, 7])
        return {"a": a.reshape(2, 3), "b": b[0], "c": v["c"], "d": d}

    result = jax.jit(lambda v0: two_pass_lanczos(product, 3, v0=v0))(jax.tree.map(jnp.ones_like, like))
    check_result(result, matrix, which="LA", complete=True)
    assert result.eigenvectors["a"].shape == (3, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0, 1, 21])
def test_products_are_counted_exactly_and_kept_within_the_budget(budget, rotated, check_result):
    matrix, calls = rotated(SPECTRUM).astype(np.float32), []

    def product(v):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.asarray(matrix) @ v

    method = functools.partial(two_pass_lanczos, product, 3, tol=1e-3, max_matvecs=budget)
    result = jax.jit(lambda v0: method(v0=v0))(jnp.arange(1.0, 13.0))
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(calls)
    assert len(calls) == (3 if budget < 5 else budget)
    check_result(result, matrix, which="LA", tol=1e-3)
    assert np.isfinite(result.residuals).all()
    assert int(result.status) == Status.NOT_CONVERGED


def test_a_tolerance_below_rounding_ends_at_the_last_step(rotated, check_result):
    matrix = rotated(OUTLIERS).astype(np.float32)
    result = solve(jnp.asarray(matrix), 0.0, krylov_dim=60)
    check_result(result, matrix, which="LA", tol=0.0)
    assert int(result.num_matvecs) == 2 * 60 + 5
    assert int(result.status) == Status.STAGNATED


@pytest.mark.parametrize("v0", [np.zeros(12), np.full(12, 3e38), np.full(12, 1e-30)])
def test_any_start_vector(v0, rotated, check_result):
    matrix = rotated([10, 8, 7, 5, 3, 2, 1, 0, -1, -4, -6, -8]).astype(np.float32)
    result = solve(jnp.asarray(matrix), v0=jnp.asarray(v0, jnp.float32), k=3)
    check_result(result, matrix, which="LA", complete=True)


def temporaries(function, *args):
    analysis = jax.jit(function).lower(*args).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 8])
def test_memory_is_twice_the_results_and_six_vectors(k, rng):
    kernels = [jnp.asarray(rng.normal(size=(150, 150)), jnp.float32) for _ in range(3)]
    loss = lambda params, batch: jnp.mean(functools.reduce(lambda x, w: jnp.tanh(x @ w), params, batch) ** 2)
    op = hessian(loss, kernels, jnp.asarray(rng.normal(size=(16, 150)), jnp.float32))
    product = temporaries(matvec, op, jax.tree.map(jnp.zeros_like, kernels))
    used = temporaries(lambda op: two_pass_lanczos(op, k, krylov_dim=32), op)
    assert used <= product + (2 * k + 6) * 4 * op.size


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 6}, ValueError, "k=6"),
        ({"which": "SM"}, ValueError, "sigma"),
        ({"krylov_dim": 2, "k": 3}, ValueError, "krylov_dim=2: give 3 or more"),
        ({"krylov_dim": 9.5}, TypeError, "krylov_dim=9.5"),
        ({"max_matvecs": -1}, ValueError, "max_matvecs=-1"),
        ({"max_matvecs": True}, TypeError, "max_matvecs=True"),
        ({"v0": np.ones(4, np.float32)}, ValueError, "v0: the array has shape"),
    ],
)
def test_arguments_that_do_not_fit_say_so(options, error, message):
    with pytest.raises(error, match=message):
        two_pass_lanczos(jnp.eye(5), **({"k": 1} | options))
