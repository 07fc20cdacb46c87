"""Krylov decomposition A V = V H + D^T B through expansion, breakdown and restarts, recomputed in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator
from eigenjax.krylov import decomposition
from eigenjax.krylov.decomposition import begin
from eigenjax.krylov.expansion import expand, orthonormalized
from eigenjax.krylov.rayleigh_ritz import ritz_pairs
from eigenjax.vectors.pseudorandom import seed_of

N, M = 40, 12
SPECTRUM = np.linspace(-3, 5, N) ** 3 / 25
BLOCKS = pytest.mark.parametrize("block_size", [1, 3])


@jax.jit
def grown(matrix, starts, steps):
    op = as_operator(matrix)
    state = orthonormalized(begin(starts, M, seed_of(jax.random.key(1))))
    return jax.lax.fori_loop(0, steps, lambda _, state: expand(op, state), state)


def restarted(op, state, num_keep):
    """Restart with the largest Ritz pairs and expand until the basis is full."""
    coefficients = ritz_pairs(state, "LA").coefficients[:, :num_keep]
    state = decomposition.compress(
        state, coefficients, state.coupling @ coefficients, jnp.zeros(num_keep, state.defects.dtype)
    )
    b = state.block_size
    steps = (state.coupling.shape[1] - num_keep) // b
    return jax.lax.fori_loop(0, steps, lambda _, state: expand(op, state), state)


@functools.partial(jax.jit, static_argnums=2)
def compressed(state, coefficients, num_keep):
    coefficients = coefficients[:, :num_keep]
    dropped = jnp.zeros(num_keep, state.defects.dtype)
    return decomposition.compress(state, coefficients, state.coupling @ coefficients, dropped)


def starting(rng, block_size, dtype=float):
    normal = rng.standard_normal((2, block_size, N))
    return jnp.asarray(normal[0] + 1j * normal[1] if dtype is complex else normal[0], dtype)


def assert_decomposes(state, matrix, num_valid, tolerance=1e-12):
    """Assert A V = V H + D^T B, H = V^H A V, orthonormal V and D, and zeros in invalid rows."""
    valid = np.asarray(state.valid)
    assert valid.sum() == num_valid == int(state.num_valid)
    basis, residual_block, projected, coupling = (
        np.asarray(x) for x in (state.basis, state.residual_block, state.matrix, state.coupling)
    )
    assert (basis[~valid] == 0).all()
    assert (projected[~valid] == 0).all()
    assert (coupling[:, ~valid] == 0).all()
    rows = np.concatenate([basis[valid], residual_block])
    np.testing.assert_allclose(rows.conj() @ rows.T, np.eye(len(rows)), rtol=0, atol=tolerance)
    right = basis.T @ projected + residual_block.T @ coupling
    np.testing.assert_allclose((matrix @ basis.T)[:, valid], right[:, valid], rtol=0, atol=10 * tolerance)
    in_basis = basis.conj() @ matrix @ basis.T
    np.testing.assert_allclose(projected, in_basis, rtol=0, atol=10 * tolerance)


@pytest.mark.slow
@BLOCKS
@pytest.mark.parametrize("is_complex", [False, True])
def test_growing_decomposes_the_operator_at_one_product_a_row(block_size, is_complex, float64, rng, rotated):
    matrix = rotated(SPECTRUM, is_complex=is_complex)
    starts = starting(rng, block_size, complex if is_complex else float)
    for steps in (1, 3):
        state = grown(jnp.asarray(matrix), starts, steps)
        assert_decomposes(state, matrix, steps * block_size)
        assert int(state.num_matvecs) == steps * block_size
        assert not bool(state.broken_down)
    # The space contains the start vectors.
    vectors, basis = np.asarray(starts).T, np.asarray(state.basis).T
    residual = vectors - basis @ (basis.conj().T @ vectors)
    np.testing.assert_allclose(residual, 0, atol=1e-12)


@pytest.mark.slow
@BLOCKS
def test_compressing_keeps_the_relation_and_what_was_asked_for(block_size, float64, rng, rotated):
    matrix = rotated(SPECTRUM)
    state = grown(jnp.asarray(matrix), starting(rng, block_size), M // block_size)
    ritz = ritz_pairs(state, "LA").coefficients
    # The most wanted, the least wanted, and one column fewer than fit.
    for columns, num_keep in ((ritz, 5), (ritz[:, ::-1], 5), (ritz.at[:, 3].set(0), 4)):
        after = compressed(state, columns, 5)
        assert_decomposes(after, matrix, num_keep)
        assert int(after.num_restarts) == 1
        basis, wanted = np.asarray(after.basis), np.asarray(columns)[:, :5].T @ np.asarray(state.basis)
        np.testing.assert_allclose(wanted @ (basis.T @ basis), wanted, rtol=0, atol=1e-12)


@pytest.mark.slow
@BLOCKS
def test_growing_again_after_a_restart_still_decomposes(block_size, float64, rng, rotated):
    matrix = rotated(SPECTRUM)
    op = as_operator(jnp.asarray(matrix))
    state = grown(op.matrix, starting(rng, block_size), M // block_size)
    again = jax.jit(lambda state: jax.lax.fori_loop(0, 20, lambda _, s: restarted(op, s, 6), state))(state)
    assert_decomposes(again, matrix, M, tolerance=1e-12)
    assert int(again.num_matvecs) == M + 20 * 6
    # The Krylov space contains the end of the spectrum after 20 restarts.
    top = np.linalg.eigvalsh(np.asarray(again.matrix))[::-1]
    np.testing.assert_allclose(top[:3], np.sort(SPECTRUM)[:-4:-1], rtol=0, atol=1e-8)


@BLOCKS
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_identity_gives_fresh_directions_without_coupling(block_size, scale, float64, rng):
    matrix = scale * np.eye(N)
    state = grown(jnp.asarray(matrix), starting(rng, block_size), 3)
    assert bool(state.broken_down)
    # In a block only the rounding error of a matvec couples the random directions.
    assert (np.abs(np.asarray(state.coupling)) <= 1e-16 * scale * (block_size > 1)).all()
    scaled = state._replace(matrix=state.matrix / scale, coupling=state.coupling / scale)
    assert_decomposes(scaled, np.eye(N), 3 * block_size)


@BLOCKS
def test_a_start_of_zeros_is_replaced(block_size, float64, rotated):
    matrix = rotated(SPECTRUM)
    state = grown(jnp.asarray(matrix), jnp.zeros((block_size, N)), 3)
    assert_decomposes(state, matrix, 3 * block_size)


def test_dependent_starts_give_a_block_of_full_rank(float64, rng, rotated):
    matrix = rotated(SPECTRUM)
    one, two = np.asarray(starting(rng, 2))
    for rows in ([one, one, one], [one, 0 * one, two], [one, two, one + 1e-20 * two], [one, -2 * one, 1e-30 * two]):
        state = grown(jnp.asarray(matrix), jnp.asarray(np.stack(rows)), 3)
        assert_decomposes(state, matrix, 9)


def test_a_block_that_meets_an_invariant_subspace_goes_on_at_full_rank(float64, rng, rotated):
    # Rank two: of three matvecs at most two are independent of the basis, and after them none.
    matrix = rotated([5.0, 2.0] + [0.0] * (N - 2))
    state = grown(jnp.asarray(matrix), starting(rng, 3), 3)
    assert_decomposes(state, matrix, 9)
    assert bool(state.broken_down)
    assert (np.abs(np.asarray(state.coupling)) < 1e-12).all()


def defect_after(restarts, matrix, start):
    """Compute the largest entry of V V^H - I, divided by eps."""
    op = as_operator(matrix)

    @jax.jit
    def run(starts):
        state = orthonormalized(begin(starts, M, seed_of(jax.random.key(1))))
        state = jax.lax.fori_loop(0, M, lambda _, state: expand(op, state), state)
        return jax.lax.fori_loop(0, restarts, lambda _, state: restarted(op, state, 8), state)

    basis = np.asarray(run(start).basis, float)
    return np.abs(basis @ basis.T - np.eye(M)).max() / np.finfo(np.float32).eps


@pytest.mark.slow
def test_reorthonormalization_keeps_the_basis_orthonormal_over_many_restarts(rng, rotated, monkeypatch):
    matrix, start = jnp.asarray(rotated(SPECTRUM), jnp.float32), starting(rng, 1, jnp.float32)
    corrected = defect_after(60, matrix, start)
    monkeypatch.setattr(decomposition, "_RESTARTS_BETWEEN_REORTHONORMALIZATIONS", 10**9)
    uncorrected = defect_after(60, matrix, start)
    assert corrected <= 20
    assert uncorrected > 1.5 * corrected
