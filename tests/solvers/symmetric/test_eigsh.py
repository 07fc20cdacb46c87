"""Solver `eigsh` at an end of the spectrum: accurate, with fewer matvecs than ARPACK, and an exact count of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

from eigenjax import Status, eigsh
from eigenjax.operators.convert import MatrixOperator

pytestmark = pytest.mark.usefixtures("float64")

SIDES = (20, 23)
CALLS = []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CountedMatrix(MatrixOperator):
    """Matrix that records each executed matvec on the host."""

    def mv(self, vector):
        jax.debug.callback(lambda _: CALLS.append(1), vector[0])  # in a batch, one call for each lane
        return super().mv(vector)


def path(n):
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


@functools.cache
def grid():
    return np.kron(path(SIDES[0]), np.eye(SIDES[1])) + np.kron(np.eye(SIDES[0]), path(SIDES[1]))


def grid_eigenvalues():
    of_path = lambda n: 4 * np.sin(np.pi * np.arange(1, n + 1) / (2 * (n + 1))) ** 2
    return np.sort(np.add.outer(of_path(SIDES[0]), of_path(SIDES[1])).ravel())


@functools.cache
def hessian_like(rotated, outliers=10, n=300):
    bulk = np.random.default_rng(3).uniform(-0.1, 1, n - outliers)
    return rotated([*np.linspace(5, 50, outliers), *bulk])


def solved_grid(which, tol, verify=True):
    return eigsh(jnp.asarray(grid()), 6, which=which, tol=tol, verify=verify)


def arpack(matrix, k, which, krylov_dim, residual):
    """Count the matvecs of ARPACK for true residuals below `residual`, at the loosest tol that attains them."""
    start = np.random.default_rng(0).standard_normal(len(matrix))
    for tol in 10.0 ** np.arange(-3, -15, -0.5):
        calls = []
        operator = scipy.sparse.linalg.LinearOperator(
            matrix.shape, lambda v, calls=calls: calls.append(1) or matrix @ v, dtype=float
        )
        values, vectors = scipy.sparse.linalg.eigsh(operator, k, which=which, ncv=krylov_dim, tol=tol, v0=start)
        if np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max() <= residual:
            return len(calls)
    raise AssertionError("ARPACK did not reach it")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["SA", "LA"])
def test_the_ends_of_a_grid_laplacian_have_their_closed_form(which, check_result):
    result = solved_grid(which, 1e-10)
    ascending = grid_eigenvalues()
    expected = ascending[:6] if which == "SA" else ascending[:-7:-1]
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=0, atol=1e-10)
    check_result(result, grid(), which=which, tol=1e-10, complete=True)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["SA", "LA"])
def test_a_grid_laplacian_takes_no_more_products_than_arpack(which):
    for tol in (1e-6, 1e-10):
        # ARPACK has no missed-pair search either.
        result = solved_grid(which, tol, verify=False)
        # Both hold 22 vectors; `eigsh` stops at residuals of tol * ||A||.
        theirs = arpack(grid(), 6, which, 22, tol * grid_eigenvalues()[-1])
        assert int(result.num_matvecs) <= theirs, tol


@pytest.mark.slow
def test_a_hessian_takes_about_two_products_a_pair_and_fewer_than_arpack(rotated, check_result):
    matrix = hessian_like(rotated)
    result = eigsh(jnp.asarray(matrix), 10, tol=1e-6, verify=False)
    check_result(result, matrix, which="LA", tol=1e-6, complete=True, accuracy=1e-11)
    assert int(result.num_matvecs) <= 23
    assert int(result.num_matvecs) <= arpack(matrix, 10, "LA", 30, 1e-6 * 50)


@pytest.mark.slow
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-5])
def test_error_bounds_bound_the_error_and_estimates_say_more_than_the_residuals(tol, rotated):
    solves = [(solved_grid(which, tol), grid()) for which in ("SA", "LA")]
    solves.append((eigsh(jnp.asarray(hessian_like(rotated)), 10, tol=tol, verify=False), hessian_like(rotated)))
    for result, matrix in solves:
        values, bounds = np.asarray(result.eigenvalues), np.asarray(result.error_bounds)
        to_the_nearest = np.abs(values[:, None] - np.linalg.eigvalsh(matrix)).min(axis=1)
        assert (to_the_nearest <= bounds + 1e-12).all(), to_the_nearest - bounds
        rounding = 16.001 * np.finfo(float).eps * np.abs(np.linalg.eigvalsh(matrix)).max()
        assert (bounds >= np.asarray(result.residuals)).all()
        assert (np.asarray(result.error_estimates) <= np.maximum(np.asarray(result.residuals), rounding)).all()
    # Outliers are well separated: their estimates are squared residuals over gaps, and bound the errors to rounding.
    estimates = np.asarray(result.error_estimates)
    assert (estimates <= np.maximum(20 * tol * np.asarray(result.residuals), rounding)).all()
    assert (to_the_nearest <= estimates + 1e-12).all()


def test_of_a_small_matrix_the_quadratic_bounds_are_certified(rotated):
    matrix = rotated(np.linspace(1, 2, 12))
    result = eigsh(jnp.asarray(matrix), 3)
    assert (np.asarray(result.error_estimates) <= np.asarray(result.error_bounds)).all()
    assert np.max(result.error_estimates) <= 4 * np.finfo(float).eps * 2.0001
    assert np.max(result.error_bounds) <= 20 * np.finfo(float).eps * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"which": "LA"}, {"which": "SA"}, {"which": "LM"}, {"which": "BE"}, {"sigma": 0.51}]
)
@pytest.mark.parametrize("seed", range(3))
def test_error_bounds_hold_where_a_cluster_is_cut(options, seed):
    # Pairs 1e-4 apart at both ends and inside: a Ritz vector may mix two eigenvectors, within its residual.
    diagonal = np.linspace(-0.9, 0.9, 70)
    diagonal[[0, 1, 35, 36, -2, -1]] = -1.0, -1.0 + 1e-4, 0.5, 0.5001, 1 - 1e-4, 1.0
    result = eigsh(jnp.asarray(np.diag(diagonal)), 3, tol=3e-4, key=jax.random.key(seed), verify=False, **options)
    error = np.abs(np.asarray(result.eigenvalues)[:, None] - diagonal).min(axis=1)
    assert (error <= np.asarray(result.error_bounds)).all()


@pytest.mark.slow
def test_the_gap_is_the_distance_to_the_first_eigenvalue_not_wanted(rotated):
    matrix = hessian_like(rotated, outliers=14)
    truth = np.linalg.eigvalsh(matrix)[::-1]
    result = eigsh(jnp.asarray(matrix), 10, tol=1e-12)
    np.testing.assert_allclose(result.gap, truth[9] - truth[10], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("end", ["converged", "at rounding", "non-symmetric"])
def test_products_are_counted_exactly(block_size, end, rotated, rng):
    matrix = rotated(np.linspace(-1, 1, 50) ** 3)
    if end == "non-symmetric":
        matrix = matrix + 0.1 * rng.standard_normal((50, 50))
    jax.effects_barrier()
    CALLS.clear()
    tol = 0.0 if end == "at rounding" else 1e-8
    result = eigsh(CountedMatrix(jnp.asarray(matrix)), 3, tol=tol, block_size=block_size, max_matvecs=200)
    jax.block_until_ready(result)
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(CALLS) > 20
    assert (
        int(result.status)
        in {
            "converged": (Status.CONVERGED,),
            "at rounding": (Status.STAGNATED, Status.NOT_CONVERGED),
            "non-symmetric": (Status.INCONSISTENT,),
        }[end]
    )
