"""Relations A V = U B and A^H U = V B^H + d g + E through expansion, breakdown and restarts, recomputed in NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.krylov.golub_kahan import bidiagonalization
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.vectors.pseudorandom import seed_of

P, N, M, KEPT = 24, 18, 8, 3
# A component of U^H w has a rounding error of P eps / 2 of w. The last Gram-Schmidt pass leaves at least 0.717 of w:
# the new unit vector keeps P eps / 1.4 of the old ones, and 1 + P eps / 2 of its length.
ORTHONORMAL = P
# Sums of P products in a matvec and of M + 1 terms in two Gram-Schmidt passes, each with an error of eps / 2 a term.
RELATION = P + 2 * (M + 1)
# A restart rounds U P, V Q and P^H B Q, sums of M terms; these errors stay in the rows that are kept.
RESTART = 2 * M


@functools.partial(jax.jit, static_argnames="size")
def begun(matrix, start, size=M):
    return bidiagonalization.initialize(as_rectangular(matrix), start, size, seed_of(jax.random.key(2)))


@jax.jit
def grown(matrix, state, steps):
    op = as_rectangular(matrix)
    return jax.lax.fori_loop(0, steps, lambda _, state: bidiagonalization.expand(op, state), state)


@jax.jit
def compressed(state, left, right, fresh):
    return bidiagonalization.compress(state, left, right, fresh, jnp.zeros(1, state.defects.dtype))


def wide(x):
    return np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64)


def gram_error(rows):
    return np.abs(rows.conj() @ rows.T - np.eye(len(rows))).max()


def assert_decomposes(state, matrix, dropped=None, with_direction=True):
    """Assert orthonormal U, V and d, A V = U B, and column norms `dropped` of A^H U - V B^H - d g."""
    left_valid, right_valid = np.asarray(state.left_valid), np.asarray(state.right_valid)
    assert left_valid.sum() == right_valid.sum() == int(state.num_valid)
    U, V, B, d, g = (wide(x) for x in (state.left, state.right, state.matrix, state.direction, state.coupling))
    for part in (U[~left_valid], V[~right_valid], B[~left_valid], B[:, ~right_valid], g[~left_valid]):
        assert not part.any()
    eps, norm = np.finfo(state.matrix.dtype).eps, np.linalg.norm(matrix)
    directions = d[None] if with_direction else np.empty((0, V.shape[1]))
    assert gram_error(U[left_valid]) <= ORTHONORMAL * eps
    assert gram_error(np.concatenate([V[right_valid], directions])) <= ORTHONORMAL * eps
    dense, bound = wide(matrix), (RELATION + RESTART * int(state.num_restarts)) * eps * norm
    chex.assert_trees_all_close(dense @ V.T, U.T @ B, rtol=0, atol=bound)
    left = np.linalg.norm(dense.conj().T @ U.T - V.T @ B.conj().T - np.outer(d, g), axis=0)
    chex.assert_trees_all_close(left, np.zeros(M) if dropped is None else dropped, rtol=0, atol=bound)


def triplets(state, count=KEPT):
    """Compute (m, kept) P and Q, (m,) s: the largest singular triplets of B, from NumPy."""
    left, values, right = np.linalg.svd(wide(state.matrix))
    cast = lambda x: jnp.asarray(x.astype(state.matrix.dtype))
    return cast(left[:, :count]), cast(right.conj().T[:, :count]), values


@pytest.fixture
def matrix(scalar, normal, rng):
    return normal(rng, (P, N), scalar)


@pytest.fixture
def full(matrix, normal, rng):
    return grown(jnp.asarray(matrix), begun(jnp.asarray(matrix), jnp.asarray(normal(rng, N, matrix.dtype))), M)


@pytest.mark.slow
def test_each_step_adds_a_row_to_both_bases(matrix, normal, rng):
    start = normal(rng, N, matrix.dtype)
    state = begun(jnp.asarray(matrix), jnp.asarray(start))
    chex.assert_trees_all_close(wide(state.direction), wide(start) / np.linalg.norm(start), rtol=0, atol=1e-6)
    for count, steps in ((1, 1), (4, 3), (M, M - 4)):
        state = grown(jnp.asarray(matrix), state, steps)
        assert_decomposes(state, matrix)
        assert int(state.num_valid) == count
        assert int(state.num_matvecs) == 2 * count
        assert not bool(state.broken_down)
    # Golub and Kahan: B is upper bidiagonal with positive entries alpha and beta.
    eps, norm = np.finfo(matrix.dtype).eps, np.linalg.norm(matrix)
    B = wide(state.matrix)
    two = np.diag(np.diag(B)) + np.diag(np.diag(B, 1), 1)
    chex.assert_trees_all_close(B, two, rtol=0, atol=RELATION * eps * norm)
    assert (np.diag(B).real > 0).all()
    assert (np.diag(B, 1).real > 0).all()
    assert not np.asarray(state.coupling)[:-1].any()
    # The norm estimate is the largest norm of a matvec with A or A^H.
    images = [wide(matrix) @ wide(state.right).T, wide(matrix).conj().T @ wide(state.left).T]
    largest = max(np.linalg.norm(image, axis=0).max() for image in images)
    chex.assert_trees_all_close(float(state.operator_norm), largest, rtol=RELATION * eps)


@pytest.mark.slow
def test_restarts_keep_triplets_and_converge_to_those_of_the_matrix(matrix, full):
    state, before = full, full
    for restarts in range(1, 19):  # includes two reorthonormalizations
        left, right, values = triplets(state)
        before, state = state, compressed(state, left, right, jnp.asarray(False))
        assert (int(state.num_restarts), int(state.num_valid)) == (restarts, KEPT)
        if restarts in (1, 8, 9, 18):
            assert_decomposes(state, matrix)
            ritz_values = np.linalg.svd(wide(state.matrix), compute_uv=False)[:KEPT]
            bound = RELATION * np.finfo(matrix.dtype).eps * np.linalg.norm(matrix)
            chex.assert_trees_all_close(ritz_values, values[:KEPT], rtol=0, atol=bound)
            wanted = wide(left).T @ wide(before.left)
            inside = wanted @ wide(state.left).conj().T @ wide(state.left)
            chex.assert_trees_all_close(inside, wanted, rtol=0, atol=2 * ORTHONORMAL * np.finfo(matrix.dtype).eps)
        state = grown(jnp.asarray(matrix), state, M - KEPT)
        assert_decomposes(state, matrix)
    found = np.linalg.svd(wide(state.matrix), compute_uv=False)[:KEPT]
    truth = np.linalg.svd(wide(matrix), compute_uv=False)[:KEPT]
    # The error of a Ritz value is at most the residual, here the coupling of its triplet.
    residuals = np.abs(wide(state.coupling) @ wide(triplets(state)[0]))
    rounding = RELATION * np.finfo(matrix.dtype).eps * np.linalg.norm(matrix)
    chex.assert_trees_all_close(found, truth, rtol=0, atol=residuals.max() + rounding)
    assert residuals.max() < 0.01 * truth[0]


def test_a_fresh_direction_drops_the_coupling_and_records_it(matrix, full):
    left, right, _ = triplets(full)
    after = compressed(full, left, right, jnp.asarray(True))
    assert not np.asarray(after.coupling).any()
    assert_decomposes(after, matrix, wide(after.defects))
    lost = np.abs(wide(full.coupling) @ wide(left))
    bound = RELATION * np.finfo(matrix.dtype).eps * np.linalg.norm(matrix)
    found = wide(after.defects)[np.asarray(after.left_valid)]
    chex.assert_trees_all_close(np.sort(found), np.sort(lost), rtol=0, atol=bound)
    assert abs(np.vdot(after.direction, full.direction)) < 0.9
    again = grown(jnp.asarray(matrix), after, M - KEPT)
    # The new V contains a part of the dropped direction, and B the coefficients of that part.
    old, V = wide(full.direction), wide(again.right)
    outside = np.linalg.norm(old - V.T @ (V.conj() @ old))
    assert 0.1 < outside < 0.9
    assert_decomposes(again, matrix, outside * wide(again.defects))
    # Two drops along unrelated directions add as squares: an estimate, not a bound.
    left, right, _ = triplets(again)
    twice = compressed(again, left, right, jnp.asarray(True))
    lost = np.hypot(np.abs(wide(again.coupling) @ wide(left)), np.sqrt(np.abs(wide(left).T) ** 2 @ again.defects**2))
    found = wide(twice.defects)[np.asarray(twice.left_valid)]
    chex.assert_trees_all_close(np.sort(found), np.sort(lost), rtol=0, atol=bound)


def test_columns_of_zeros_keep_fewer_vectors(matrix, full):
    left, right, _ = triplets(full)
    after = compressed(full, left.at[:, 1].set(0), right.at[:, 1].set(0), jnp.asarray(False))
    assert int(after.num_valid) == KEPT - 1
    assert_decomposes(after, matrix)
    assert int(after.num_keep[1]) == KEPT - 1


def test_every_eighth_restart_reorthonormalizes_both_bases(full):
    error = 1e-3
    left, right, _ = triplets(full)
    spoiled = full._replace(left=full.left * (1 + error), right=full.right * (1 - error))
    errors = {}
    for restarts in (6, 7, 8, 15):
        after = compressed(spoiled._replace(num_restarts=jnp.int32(restarts)), left, right, jnp.asarray(False))
        rows = [wide(after.left)[np.asarray(after.left_valid)], wide(after.right)[np.asarray(after.right_valid)]]
        errors[restarts] = [gram_error(x) for x in rows]
    # Newton's iteration takes V (1 + e) to V (1 - 3 e^2 / 2), whose Gram matrix has an error of 3 e^2.
    eps = np.finfo(full.matrix.dtype).eps
    for restarts in (7, 15):
        assert max(errors[restarts]) <= 3.1 * error**2 + 2 * ORTHONORMAL * eps
    for restarts in (6, 8):
        chex.assert_trees_all_close(np.array(errors[restarts]), np.array([2 * error, 2 * error]), rtol=1e-2)


def test_breakdown_on_either_side_goes_on_in_random_directions(scalar):
    # Integer entries: e_0 is a singular vector of value 3, and the rank is two.
    matrix = np.zeros((P, N), scalar)
    matrix[0, 0], matrix[1, 1] = 3, 2
    start = np.eye(N, dtype=scalar)[0]
    state = grown(jnp.asarray(matrix), begun(jnp.asarray(matrix), jnp.asarray(start)), 1)
    assert bool(state.broken_down)
    assert not np.asarray(state.coupling).any()
    assert_decomposes(state, matrix)
    chex.assert_trees_all_close(float(state.operator_norm), 3.0, rtol=4 * np.finfo(scalar).eps)
    # After the second singular vector A V lies in the span of U.
    state = grown(jnp.asarray(matrix), state, M - 1)
    assert_decomposes(state, matrix)
    bound = RELATION * np.finfo(scalar).eps * np.linalg.norm(matrix)
    values = np.linalg.svd(wide(state.matrix), compute_uv=False)
    chex.assert_trees_all_close(values[2:], np.zeros(M - 2), rtol=0, atol=bound)
    chex.assert_trees_all_close(values[:2], np.array([3.0, 2.0]), rtol=0, atol=bound)


@pytest.mark.slow
def test_the_whole_domain_gives_all_singular_values(scalar, normal, rng):
    matrix = normal(rng, (P, M), scalar)
    state = grown(jnp.asarray(matrix), begun(jnp.asarray(matrix), jnp.asarray(normal(rng, M, scalar))), M)
    assert not np.asarray(state.coupling).any()
    assert_decomposes(state, matrix, with_direction=False)
    values = np.linalg.svd(wide(state.matrix), compute_uv=False)
    truth = np.linalg.svd(wide(matrix), compute_uv=False)
    bound = RELATION * np.finfo(scalar).eps * np.linalg.norm(matrix)
    chex.assert_trees_all_close(values, truth, rtol=0, atol=bound)


@pytest.mark.parametrize("unusable", [0.0, np.inf, -np.inf, np.nan])
def test_a_random_vector_replaces_a_start_that_is_no_direction(unusable, normal, rng):
    matrix = normal(rng, (P, N), np.float32)
    start = np.where(np.arange(N) == 5, unusable, 0).astype(np.float32)
    state = begun(jnp.asarray(matrix), jnp.asarray(start))
    chex.assert_trees_all_close(np.linalg.norm(wide(state.direction)), 1.0, rtol=ORTHONORMAL * np.finfo(np.float32).eps)
    state = grown(jnp.asarray(matrix), state, M)
    assert_decomposes(state, matrix)
    assert not bool(state.broken_down)
    # The random vector has components along all others, unlike the start.
    assert np.all(np.asarray(state.right)[0] != 0)


@pytest.mark.parametrize("unusable", [0.0, np.inf])
def test_zero_matrices_and_starts_that_are_no_directions(unusable):
    matrix = np.zeros((P, N), np.float32)
    state = begun(jnp.asarray(matrix), jnp.full(N, unusable, jnp.float32))
    state = grown(jnp.asarray(matrix), state, 3)
    chex.assert_tree_all_finite(state)
    assert_decomposes(state, matrix)
    assert bool(state.broken_down)
    assert not np.asarray(state.matrix).any()
