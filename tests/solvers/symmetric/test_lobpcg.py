"""LOBPCG against dense float64 arithmetic: preconditioning, copies, degenerate shapes, correct status."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status
from eigenjax.solvers.convergence.status import default_tol
from eigenjax.solvers.symmetric.lobpcg import _orthonormalize_against, lobpcg

# A block of 6 vectors for k = 5: one guard vector.
N, BLOCK = 60, 6


@partial(jax.jit, static_argnames=("k", "which"))
def _solve(a, preconditioner, tol, v0, max_matvecs, k, which):
    return lobpcg(a, k, preconditioner=preconditioner, which=which, tol=tol, v0=v0, max_matvecs=max_matvecs)


def solve(a, preconditioner=None, tol=None, v0=None, max_matvecs=3000, *, k=5, which="SA"):
    """Solve with one program for each shape and dtype; the matrix, the tolerance and the budget are traced."""
    tol = default_tol(a.dtype) if tol is None else tol
    return _solve(a, preconditioner, tol, v0, max_matvecs, k, which)


def laplacian(size):
    return 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)


@pytest.fixture
def spread(rotated):
    """Construct a matrix with well-separated eigenvalues."""
    return rotated(np.linspace(-3, 5, N) ** 3)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["SA", "LA"])
def test_a_preconditioner_saves_two_thirds_of_the_products(which, dtype, rng, check_result):
    # The operator is -1000 u_xx - u_yy + V u; the preconditioner inverts it without V, shifted below the spectrum.
    constant = np.kron(1000 * laplacian(4), np.eye(15)) + np.kron(np.eye(4), laplacian(15))
    shifted = constant - (np.linalg.eigvalsh(constant)[0] - 0.6) * np.eye(N)
    sign = 1 if which == "SA" else -1
    held = (sign * (constant + np.diag(rng.uniform(-0.5, 0.5, N)))).astype(dtype)
    tol = 1e-10 if dtype == np.float64 else 1e-6
    helped = solve(jnp.asarray(held), jnp.asarray(np.linalg.inv(shifted), dtype), tol, which=which)
    plain = solve(jnp.asarray(held), None, tol, which=which)
    check_result(helped, held, which=which, tol=tol, complete=True)
    check_result(plain, held, which=which, tol=tol)
    assert int(helped.num_matvecs) <= int(plain.num_matvecs) / 3


@pytest.mark.parametrize("which", ["SA", "LA"])
@pytest.mark.parametrize(
    "spectrum",
    [
        pytest.param([1, 1, 1, 1, 2, 2.5, *range(4, N - 2)], id="multiplicity 4"),
        pytest.param([1, 1 + 1e-3, 1 + 1e-5, 1 + 1e-7, 2, 2 + 1e-7, *range(4, N - 2)], id="clusters"),
        pytest.param(np.zeros(N), id="zero"),
        pytest.param(np.ones(N), id="identity"),
        pytest.param([-3, -2, -1, *np.zeros(N - 3)], id="rank 3"),
        pytest.param([1, 50] * (N // 2), id="two"),
    ],
)
def test_all_copies_are_found(spectrum, which, dtype, rotated, check_result):
    values = np.asarray(spectrum, float)
    matrix = rotated(values if which == "SA" else -values).astype(dtype)
    check_result(solve(jnp.asarray(matrix), which=which), matrix, which=which, complete=True)


@pytest.mark.parametrize("factor", [1e-20, 1e18])
def test_the_unit_does_not_matter(factor, spread, check_result):
    matrix = (factor * spread).astype(np.float32)
    check_result(solve(jnp.asarray(matrix)), matrix, which="SA", complete=True)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "k"), [(1, 1), (2, 1), (3, 3), (9, 6)])
def test_a_space_smaller_than_the_trial_space(size, k, rotated, check_result):
    matrix = rotated(np.arange(1.0, size + 1)).astype(np.float32)
    for tol, complete in [(None, True), (0.0, False)]:
        result = solve(jnp.asarray(matrix), None, tol, k=k)
        check_result(result, matrix, which="SA", tol=tol, complete=complete)
        np.testing.assert_allclose(result.eigenvalues, np.arange(1.0, k + 1), rtol=1e-5)


@pytest.mark.slow
def test_complex_hermitian(dtype, rotated, check_result):
    matrix = rotated(np.arange(N) ** 2, is_complex=True).astype(np.result_type(dtype, np.complex64))
    which = "SA" if dtype == np.float32 else "LA"
    check_result(solve(jnp.asarray(matrix), which=which), matrix, which=which, complete=True)


@pytest.mark.slow
def test_pytrees(spread, check_result):
    matrix, sizes = jnp.asarray(spread, jnp.float32), {"a": (4, 5), "b": (), "c": (N - 21,)}
    inverse = jnp.asarray(np.linalg.inv(spread + 28 * np.eye(N)), jnp.float32)
    structure = {name: jnp.zeros(shape) for name, shape in sizes.items()}

    def product(matrix, v):
        y = matrix @ jnp.concatenate([v["a"].reshape(-1), v["b"][None], v["c"]])
        return {"a": y[:20].reshape(4, 5), "b": y[20], "c": y[21:]}

    @jax.jit
    def solve_tree(v0):
        return lobpcg(partial(product, matrix), 5, preconditioner=partial(product, inverse), v0=v0)

    result = solve_tree(structure)
    assert {name: leaf.shape for name, leaf in result.eigenvectors.items()} == {
        name: (5, *shape) for name, shape in sizes.items()
    }
    check_result(result, matrix, which="SA", complete=True)


@pytest.mark.slow
def test_a_nan_lane_leaves_the_others_alone(spread, check_result):
    matrix = spread.astype(np.float32)
    lanes = jnp.stack([jnp.asarray(matrix), jnp.full((N, N), jnp.nan), -jnp.asarray(matrix)])
    result = jax.vmap(lambda a: lobpcg(a, 5))(lanes)
    np.testing.assert_array_equal(result.status, [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED])
    assert np.isnan(result.eigenvalues[1]).all()
    for lane in (0, 2):
        check_result(jax.tree.map(lambda x, i=lane: x[i], result), lanes[lane], which="SA", complete=True)
    # The lane takes as many matvecs as a separate solve.
    assert int(result.num_matvecs[0]) == int(solve(lanes[0]).num_matvecs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_preconditioner_that_is_not_finite_is_reported(bad, spread):
    result = solve(jnp.asarray(spread, jnp.float32), jnp.full((N, N), bad, jnp.float32))
    assert int(result.status) == Status.NONFINITE


def test_exact_vectors_end_at_once_with_their_signs(spread, check_result):
    matrix = spread.astype(np.float32)
    vectors = -np.linalg.eigh(spread)[1].T[:5].astype(np.float32)
    result = solve(jnp.asarray(matrix), v0=jnp.asarray(vectors))
    assert int(result.num_matvecs) == BLOCK
    check_result(result, matrix, which="SA", complete=True)
    np.testing.assert_allclose(result.eigenvectors, vectors, atol=1e-3)


@pytest.mark.parametrize("rows", ["zero", "nan", "duplicates", "unwanted"])
def test_a_start_block_that_is_worth_little(rows, spread, check_result):
    matrix, vectors = spread.astype(np.float32), np.linalg.eigh(spread)[1].T
    start = {
        "zero": np.zeros((5, N)),
        "nan": np.full((5, N), np.nan),
        "duplicates": np.tile(vectors[0], (5, 1)),
        "unwanted": vectors[-5:],
    }[rows]
    result = solve(jnp.asarray(matrix), None, 1e-5, jnp.asarray(start, jnp.float32))
    check_result(result, matrix, which="SA", tol=1e-5, complete=rows != "unwanted")


def test_one_start_vector_is_taken(spread, check_result):
    matrix, vectors = spread.astype(np.float32), np.linalg.eigh(spread)[1].T
    first = jnp.asarray(-vectors[0], jnp.float32)
    result = solve(jnp.asarray(matrix), None, None, first, 0)
    assert int(result.num_matvecs) == BLOCK
    assert float(result.eigenvectors[0] @ first) > 0.99
    np.testing.assert_array_equal(result.converged, [True, False, False, False, False])


def test_tol_zero_ends_as_stagnated(dtype, spread, check_result):
    matrix = spread.astype(dtype)
    result = solve(jnp.asarray(matrix), None, 0.0)
    assert int(result.status) == Status.STAGNATED
    assert not np.any(result.converged)
    check_result(result, matrix, which="SA", tol=0.0)
    np.testing.assert_array_less(result.residuals, 32 * np.finfo(dtype).eps * 125)


@pytest.mark.parametrize("max_matvecs", [0, 1, BLOCK, 2 * BLOCK, 3 * BLOCK, 50])
def test_a_budget_is_kept_and_the_flags_are_true(max_matvecs, spread, check_result):
    matrix = spread.astype(np.float32)
    result = solve(jnp.asarray(matrix), None, 1e-5, None, max_matvecs)
    assert int(result.num_matvecs) <= max(BLOCK, max_matvecs)
    assert int(result.status) == Status.NOT_CONVERGED
    check_result(result, matrix, which="SA", tol=1e-5)


@pytest.mark.slow
def test_every_product_is_counted(spread):
    executed = []

    def product(v):
        jax.debug.callback(lambda _: executed.append(1), v)
        return jnp.asarray(spread, jnp.float32) @ v

    result = lobpcg(product, 5, v0=jnp.ones(N))
    jax.effects_barrier()
    assert len(executed) == int(result.num_matvecs) > 3 * BLOCK


def test_a_singular_preconditioner_drops_directions(spread, check_result):
    # With T of rank 2 most of W is dependent. Directions outside the range are not found, and pairs remain correct.
    matrix, vectors = spread.astype(np.float32), np.linalg.eigh(spread)[1]
    projector = (vectors[:, :2] @ vectors[:, :2].T).astype(np.float32)
    result = solve(jnp.asarray(matrix), jnp.asarray(projector))
    check_result(result, matrix, which="SA")
    assert np.isfinite(result.residuals).all()
    np.testing.assert_allclose(result.eigenvalues[:2], np.linalg.eigvalsh(spread)[:2], rtol=1e-4)


@pytest.mark.slow
def test_bfloat16_operators_are_judged_by_their_own_rounding(spread, check_result):
    matrix = jnp.asarray(spread, jnp.bfloat16)
    result = solve(matrix, None, default_tol(np.float32))
    assert int(result.status) == Status.STAGNATED
    assert result.eigenvectors.dtype == jnp.float32
    wide = np.asarray(matrix.astype(jnp.float32), float)
    np.testing.assert_allclose(result.eigenvalues, np.linalg.eigvalsh(wide)[:5], atol=0.02 * 125)


def test_an_operator_that_is_not_symmetric_is_reported(spread, rng):
    result = solve(jnp.asarray(spread + 5 * rng.standard_normal((N, N)), jnp.float32), max_matvecs=120)
    assert int(result.status) == Status.INCONSISTENT


def test_what_is_dependent_becomes_zero_rows(rng):
    q, _ = np.linalg.qr(rng.standard_normal((50, 6)))
    basis, fresh = q.T[:3], q.T[3:]
    # In the span; nearly in the span; independent; a multiple of the previous one; close to a multiple; zero.
    block = [basis[0] + basis[1], basis[1] + 1e-4 * fresh[0], 1e-20 * fresh[1], fresh[1], fresh[1] + 3e-3 * fresh[2]]
    block = jnp.asarray([*block, np.zeros(50)], jnp.float32)
    residuals = np.asarray(_orthonormalize_against(block, jnp.asarray(basis, jnp.float32)), float)
    lengths = np.linalg.norm(residuals, axis=1)
    np.testing.assert_allclose(np.sort(lengths), [0, 0, 0, 1, 1, 1], atol=1e-5)
    np.testing.assert_allclose(residuals @ residuals.T, np.diag(lengths**2), atol=1e-6)
    np.testing.assert_allclose(residuals @ basis.T, 0, atol=1e-6)
    # No independent direction is lost.
    np.testing.assert_allclose(np.linalg.norm(residuals @ fresh.T, axis=0), 1, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"which": "LM"}, "which='LM'.*eigsh without a preconditioner"),
        ({"which": "BE"}, "which='BE'.*eigsh without a preconditioner"),
        ({"which": "XX"}, "which='XX'"),
        ({"k": 11}, "k=11"),
        ({"preconditioner": jnp.eye(9)}, "preconditioner"),
        ({"v0": jnp.ones(9)}, "v0.*k=2"),
        ({"v0": jnp.ones((3, 10))}, "v0.*k=2"),
        ({"v0": {"a": jnp.ones(10)}}, "v0"),
        ({"max_matvecs": -1}, "max_matvecs=-1"),
        ({"max_matvecs": 2.5}, "max_matvecs=2.5"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        lobpcg(jnp.eye(10), **{"k": 2, **options})
