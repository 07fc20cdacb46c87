"""Backward errors of complete Krylov spaces: residuals as small as LAPACK's, however nonnormal the matrix is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eigenjax import Status, eigs
from eigenjax.krylov.general.schur import schur
from eigenjax.krylov.general.triangular import solve_shifted, triangular_eigenvectors

# Bound on residuals: FACTOR times LAPACK's residual or eps * ||A||, whichever is larger.
FACTOR = 10.0
# One size for all cases: one program for each dtype and number of pairs.
SIZE = 12

pytestmark = pytest.mark.usefixtures("float64")


def rotated(matrix, seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=matrix.shape))[0]
    return rotation @ matrix @ rotation.T


def far_from_normal():
    steps, chain = np.eye(SIZE, k=1), np.diag([1.0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 1], 1)
    return {
        "one Jordan block": rotated(2 * np.eye(SIZE) + steps, 1),
        "several Jordan blocks": rotated(np.diag([1.0, 1, 1, 3, 3, 1, 1, 5, -2, -2, -2, -2]) + chain, 2),
        "Jordan blocks of a conjugate pair": rotated(np.kron(np.eye(6), [[0, -1], [1, 0]]) + np.eye(SIZE, k=2), 3),
        "nilpotent": steps,
        "convection": 2 * np.eye(SIZE) - 1.8 * np.eye(SIZE, k=-1) - 0.2 * steps,
        "companion": np.vstack([-np.poly(np.arange(1, SIZE + 1) / SIZE)[1:], np.eye(SIZE)[:-1]]),
        "triangular": np.triu(np.arange(SIZE**2 * 1.0).reshape(SIZE, SIZE)),
        "triangle of ones": np.triu(np.ones((SIZE, SIZE))),
        "Grcar": np.eye(SIZE) - np.eye(SIZE, k=-1) + sum(np.eye(SIZE, k=i) for i in (1, 2, 3)),
        "repeated, not defective": np.kron(np.eye(6), [[1.0, 5.0], [0.0, 2.0]]),
    }


def normal():
    rotation = np.array([[1.0, -2.0], [2.0, 1.0]])
    return {
        "identity": np.eye(SIZE),
        "zero": np.zeros((SIZE, SIZE)),
        "symmetric": rotated(np.diag([4.0, 4, 4, 1, 1, 0, 0, 0, -3, -3, -3, 2]), 4),
        "repeated pairs": rotated(scipy.linalg.block_diag(*[rotation] * 4, 1, 1, 1, 1), 5),
        "shift of a cycle": np.roll(np.eye(SIZE), 1, axis=0),
    }


def largest_residual(matrix, values, vectors):
    wide = matrix.astype(complex)
    return np.linalg.norm(wide @ vectors - vectors * np.asarray(values, complex), axis=0).max()


solve = jax.jit(eigs, static_argnames="k")


def check(matrix, k):
    result = solve(jnp.asarray(matrix), k=k)
    values, vectors = np.asarray(result.eigenvalues), np.asarray(result.eigenvectors, complex).T
    lapack = largest_residual(matrix, *scipy.linalg.eig(matrix))
    unit = np.finfo(matrix.dtype).eps * np.linalg.norm(matrix, 2)
    assert largest_residual(matrix, values, vectors) <= FACTOR * max(lapack, unit)
    assert int(result.status) == Status.CONVERGED
    if k == len(matrix):
        # The set is closed under conjugation to the last bit.
        np.testing.assert_array_equal(np.sort_complex(values), np.sort_complex(values.conj()))
    return vectors


SLOW = [(np.float64, 2), (np.float32, SIZE), (np.float32, 2)]
CASES = [(np.float64, SIZE), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "k"), CASES)
def test_residuals_far_from_normal_are_as_small_as_those_of_lapack(dtype, k):
    for matrix in far_from_normal().values():
        check(matrix.astype(dtype), k)


@pytest.mark.parametrize(("dtype", "k"), CASES)
def test_vectors_of_a_normal_matrix_are_orthonormal_where_eigenvalues_repeat(dtype, k):
    for matrix in normal().values():
        vectors = check(matrix.astype(dtype), k)
        assert np.abs(vectors.conj().T @ vectors - np.eye(k)).max() < 100 * np.finfo(dtype).eps


def test_vectors_of_a_repeated_eigenvalue_that_is_not_defective_are_independent():
    vectors = check(far_from_normal()["repeated, not defective"], SIZE)
    assert np.linalg.svd(vectors, compute_uv=False)[-1] > 0.05


def test_shifted_triangular_systems():
    rng = np.random.default_rng(6)
    triangular = np.triu(rng.normal(size=(7, 7)) + 1j * rng.normal(size=(7, 7)))
    shifts, columns = rng.normal(size=3) + 0j, rng.normal(size=(7, 3)) + 0j
    found = np.asarray(solve_shifted(jnp.asarray(triangular), jnp.asarray(shifts), jnp.asarray(columns)))
    for shift, column, x in zip(shifts, columns.T, found.T, strict=True):
        true = np.linalg.solve(triangular - shift * np.eye(7), column)
        np.testing.assert_allclose(x, true / np.linalg.norm(true), rtol=1e-10)


@pytest.mark.slow
def test_triangular_eigenvectors_of_a_repeated_eigenvalue_couple_only_where_the_matrix_does():
    coupled = triangular_eigenvectors(jnp.array([[1.0, 1e-3], [0.0, 1.0]], complex))
    np.testing.assert_allclose(np.abs(coupled[:, 1]), [1, 0], atol=1e-6)
    apart = triangular_eigenvectors(jnp.array([[1.0, 1e-16], [0.0, 1.0 + 1e-16]], complex))
    np.testing.assert_allclose(np.abs(apart[:, 1]), [0, 1], atol=1e-6)
    assert bool(schur(jnp.eye(3)).converged)
