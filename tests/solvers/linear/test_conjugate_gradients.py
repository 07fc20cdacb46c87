"""Conjugate gradients for several systems side by side, against dense NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax.solvers.linear.conjugate_gradients import conjugate_gradients_together
from eigenjax.solvers.linear.minres import minres_together

SIZE = 40

pytestmark = pytest.mark.usefixtures("float64")


def hermitian(rng, values, is_complex=False):
    noise = rng.normal(size=(SIZE, SIZE)) + 1j * is_complex * rng.normal(size=(SIZE, SIZE))
    vectors, _ = np.linalg.qr(noise if is_complex else noise.real)
    return (vectors * values) @ vectors.conj().T


@functools.partial(jax.jit, static_argnames="solver")
def solved(matrix, shifts, rhs, tol, solver=conjugate_gradients_together):
    apply = lambda v: jnp.einsum("ij,kj->ki", matrix, v) - shifts[:, None] * v
    return solver(apply, rhs, targets=lambda x: tol, max_iter=300)


@pytest.mark.slow
@pytest.mark.parametrize("is_complex", [False, True])
def test_definite_systems_of_either_sign_are_solved_and_rest_when_they_are_done(is_complex, rng):
    matrix = hermitian(rng, np.linspace(1, 30, SIZE), is_complex)
    shifts, rhs = np.array([0.0, 0.9, 31.0, 0.5]), rng.normal(size=(4, SIZE)).astype(matrix.dtype)
    rhs[3] = 0
    tol = jnp.array([1e-9, 1e-9, 1e-9, 0.0])
    found = solved(matrix, shifts.astype(matrix.dtype), rhs, tol)
    for shift, x, b in zip(shifts[:3], np.asarray(found.solution), rhs, strict=False):
        assert_allclose(x, np.linalg.solve(matrix - shift * np.eye(SIZE), b), atol=1e-7)
        assert np.linalg.norm(b - matrix @ x + shift * x) < 2e-9
    assert not np.any(found.solution[3])
    assert found.num_matvecs[3] == 0
    assert found.num_matvecs[0] < found.num_matvecs[1]
    minimal = solved(matrix, shifts.astype(matrix.dtype), rhs, tol, solver=minres_together)
    # MINRES has the smallest residual: it needs no more matvecs than CG, and not many fewer.
    fewest, taken = int(jnp.sum(minimal.num_matvecs)), int(jnp.sum(found.num_matvecs))
    assert fewest <= taken <= 1.15 * fewest


def test_a_system_that_is_singular_ends_finite(rng):
    values = np.concatenate([[0.0], np.linspace(1, 30, SIZE - 1)])
    matrix, rhs = hermitian(rng, values), rng.normal(size=(2, SIZE))
    rhs[1] = matrix @ rhs[1]
    found = solved(matrix, np.zeros(2), rhs, jnp.full(2, 1e-10))
    assert np.all(np.isfinite(found.solution))
    assert found.residual[0] > 1e-3  # the reported residual stays large
    assert np.linalg.norm(rhs[1] - matrix @ found.solution[1]) < 1e-9  # a consistent system is solved


def test_tiny_right_hand_sides_keep_their_digits_in_float32(rng):
    matrix = hermitian(rng, np.linspace(1, 3, SIZE))
    rhs = 1e-30 * rng.normal(size=(2, SIZE))
    single = [jnp.asarray(x, jnp.float32) for x in (matrix, np.zeros(2), rhs)]
    found = solved(*single, jnp.zeros(2, jnp.float32))
    exact = np.linalg.solve(matrix, rhs.T).T
    assert_allclose(found.solution, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


@pytest.mark.slow
@pytest.mark.parametrize(("operator_norm", "expected"), [(0.0, 1.0), (2.0, 0.0)])
def test_rounding_along_a_null_vector_is_not_divided_by(operator_norm, expected):
    # A projected null vector leaves rounding: a system of its own, or zero if the operator norm is known.
    solve = functools.partial(conjugate_gradients_together, targets=lambda x: 0.0, max_iter=5)
    values, rhs = jnp.array([1e-17, 1.0, 2.0]), jnp.array([[1e-17, 0.0, 0.0]])
    found = solve(lambda v: values[None, :] * v, rhs, operator_norm=operator_norm)
    assert_allclose(found.solution, [[expected, 0, 0]], rtol=1e-12)


@pytest.mark.slow
def test_the_least_residual_is_known_and_bounds_the_error(rng):
    values = np.geomspace(1e-2, 10, SIZE)
    matrix, rhs = hermitian(rng, values), rng.normal(size=(1, SIZE))
    apply = lambda v: jnp.einsum("ij,kj->ki", matrix, v)
    for steps in (4, 8, 12):  # with more steps, rounding makes the two recurrences differ
        options = {"targets": lambda x: 0.0, "max_iter": steps}
        found = conjugate_gradients_together(apply, jnp.asarray(rhs), by_error=True, **options)
        least = minres_together(apply, jnp.asarray(rhs), **options)
        true = np.linalg.norm(rhs[0] - matrix @ np.asarray(least.solution[0]))
        assert_allclose(found.tested[0], true, rtol=1e-6)
        assert found.tested[0] < found.residual[0]
        error = np.linalg.norm(np.linalg.solve(matrix, rhs[0]) - np.asarray(found.solution[0]))
        assert error <= true / values[0]
