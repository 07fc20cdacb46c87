"""Deflated power iteration beyond the acceptance tests: momentum, early ends, both ends of the spectrum."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, deflated_power_iteration

SPECTRUM = [16, 12, -9, 6, 4, 2, 1, -1, 0, 0.5]


@pytest.fixture
def matrix(rotated):
    return rotated(SPECTRUM).astype(np.float32)


@pytest.fixture(scope="module")
def with_momentum():
    """Compile once for all momenta: momentum is a traced argument."""
    return jax.jit(lambda a, momentum: deflated_power_iteration(a, 3, momentum=momentum, max_iter=300))


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0])
def test_with_momentum_the_eigenvalue_is_the_operators_own(with_momentum, momentum, matrix, check_result):
    result = with_momentum(jnp.asarray(matrix), momentum)
    check_result(result, matrix, tol=1e-4)
    assert np.any(result.converged)
    np.testing.assert_allclose(np.asarray(result.eigenvalues)[np.asarray(result.converged)][0], 16, rtol=1e-4)
    if momentum < 0.95:
        check_result(result, matrix, tol=1e-4, complete=True, accuracy=1e-4)


def test_momentum_spares_products_where_eigenvalues_are_close(with_momentum, rotated):
    matrix = jnp.asarray(rotated([20, 18, 14, 9, 5, 4, 3, 2, 1, 0]), jnp.float32)
    plain, helped = with_momentum(matrix, 0.0), with_momentum(matrix, 0.85)
    assert int(plain.status) == int(helped.status) == Status.CONVERGED
    assert int(helped.num_matvecs) < 0.8 * int(plain.num_matvecs)


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
def test_an_early_end_skips_the_work_that_is_left(matrix, batched):
    executed = []

    def solve(a):
        def product(v):
            jax.debug.callback(lambda: executed.append(1))
            return a @ v

        return deflated_power_iteration(product, 3, v0=jnp.ones(10))

    result = jax.vmap(solve)(jnp.asarray(matrix)[None]) if batched else solve(jnp.asarray(matrix))
    jax.effects_barrier()
    assert len(executed) == int(np.sum(result.num_matvecs))
    assert len(executed) <= 3 * 100 / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "expected"), [("LM", [16, 12, -9]), ("LA", [16, 12, 6]), ("SA", [-9, -1, 0]), ("BE", [16, -9, 12])]
)
def test_which_end(which, expected, matrix, check_result):
    result = deflated_power_iteration(jnp.asarray(matrix), 3, which=which, max_iter=1000, tol=1e-5)
    check_result(result, matrix, which=which, tol=1e-5, complete=True, accuracy=1e-4)
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=0, atol=1e-3)


def test_a_tie_of_opposite_signs_is_not_reported(rotated):
    matrix = rotated([5, -5, 1, 0.5, 0, 0, 0, 0, 0, 0]).astype(np.float32)
    result = deflated_power_iteration(jnp.asarray(matrix), 1)
    assert int(result.status) == Status.NOT_CONVERGED
    vector, value = np.asarray(result.eigenvectors[0], float), float(result.eigenvalues[0])
    residual = np.linalg.norm(matrix @ vector - value * vector)
    np.testing.assert_allclose(float(result.residuals[0]), residual, rtol=1e-4)


@pytest.mark.parametrize("max_iter", [0, -3, 2.5, "10", True])
def test_max_iter_is_a_positive_int(max_iter):
    with pytest.raises((TypeError, ValueError), match=f"max_iter={max_iter!r}"):
        deflated_power_iteration(jnp.eye(3), 1, max_iter=max_iter)


def test_the_smallest_magnitudes_are_eigshs_task():
    with pytest.raises(ValueError, match="eigsh"):
        deflated_power_iteration(jnp.eye(3), 1, which="SM")


def test_one_iteration_a_pair_is_judged_truly(matrix, check_result):
    result = deflated_power_iteration(jnp.asarray(matrix), 3, max_iter=1)
    check_result(result, matrix, tol=1e-4)
    assert int(result.status) == Status.NOT_CONVERGED


def test_the_same_key_gives_the_same_bits(matrix):
    solve = lambda seed: deflated_power_iteration(jnp.asarray(matrix), 2, key=jax.random.key(seed))
    first, again, other = solve(3), solve(3), solve(4)
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(first.eigenvectors, other.eigenvectors)


@pytest.mark.parametrize("which", ["SA", pytest.param("LA", marks=pytest.mark.slow)])
def test_of_two_eigenvalues_the_one_asked_for_is_found_however_few_it_has(which, rotated):
    solve = jax.jit(lambda a, key: deflated_power_iteration(a, 2, which=which, key=key))
    for low, high in ((0, 1), (-3, 1), (4, 5)):
        for many in (1, 4, 10, 17):
            matrix = jnp.asarray(rotated(np.repeat([high, low], [many, 20 - many]).astype(float)), jnp.float32)
            wanted = np.sort(np.repeat([high, low], [many, 20 - many]))[:: 1 if which == "SA" else -1][:2]
            for seed in range(2):
                result = solve(matrix, jax.random.key(seed))
                assert int(result.status) == Status.CONVERGED, (low, high, many)
                np.testing.assert_allclose(result.eigenvalues, wanted, atol=1e-3)


def test_vectors_stay_clear_of_those_found_where_the_shift_lets_what_rounding_leaves_grow(rotated):
    # For an interior eigenvalue of the shifted operator, components along earlier eigenvectors do not decay in v.
    values = np.r_[1.0, 2, 3, np.linspace(5, 10, 12)]
    result = deflated_power_iteration(jnp.asarray(rotated(values), jnp.float32), 3, which="SA", max_iter=300)
    np.testing.assert_allclose(result.eigenvalues, values[:3], rtol=1e-3)
    vectors = np.asarray(result.eigenvectors, float)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-5)
