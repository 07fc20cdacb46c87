"""Arnoldi decomposition A V = V H + d b^H + E through expansion, breakdown and restarts, recomputed in NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eigenjax import as_operator
from eigenjax.krylov.decomposition import begin
from eigenjax.krylov.expansion import expand, orthonormalized
from eigenjax.krylov.general import arnoldi
from eigenjax.krylov.general.general_ritz import SchurBasis
from eigenjax.vectors.pseudorandom import seed_of

N, M, MOST = 20, 8, 5
# A component of V^H w has a rounding error of N eps / 2 of w. The last Gram-Schmidt pass leaves at least 0.717 of w:
# the new unit vector keeps N eps / 1.4 of the old ones, and 1 + N eps / 2 of its length.
ORTHONORMAL = N
# Sums of N products in the matvec and of M + 1 terms in two Gram-Schmidt passes, each with an error of eps / 2 a term.
RELATION = N + 2 * (M + 1)


@functools.partial(jax.jit, static_argnames="size")
def begun(start, size=M):
    return orthonormalized(begin(start[None], size, seed_of(jax.random.key(3)), levels=jnp.zeros(1, start.dtype)))


@jax.jit
def grown(matrix, state, steps):
    op = as_operator(matrix)
    return jax.lax.fori_loop(0, steps, lambda _, state: expand(op, state, symmetric=False), state)


@jax.jit
def restarted(state, coefficients, num_keep, fresh):
    basis = SchurBasis(coefficients, jnp.zeros(M, bool))
    return orthonormalized(arnoldi.restart(state, basis, num_keep, MOST, fresh, jnp.zeros(1, coefficients.dtype)))


def wide(x):
    return np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64)


def assert_decomposes(state, matrix, dropped=None):
    """Assert orthonormal V and d, H = V^H A V, and column norms `dropped` (None: zero) of A V - V H - d b^H."""
    valid = np.asarray(state.valid)
    eps, norm = np.finfo(state.matrix.dtype).eps, np.linalg.norm(matrix)
    basis, direction, H, b = (wide(x) for x in (state.basis, state.residual_block, state.matrix, state.coupling))
    for part in (basis[~valid], H[~valid], H[:, ~valid], b[:, ~valid]):
        assert not part.any()
    rows = np.concatenate([basis[valid], direction])
    chex.assert_trees_all_close(rows.conj() @ rows.T, np.eye(len(rows)), rtol=0, atol=ORTHONORMAL * eps)
    images = wide(matrix) @ basis.T
    chex.assert_trees_all_close(basis.conj() @ images, H, rtol=0, atol=RELATION * eps * norm)
    left = np.linalg.norm(images - basis.T @ H - direction.T @ b, axis=0)
    expected = np.zeros(M) if dropped is None else dropped
    chex.assert_trees_all_close(left, expected, rtol=0, atol=RELATION * eps * norm)


@pytest.fixture
def problem(scalar, normal, rng):
    """Draw a nonsymmetric matrix, with entries above the diagonal five times those below it, and a start vector."""
    matrix = np.tril(normal(rng, (N, N), scalar)) + 5 * np.triu(normal(rng, (N, N), scalar), 1)
    return matrix, normal(rng, N, scalar)


def full(problem):
    return grown(jnp.asarray(problem[0]), begun(jnp.asarray(problem[1])), M)


def schur_vectors(state, radius):
    """Return (m, m) C of H = C S C^H, and the number of eigenvalues of magnitude above `radius`, which are leading."""
    H = wide(state.matrix)
    if np.iscomplexobj(H):
        _, vectors, count = scipy.linalg.schur(H, "complex", sort=lambda x: abs(x) > radius)
    else:
        _, vectors, count = scipy.linalg.schur(H, "real", sort=lambda x, y: np.hypot(x, y) > radius)
    return vectors, count


def radius_between(values, most=MOST):
    """Return the middle of the widest relative gap between magnitudes, with 2 to `most` of them above it."""
    sizes = np.sort(np.abs(values))[::-1]
    best = 2 + np.argmax(sizes[1:most] / sizes[2 : most + 1])
    return (sizes[best - 1] * sizes[best]) ** 0.5


@pytest.mark.slow
def test_each_matvec_adds_a_row_and_the_space_is_that_of_the_start(problem):
    matrix, start = problem
    state = begun(jnp.asarray(start))
    for count, steps in ((1, 1), (4, 3), (M, M - 4)):
        state = grown(jnp.asarray(matrix), state, steps)
        assert_decomposes(state, matrix)
        assert int(state.num_valid) == int(state.num_matvecs) == count
        assert not bool(state.broken_down)
    # Arnoldi: H is a Hessenberg matrix with a positive subdiagonal, and the last coupling is positive.
    eps, norm = np.finfo(start.dtype).eps, np.linalg.norm(matrix)
    H = wide(state.matrix)
    assert np.abs(np.tril(H, -2)).max() <= RELATION * eps * norm
    assert (np.diag(H, -1).real > 0).all()
    assert not np.asarray(state.coupling)[0, :-1].any()
    # The basis spans the start vector v, A v and A^2 v.
    powers = np.stack([np.linalg.matrix_power(wide(matrix), i) @ wide(start) for i in range(3)])
    powers = np.linalg.qr(powers.T)[0].T
    basis = wide(state.basis)[:3]
    # The third vector is divided by its distance from the first two, which amplifies the rounding of a matvec.
    least = min(np.diag(H, -1)[:2].real)
    inside = powers @ basis.conj().T @ basis
    chex.assert_trees_all_close(inside, powers, rtol=0, atol=4 * RELATION * eps * norm / least)
    largest = np.linalg.norm(wide(matrix) @ wide(state.basis).T, axis=0).max()
    chex.assert_trees_all_close(float(state.operator_norm), largest, rtol=RELATION * eps)


@pytest.mark.slow
def test_a_restart_keeps_the_invariant_subspace_and_grows_again(problem):
    matrix, _ = problem
    state = full(problem)
    values = np.linalg.eigvals(wide(state.matrix))
    radius = radius_between(values)
    vectors, count = schur_vectors(state, radius)
    assert 2 <= count <= MOST
    after = restarted(state, jnp.asarray(vectors.astype(matrix.dtype)), jnp.int32(count), jnp.asarray(False))
    assert_decomposes(after, matrix)
    assert (int(after.num_valid), int(after.num_restarts)) == (count, 1)
    assert not np.asarray(after.defects).any()
    # The basis spans V C, and H has the chosen eigenvalues.
    eps, norm = np.finfo(matrix.dtype).eps, np.linalg.norm(matrix)
    valid = np.asarray(after.valid)
    span = vectors[:, :count].T @ wide(state.basis)
    rows = wide(after.basis)[valid]
    chex.assert_trees_all_close(span @ rows.conj().T @ rows, span, rtol=0, atol=2 * ORTHONORMAL * eps)
    compact = wide(after.matrix)[np.ix_(valid, valid)]
    chosen = np.sort_complex(values[np.abs(values) > radius])
    # Rounding moves an eigenvalue by its condition number times RELATION * eps * ||A||.
    w, left, right = scipy.linalg.eig(wide(state.matrix), left=True)
    condition = (1 / np.abs(np.sum(left.conj() * right, axis=0)))[np.abs(w) > radius].max()
    found = np.sort_complex(np.linalg.eigvals(compact))
    chex.assert_trees_all_close(found, chosen, rtol=0, atol=condition * RELATION * eps * norm)
    again = grown(jnp.asarray(matrix), after, M - count)
    assert_decomposes(again, matrix)
    assert int(again.num_matvecs) == 2 * M - count


def test_a_fresh_direction_drops_the_coupling_and_records_it(problem):
    matrix, _ = problem
    state = full(problem)
    vectors, count = schur_vectors(state, radius_between(np.linalg.eigvals(wide(state.matrix))))
    after = restarted(state, jnp.asarray(vectors.astype(matrix.dtype)), jnp.int32(count), jnp.asarray(True))
    assert not np.asarray(after.coupling).any()
    assert_decomposes(after, matrix, wide(after.defects))
    lost = np.abs(wide(state.coupling)[0] @ vectors[:, :count])
    bound = RELATION * np.finfo(matrix.dtype).eps * np.linalg.norm(matrix)
    found = wide(after.defects)[np.asarray(after.valid)]
    chex.assert_trees_all_close(np.sort(found), np.sort(lost), rtol=0, atol=bound)
    # The new residual block is not parallel to the old one.
    assert abs(np.vdot(after.residual_block, state.residual_block)) < 0.9


def test_what_a_subspace_lacks_of_invariance_is_recorded(problem, normal, rng):
    matrix, _ = problem
    state = full(problem)
    C = np.linalg.qr(normal(rng, (M, M), matrix.dtype))[0]
    after = restarted(state, jnp.asarray(C), jnp.int32(3), jnp.asarray(False))
    H, basis = wide(state.matrix), wide(C[:, :3])
    outside = H @ basis - basis @ (basis.conj().T @ H @ basis)
    bound = RELATION * np.finfo(matrix.dtype).eps * np.linalg.norm(matrix)
    found = wide(after.defects)[np.asarray(after.valid)]
    chex.assert_trees_all_close(np.sort(found), np.sort(np.linalg.norm(outside, axis=0)), rtol=0, atol=bound)
    assert_decomposes(after, matrix, wide(after.defects))


def test_an_exactly_invariant_subspace_goes_on_in_a_random_direction(scalar, normal, rng):
    # The matrix maps e_0 -> 2 e_1, e_1 -> 2 e_2, e_2 -> 2 e_0, and has another diagonal block.
    matrix = np.zeros((N, N), scalar)
    matrix[[1, 2, 0], [0, 1, 2]] = 2
    matrix[3:, 3:] = normal(rng, (N - 3, N - 3), scalar)
    state = grown(jnp.asarray(matrix), begun(jnp.asarray(np.eye(N, dtype=scalar)[0])), 3)
    assert bool(state.broken_down)
    assert not np.asarray(state.coupling).any()
    assert_decomposes(state, matrix)
    bound = RELATION * np.finfo(scalar).eps * 2
    roots = np.linalg.eigvals(wide(state.matrix)[:3, :3])
    chex.assert_trees_all_close(roots**3, np.full(3, 8.0 + 0j), rtol=0, atol=12 * bound)
    after = grown(jnp.asarray(matrix), state, M - 3)
    assert_decomposes(after, matrix)
    assert not wide(after.matrix)[3:, :3].any()
    assert bool(after.broken_down)  # the flag stays until a convergence check clears it


@pytest.mark.slow
def test_the_whole_space_has_no_direction_left(scalar, normal, rng):
    matrix = normal(rng, (M, M), scalar)
    state = grown(jnp.asarray(matrix), begun(jnp.asarray(normal(rng, M, scalar))), M)
    assert bool(state.broken_down)
    assert not np.asarray(state.coupling).any()
    basis, bound = wide(state.basis), RELATION * np.finfo(scalar).eps
    chex.assert_trees_all_close(basis.conj() @ basis.T, np.eye(M), rtol=0, atol=bound)
    left = wide(matrix) @ basis.T - basis.T @ wide(state.matrix)
    chex.assert_trees_all_close(left, np.zeros_like(left), rtol=0, atol=bound * np.linalg.norm(matrix))


@pytest.mark.parametrize("unusable", [0.0, np.nan])
def test_zero_matrices_and_starts_that_are_no_directions(unusable):
    matrix = np.zeros((N, N), np.float32)
    state = grown(jnp.asarray(matrix), begun(jnp.full(N, unusable, jnp.float32)), 3)
    chex.assert_tree_all_finite(state)
    assert_decomposes(state, matrix)
    assert bool(state.broken_down)
    assert int(state.num_valid) == 3
