"""Invariance of `eigsh` to units, shifts, keys, jit and the other lanes of a batch; detection of NaN."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, eigsh

pytestmark = pytest.mark.usefixtures("float64")

N, K = 60, 4
SPECTRUM = np.linspace(-1, 1, N) ** 3 * 8
TOL = 1e-10


@pytest.fixture
def matrix(rotated):
    return rotated(SPECTRUM)


@functools.partial(jax.jit, static_argnames="k")
def solved(matrix, key=None, k=K):
    return eigsh(matrix, k, tol=TOL, key=key)


@jax.jit
def batch_solved(matrices):
    return jax.vmap(lambda a: eigsh(a, K, tol=TOL))(matrices)


def lane_of(results, lane):
    return jax.tree.map(lambda x: x[lane], results)


@pytest.mark.slow
def test_k_pairs_are_the_first_of_k_plus_one(matrix):
    fewer, more = solved(jnp.asarray(matrix)), solved(jnp.asarray(matrix), k=K + 1)
    np.testing.assert_allclose(fewer.eigenvalues, more.eigenvalues[:K], rtol=0, atol=1e-12)
    np.testing.assert_allclose(fewer.eigenvectors, more.eigenvectors[:K], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1e-150, 0.0), (1e150, 0.0), (1.0, 100.0), (0.25, -7.0)])
def test_scaling_and_shifting_the_operator_does_so_to_its_eigenvalues(scale, shift, matrix):
    plain = solved(jnp.asarray(matrix))
    moved = solved(jnp.asarray(scale * matrix + shift * np.eye(N)))
    size = max(8 * scale, abs(shift))
    np.testing.assert_allclose(
        moved.eigenvalues, scale * np.asarray(plain.eigenvalues) + shift, rtol=0, atol=1e-11 * size
    )
    np.testing.assert_allclose(moved.eigenvectors, plain.eigenvectors, rtol=0, atol=1e-6)
    if shift == 0:
        # Convergence is relative to ||A||: units change nothing.
        assert abs(int(moved.num_matvecs) - int(plain.num_matvecs)) <= 4
    assert int(moved.status) == Status.CONVERGED


@pytest.mark.slow
def test_the_same_key_gives_the_same_bits_and_another_key_another_start(matrix):
    solve = lambda seed: solved(jnp.asarray(matrix), jax.random.key(seed))
    chex.assert_trees_all_equal(solve(3), solve(3))
    one, other = solve(3), solve(4)
    assert not np.array_equal(one.residuals, other.residuals)
    np.testing.assert_allclose(one.eigenvalues, other.eigenvalues, rtol=0, atol=1e-12)


def test_no_key_is_key_zero_and_jit_changes_nothing(matrix):
    direct = eigsh(jnp.asarray(matrix), K, tol=TOL)
    jitted = solved(jnp.asarray(matrix))
    assert int(direct.num_matvecs) == int(jitted.num_matvecs)
    np.testing.assert_allclose(direct.eigenvalues, jitted.eigenvalues, rtol=0, atol=1e-13)
    np.testing.assert_allclose(direct.eigenvectors, jitted.eigenvectors, rtol=0, atol=1e-10)
    keyed = solved(jnp.asarray(matrix), jax.random.key(0))
    np.testing.assert_allclose(keyed.residuals, jitted.residuals, rtol=1e-2)


def neighbors(matrix):
    """Return matrices for other lanes of a batch: the same one, one with many restarts, one with NaN, and zero."""
    path = 2 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1)
    broken = matrix.copy()
    broken[3, 3] = np.nan
    return {"itself": matrix, "hard": np.linalg.matrix_power(path, 3), "NaN": broken, "zero": 0 * matrix}


@pytest.mark.slow
def test_a_lane_is_the_single_solve_whatever_stands_beside_it(matrix, check_result):
    easy = np.diag([10.0, 9, 8, 7] + [0] * (N - 4))
    single = solved(jnp.asarray(matrix))
    reference = None
    for name, neighbor in neighbors(matrix).items():
        results = batch_solved(jnp.asarray(np.stack([easy, neighbor, matrix])))
        beside = lane_of(results, 0), lane_of(results, 2)
        reference = beside if reference is None else reference
        chex.assert_trees_all_equal(beside, reference)
        middle = lane_of(results, 1)
        if name == "NaN":
            assert int(middle.status) == Status.NONFINITE
            assert np.isnan(middle.eigenvalues).all()
            assert not np.any(middle.converged)
        else:
            check_result(middle, neighbor, which="LA", tol=TOL, complete=True, accuracy=1e-9)
    assert int(reference[1].num_matvecs) == int(single.num_matvecs)
    np.testing.assert_allclose(reference[1].eigenvalues, single.eigenvalues, rtol=0, atol=1e-13)
    np.testing.assert_allclose(reference[1].eigenvectors, single.eigenvectors, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_nan_at_step_j_is_told_and_stops_only_its_own_lane():
    # Krylov vectors of a path that start at its end: entry j of the vector is zero until the j-th matvec.
    path = 2 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1)

    def solve(j):
        position = jnp.arange(N) == j
        poisoned = lambda v: jnp.asarray(path) @ v + jnp.where(jnp.any(position & (v != 0)), jnp.nan, 0.0)
        return eigsh(as_operator(poisoned, like=jnp.ones(N)), K, tol=1e-8, v0=jnp.eye(N)[0], max_matvecs=200)

    results = jax.vmap(solve)(jnp.asarray([0, 3, 17, 25, 10**6]))
    for lane, j in enumerate([0, 3, 17, 25]):
        result = lane_of(results, lane)
        assert int(result.status) == Status.NONFINITE, j
        assert np.isnan(result.eigenvalues).all()
        assert not np.any(result.converged)
        # The basis holds 20 vectors: the solve ends at the convergence check or restart that follows the NaN.
        assert j + 1 <= int(result.num_matvecs) <= j + 12
    healthy = lane_of(results, 4)
    assert int(healthy.status) == Status.CONVERGED
    np.testing.assert_allclose(
        healthy.eigenvalues, 4 * np.sin(np.pi * np.arange(N, N - K, -1) / (2 * (N + 1))) ** 2, rtol=0, atol=1e-10
    )


@pytest.mark.slow
def test_an_operator_may_itself_call_eigsh(matrix):
    # The operator is diag(0 .. 11) deflated by its dominant eigenpair, recomputed in each matvec.
    small = jnp.asarray(np.diag(np.arange(12.0)))

    def product(v):
        inner = eigsh(small, 1, krylov_dim=6, tol=1e-12)
        top = inner.eigenvectors[0]
        return small @ v - inner.eigenvalues[0] * top * (top @ v)

    result = eigsh(product, 2, v0=jnp.ones(12), krylov_dim=6, tol=1e-8)
    np.testing.assert_allclose(result.eigenvalues, [10, 9], rtol=0, atol=1e-9)
    assert int(result.status) == Status.CONVERGED
