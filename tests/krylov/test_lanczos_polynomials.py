"""Lanczos polynomials at an eigenvalue, against the components of its eigenvector in the basis, by NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator
from eigenjax.krylov import decomposition, lanczos_polynomials
from eigenjax.krylov.decomposition import begin
from eigenjax.krylov.expansion import expand, orthonormalized
from eigenjax.krylov.golub_kahan import bidiagonalization
from eigenjax.krylov.thick_restart import begin_search
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.vectors.pseudorandom import seed_of

pytestmark = pytest.mark.usefixtures("float64")

N, M, STEPS = 24, 8, 6


def orthonormal(rng, rows, columns, is_complex):
    """Draw a matrix with this number of orthonormal columns."""
    normal = rng.standard_normal((2, rows, columns))
    return np.linalg.qr(normal[0] + 1j * normal[1] if is_complex else normal[0])[0]


@functools.partial(jax.jit, static_argnames=("expand", "steps"))
def grown(expand, matrix, starts, levels, steps):
    op = as_operator(matrix)
    state = orthonormalized(begin(starts, M, seed_of(jax.random.key(1)), levels=levels))
    return jax.lax.fori_loop(0, steps, lambda _, state: expand(op, state), state)


@jax.jit
def restarted(state, coefficients):
    zeros = jnp.zeros(coefficients.shape[1], state.defects.dtype)
    return decomposition.compress(state, coefficients, state.coupling @ coefficients, zeros)


def assert_holds(state, vector, weights, level=0):
    """Assert <u, v_j> = sum_s p_sj(lambda) <u, s_s> for all basis vectors and the residual block."""
    values = np.concatenate([np.asarray(state.polynomials.rows), np.asarray(state.polynomials.residual_block)], axis=2)
    basis = np.concatenate([np.asarray(state.basis), np.asarray(state.residual_block)])
    held = basis @ vector.conj()
    np.testing.assert_allclose(weights @ values[level], held, rtol=1e-8, atol=1e-12)
    # Therefore the polynomials bound the component of u in the start block.
    assert np.linalg.norm(weights) <= 1 / float(lanczos_polynomials.amplitudes(state.polynomials)[level]) + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("is_complex", [False, True])
def test_they_are_what_the_basis_holds_of_an_eigenvector(block_size, is_complex, rotated, rng):
    matrix = rotated(np.linspace(-2, 5, N), is_complex=is_complex)
    values, vectors = np.linalg.eigh(matrix)
    starts = orthonormal(rng, N, block_size, is_complex).T
    levels = jnp.asarray(values[[-1, -2]])
    state = grown(expand, jnp.asarray(matrix), jnp.asarray(starts), levels, STEPS // block_size)
    for level, vector in enumerate(vectors.T[[-1, -2]]):
        assert_holds(state, vector, starts @ vector.conj(), level)
    # A restart combines the rows.
    coefficients = np.zeros((M, 3), matrix.dtype)
    coefficients[np.asarray(state.valid)] = orthonormal(rng, STEPS, 3, is_complex)
    state = restarted(state, jnp.asarray(coefficients))
    for level, vector in enumerate(vectors.T[[-1, -2]]):
        assert_holds(state, vector, starts @ vector.conj(), level)


@pytest.mark.slow
def test_a_locked_vector_is_left_out(rotated, rng):
    matrix = rotated(np.r_[np.linspace(-2, 2, N - 2), 5, 5])
    vectors = np.linalg.eigh(matrix)[1]
    op = as_operator(jnp.asarray(matrix))
    state = orthonormalized(begin(jnp.asarray(vectors.T[-1:]), M, seed_of(None), levels=jnp.asarray([5.0])))
    state = expand(op, state)  # the start is an eigenvector: the next direction is random
    assert state.broken_down
    state = state._replace(polynomials=begin_search(state, jnp.asarray([5.0])), broken_down=jnp.zeros((), bool))
    start = np.asarray(state.residual_block[0])
    for _ in range(4):
        state = expand(op, state)
    assert_holds(state, vectors[:, -2], np.array([start @ vectors[:, -2]]))


def test_those_of_arnoldi_are_what_the_basis_holds_of_a_left_eigenvector(rng):
    matrix = rng.standard_normal((N, N))
    values, left = np.linalg.eig(matrix.T)
    place = np.argmax(np.abs(values))
    start = orthonormal(rng, N, 1, is_complex=False).T
    state = grown(
        functools.partial(expand, symmetric=False),
        jnp.asarray(matrix),
        jnp.asarray(start),
        jnp.asarray(values[[place]]),
        STEPS,
    )
    # The left eigenvector satisfies y^H A = lambda y^H; y is the conjugate of an eigenvector of the transpose.
    assert_holds(state, np.conj(left[:, place]), start @ left[:, place])


@pytest.mark.slow
@pytest.mark.parametrize("is_complex", [False, True])
def test_those_of_both_bases_are_what_they_hold_of_singular_vectors(is_complex, rng):
    rows, columns = orthonormal(rng, N + 6, N, is_complex), orthonormal(rng, N, N, is_complex)
    singular = np.linspace(0.1, 4, N)
    matrix = (rows * singular) @ columns.conj().T
    start = orthonormal(rng, N, 1, is_complex)[:, 0]
    op = as_rectangular(jnp.asarray(matrix))
    state = bidiagonalization.initialize(op, jnp.asarray(start), M, seed_of(None), num_levels=1)
    state = state._replace(polynomials=bidiagonalization.begin_search(state, jnp.asarray([singular[-1]])))
    for _ in range(STEPS):
        state = bidiagonalization.expand(op, state)
    weight = columns[:, -1].conj() @ start
    held = np.asarray(state.right) @ columns[:, -1].conj()
    np.testing.assert_allclose(weight * np.asarray(state.polynomials.right[0]), held, rtol=1e-8, atol=1e-12)
    held = np.asarray(state.left) @ rows[:, -1].conj()
    np.testing.assert_allclose(weight * np.asarray(state.polynomials.left[0]), held, rtol=1e-8, atol=1e-12)


def test_they_do_not_overflow():
    # Two steps with a matrix that couples the start vector to the others by 1e-13 only.
    matrix = np.diag([1.0, 2.0, 3.0]) + 1e-13 * (np.eye(3, k=1) + np.eye(3, k=-1))
    state = grown(expand, jnp.asarray(matrix), jnp.eye(3)[:1], jnp.asarray([1e10]), 2)
    assert np.isfinite(np.asarray(lanczos_polynomials.amplitudes(state.polynomials))).all()
