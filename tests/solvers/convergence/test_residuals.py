"""Verification of residuals: one matvec if the recurrence is right, one for each pair if it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.solvers.convergence.residuals import recurrence_residuals, true_residuals
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.finalize import finalize
from eigenjax.vectors.pseudorandom import seed_of

VALUES = np.array([5.0, 3.0, 2.0, 1.0, -1.0, -4.0])


def residuals_verified(matrix, values, vectors, coefficients, direction):
    return recurrence_residuals(
        as_operator(jnp.asarray(matrix, jnp.float32)),
        jnp.asarray(values, jnp.float32),
        jnp.asarray(vectors, jnp.float32),
        jnp.asarray(coefficients, jnp.float32),
        jnp.asarray(direction, jnp.float32),
        jnp.float32(5.0),
        jax.random.key(0),
    )


@pytest.fixture
def pairs(rotated):
    """Return a matrix, three of its eigenvalues, and their eigenvectors."""
    matrix = rotated(VALUES)
    values, vectors = np.linalg.eigh(matrix)
    return matrix, values[[0, 3, 5]], vectors.T[[0, 3, 5]]


def test_exact_pairs_cost_one_product(pairs):
    residuals, discrepancy, products = residuals_verified(*pairs, np.zeros(3), np.zeros(6))
    assert int(products) == 1
    assert float(discrepancy) < 1e-5
    assert (np.asarray(residuals) < 1e-5).all()


def test_claims_that_hold_are_believed(pairs):
    # The recurrence states A v = theta v + c d: take theta with an error of c, and d = v, for one pair.
    matrix, values, vectors = pairs
    residuals, _, products = residuals_verified(matrix, values - [0, 0, 0.25], vectors, [0, 0, 0.25], vectors[2])
    assert int(products) == 1
    np.testing.assert_allclose(residuals, [0, 0, 0.25], atol=1e-5)


def test_claims_that_do_not_hold_are_recomputed(pairs):
    matrix, values, vectors = pairs
    lopsided = matrix + 0.1 * np.eye(6, k=2)
    residuals, discrepancy, products = residuals_verified(lopsided, values, vectors, np.zeros(3), np.zeros(6))
    assert int(products) == 4
    expected = np.linalg.norm(vectors @ lopsided.T - values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(residuals, expected, rtol=1e-4)
    assert float(discrepancy) > 0.01


def test_one_wrong_claim_among_right_ones_is_found(pairs):
    matrix, values, vectors = pairs
    residuals, _, products = residuals_verified(
        matrix, values + np.array([0, 1e-3, 0]), vectors, np.zeros(3), np.zeros(6)
    )
    assert int(products) == 4
    np.testing.assert_allclose(residuals, [0, 1e-3, 0], atol=1e-5)


def test_only_the_lane_in_doubt_is_counted_as_recomputed(pairs):
    matrix, values, vectors = pairs
    solve = lambda a: residuals_verified(a, values, vectors, np.zeros(3), np.zeros(6))
    residuals, _, products = jax.vmap(solve)(
        jnp.stack([jnp.asarray(matrix), jnp.asarray(matrix + 0.1 * np.eye(6, k=2))])
    )
    np.testing.assert_array_equal(products, [1, 4])
    assert (np.asarray(residuals[0]) < 1e-5).all()


def test_nan_is_not_chased(pairs):
    matrix, values, vectors = pairs
    residuals, _, products = residuals_verified(matrix * np.nan, values, vectors, np.zeros(3), np.zeros(6))
    assert int(products) == 1
    assert np.isnan(residuals).all()


def test_true_residuals_are_those_of_numpy(pairs, rng):
    matrix, values, _ = pairs
    vectors = rng.standard_normal((3, 6))
    found = true_residuals(
        as_operator(jnp.asarray(matrix, jnp.float32)),
        jnp.asarray(values, jnp.float32),
        jnp.asarray(vectors, jnp.float32),
    )
    np.testing.assert_allclose(found, np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1), rtol=1e-5)


def test_the_rounding_unit_is_that_of_the_narrowest_leaf():
    like = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
    assert rounding_unit(as_operator(lambda v: v, like=like)) == 2.0**-7
    assert rounding_unit(as_operator(jnp.eye(2, dtype=jnp.complex64))) == np.finfo(np.float32).eps


@pytest.mark.slow
def test_a_restarted_solve_is_audited_by_one_product():
    # Restarts have changed its basis several times, with rounding from the small dense eigensolver.
    n, k = 400, 10
    values = jnp.asarray(np.random.default_rng(5).standard_normal(n), jnp.float32)
    op, spec = as_operator(jnp.diag(values)), SolveSpec(k=k, which="LM", interior=False, verify=False, max_matvecs=2000)
    step = jax.jit(lambda op, state: restarted_lanczos.step(op, state, spec, tol=1e-5, sigma=0.0))
    end = jax.jit(lambda op, state: finalize(op, state, spec, tol=1e-5))
    for seed in range(3):
        start = jnp.asarray(np.random.default_rng(seed).standard_normal((1, n)), jnp.float32)
        state = restarted_lanczos.init(start, spec, krylov_dim=30, first_check=k, seed=seed_of(jax.random.key(seed)))
        while not bool(state.done):
            state = step(op, state)
        assert int(state.krylov.num_restarts) >= 2
        assert int(end(op, state).num_matvecs) == int(state.krylov.num_matvecs) + 1
