"""Refined Ritz pairs: against least squares in numpy, and what they spare a solve."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator, eigsh
from eigenjax.solvers import krylov, restarted
from eigenjax.solvers.extraction import ritz_pairs
from eigenjax.solvers.goal import Goal
from eigenjax.solvers.refinement import refined_if_enough
from eigenjax.solvers.start import seed_of

pytestmark = pytest.mark.usefixtures("float64")

N, M, K = 60, 16, 3
SPECTRUM = np.linspace(0, 4, N) ** 2
CASES = pytest.mark.parametrize(("block_size", "steps", "is_complex"), [(1, 13, True), (3, 5, False)])


@functools.partial(jax.jit, static_argnames="block_size")
def grown(matrix, block_size, steps):
    starts = jax.random.normal(jax.random.key(0), (block_size, N), jnp.float64).astype(matrix.dtype)
    state = krylov.begin(starts, M, seed_of(jax.random.key(1)))
    state = jax.lax.fori_loop(0, steps, lambda _, state: krylov.expand(as_operator(matrix), state), state)
    return state, ritz_pairs(state, "LA")


refined = jax.jit(lambda state, found, bound, allowed: refined_if_enough(state, found, "LA", K, bound, allowed))


def least_residuals(matrix, vectors, values):
    """Of u_i + sum_j x_j u_j over all x, with j not wanted; over the length."""
    least = []
    for i in range(K):
        shifted = (matrix - values[i] * np.eye(N)) @ vectors
        x, *_ = np.linalg.lstsq(shifted[:, K:], -shifted[:, i], rcond=None)
        least.append(np.linalg.norm(shifted[:, i] + shifted[:, K:] @ x) / np.sqrt(1 + np.linalg.norm(x) ** 2))
    return np.array(least)


@CASES
def test_what_is_predicted_is_the_least_residual(block_size, steps, is_complex, rotated):
    matrix = rotated(SPECTRUM, is_complex=is_complex)
    state, found = grown(jnp.asarray(matrix), block_size, steps)
    filled = block_size * steps
    vectors = (np.asarray(found.coefficients).T @ np.asarray(state.basis)).T[:, :filled]
    _, worst = refined(state, found, 0.0, True)
    least = least_residuals(matrix, vectors, np.asarray(found.values))
    np.testing.assert_allclose(worst, least.max(), rtol=1e-10)
    assert float(worst) < 0.95 * float(jnp.max(found.residuals[:K]))


@CASES
def test_refined_pairs_are_orthonormal_and_their_residuals_true(block_size, steps, is_complex, rotated):
    matrix = rotated(SPECTRUM, is_complex=is_complex)
    state, found = grown(jnp.asarray(matrix), block_size, steps)
    _, worst = refined(state, found, 0.0, True)
    bound = 0.5 * (worst + jnp.max(found.residuals[:K]))
    pairs, _ = refined(state, found, bound, True)
    there = np.isfinite(pairs.residuals)
    assert there.sum() == block_size * steps
    assert (np.asarray(pairs.residuals[:K]) <= bound).all()
    coefficients = np.asarray(pairs.coefficients)[:, there]
    np.testing.assert_allclose(coefficients.conj().T @ coefficients, np.eye(there.sum()), rtol=0, atol=1e-13)
    vectors = coefficients.T @ np.asarray(state.basis)
    true = np.linalg.norm(vectors @ matrix.T - np.asarray(pairs.values)[there, None] * vectors, axis=1)
    np.testing.assert_allclose(pairs.residuals[there], true, rtol=0, atol=1e-12)
    # The others are the Ritz pairs of what is left of the space: off the diagonal they meet the wanted ones only.
    projected = coefficients.conj().T @ np.asarray(state.matrix) @ coefficients
    np.testing.assert_allclose(projected[K:, K:], np.diag(np.asarray(pairs.values)[there][K:]), rtol=0, atol=1e-12)


def test_ritz_pairs_stay_where_refined_ones_are_not_asked_for_or_not_enough(rotated):
    state, found = grown(jnp.asarray(rotated(SPECTRUM, is_complex=True)), 1, 13)
    _, worst = refined(state, found, 0.0, True)
    for bound, allowed in ((0.9 * worst, True), (1.01 * worst, False), (2 * jnp.max(found.residuals[:K]), True)):
        same, _ = refined(state, found, bound, allowed)
        jax.tree.map(np.testing.assert_array_equal, same, found)


def smallest_krylov_space(matrix, start, k, bound):
    """The steps of Lanczos, fully orthogonalised, until the k largest Ritz pairs are within the bound."""
    basis = start[None] / np.linalg.norm(start)
    while True:
        images = basis @ matrix
        _, coefficients = np.linalg.eigh(images @ basis.T)
        rest = images[-1] - basis.T @ (basis @ images[-1])
        rest -= basis.T @ (basis @ rest)
        if len(basis) >= k and np.linalg.norm(rest) * np.abs(coefficients[-1, -k:]).max() <= bound:
            return len(basis)
        basis = np.concatenate([basis, rest[None] / np.linalg.norm(rest)])


@pytest.mark.parametrize("scale", [1.0, 1e-150])
def test_a_solve_takes_fewer_products_than_the_krylov_space_whose_ritz_pairs_have_converged(scale):
    # A path: its eigenvalues crowd at the end, and residuals fall slowly.
    n, k, tol = 150, 2, 1e-6
    values = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    start = np.random.default_rng(0).standard_normal(n)
    result = eigsh(jnp.diag(scale * values), k, tol=tol, krylov_dim=40, v0=jnp.asarray(start))
    assert bool(result.converged.all())
    true = np.linalg.norm(
        np.asarray(result.eigenvectors) * (values - np.asarray(result.eigenvalues)[:, None] / scale), axis=1
    )
    assert (true <= tol * 4).all()
    np.testing.assert_allclose(result.residuals / scale, true, rtol=1e-6)
    assert int(result.num_matvecs) <= smallest_krylov_space(np.diag(values), start, k, tol * values[-1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_restarted_solve_is_audited_by_one_product(dtype):
    n, k = 400, 10
    values = jnp.asarray(np.random.default_rng(5).standard_normal(n), dtype)
    op, goal = as_operator(jnp.diag(values)), Goal(k=k, which="LM", near=False, verify=False, max_matvecs=2000)
    tol = 30 * float(jnp.finfo(dtype).eps)
    step = jax.jit(lambda op, state: restarted.step(op, state, goal, tol=tol, sigma=0.0))
    end = jax.jit(lambda op, state: restarted.finalize(op, state, goal, tol=tol))
    for seed in range(3):
        start = jnp.asarray(np.random.default_rng(seed).standard_normal((1, n)), dtype)
        state = restarted.init(start, goal, krylov_dim=30, first_look=k, seed=seed_of(jax.random.key(seed)))
        while not bool(state.done):
            state = step(op, state)
        assert int(state.krylov.num_restarts) >= 4
        assert int(end(op, state).num_matvecs) == int(state.krylov.num_matvecs) + 1
