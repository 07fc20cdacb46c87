"""MINRES against dense solves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.solvers.linear.minres import minres

N = 12
SPECTRA = {
    "definite": np.linspace(1, 10, N),
    "negative definite": -np.linspace(1, 10, N),
    "indefinite": np.linspace(-5, 6, N) + 0.2,
    "symmetric about zero": np.array([-3, 3] * 6),
    "identity": np.ones(N),
    "singular": np.array([0, 0, -4, -2, 1, 1, 2, 3, 4, 5, 6, 7]),
}


@functools.partial(jax.jit, static_argnames="max_iter")
def solve(matrix, rhs, target, max_iter=60):
    return minres(lambda v: jnp.matmul(matrix, v, precision="highest"), rhs, target=target, max_iter=max_iter)


def least_squares(matrix, rhs):
    values, vectors = np.linalg.eigh(matrix)
    nonzero = np.abs(values) > 1e-9
    return vectors[:, nonzero] @ (vectors[:, nonzero].T @ rhs / values[nonzero])


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("name", SPECTRA)
def test_a_compatible_system_is_solved_to_rounding(name, scale, dtype, rotated, rng):
    matrix = rotated(SPECTRA[name])
    rhs = matrix @ rng.standard_normal(N)
    found = solve(jnp.asarray((scale * matrix).astype(dtype)), jnp.asarray(rhs.astype(dtype)), 0.0)
    solution = np.asarray(found.solution, float)
    bound = 200 * np.finfo(dtype).eps * np.linalg.norm(rhs)
    assert np.linalg.norm(rhs - scale * matrix @ solution) <= bound
    # For a singular system the solution of least norm: no component in the null space.
    np.testing.assert_allclose(scale * solution, least_squares(matrix, rhs), rtol=0, atol=10 * bound)
    assert int(found.num_matvecs) <= 2 * N


def test_an_incompatible_system_ends_at_its_least_squares_residual(dtype, rotated, rng):
    matrix = rotated(SPECTRA["singular"])
    rhs = rng.standard_normal(N)
    found = solve(jnp.asarray(matrix.astype(dtype)), jnp.asarray(rhs.astype(dtype)), 0.0)
    solution = np.asarray(found.solution, float)
    smallest = np.linalg.norm(rhs - matrix @ least_squares(matrix, rhs))
    np.testing.assert_allclose(np.linalg.norm(rhs - matrix @ solution), smallest, rtol=1e-3)
    assert np.linalg.norm(solution) < 100
    np.testing.assert_allclose(float(found.residual), smallest, rtol=1e-2)
    assert int(found.num_matvecs) < 60


def test_a_zero_right_hand_side_costs_no_product(rotated):
    found = solve(jnp.asarray(rotated(SPECTRA["indefinite"]), jnp.float32), jnp.zeros(N), 0.0)
    assert int(found.num_matvecs) == 0
    assert not np.any(found.solution)


def test_the_target_is_absolute_and_spares_products(rotated, rng):
    matrix, rhs = rotated(SPECTRA["definite"]), rng.standard_normal(N)
    coarse, fine = (solve(jnp.asarray(matrix, jnp.float32), jnp.asarray(rhs, jnp.float32), t) for t in (0.1, 1e-4))
    for found, target in ((coarse, 0.1), (fine, 1e-4)):
        assert np.linalg.norm(rhs - matrix @ np.asarray(found.solution, float)) <= 1.01 * target
    assert 0 < int(coarse.num_matvecs) < int(fine.num_matvecs) <= N


def test_max_iter_is_kept_and_the_residual_reported(rotated, rng):
    matrix, rhs = rotated(SPECTRA["indefinite"]), rng.standard_normal(N)
    found = solve(jnp.asarray(matrix, jnp.float32), jnp.asarray(rhs, jnp.float32), 0.0, max_iter=3)
    assert int(found.num_matvecs) == 3
    true = np.linalg.norm(rhs - matrix @ np.asarray(found.solution, float))
    np.testing.assert_allclose(float(found.residual), true, rtol=1e-4)


def test_every_lane_of_a_batch_is_solved_as_if_alone(rotated, rng):
    stack = np.stack([rotated(SPECTRA[name], seed) for seed, name in enumerate(SPECTRA)])
    rhs = np.einsum("lij,lj->li", stack, rng.standard_normal((len(stack), N)))
    rhs[1] = 0
    found = jax.vmap(lambda a, b: solve(a, b, 0.0))(jnp.asarray(stack, jnp.float32), jnp.asarray(rhs, jnp.float32))
    left = rhs - np.einsum("lij,lj->li", stack, np.asarray(found.solution, float))
    assert (np.linalg.norm(left, axis=1) <= 200 * 1.2e-7 * np.linalg.norm(rhs, axis=1)).all()
    assert int(found.num_matvecs[1]) == 0


def test_complex_hermitian(rotated, rng):
    matrix = rotated(SPECTRA["indefinite"], is_complex=True)
    rhs = rng.standard_normal(N) + 1j * rng.standard_normal(N)
    found = solve(jnp.asarray(matrix, jnp.complex64), jnp.asarray(rhs, jnp.complex64), 0.0)
    np.testing.assert_allclose(found.solution, np.linalg.solve(matrix, rhs), rtol=0, atol=1e-3)


def test_nan_ends_the_iteration(rotated):
    found = solve(jnp.asarray(rotated(SPECTRA["definite"]), jnp.float32).at[0, 0].set(jnp.nan), jnp.ones(N), 0.0)
    assert int(found.num_matvecs) < 5
