"""Complex Schur form of small matrices: backward stable, unitary, and in any order, in difficult cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax.krylov.general.schur import Schur, reorder, schur
from eigenjax.krylov.general.triangular import triangular_eigenvectors

# Bound UNITS * eps on backward errors relative to the norm.
UNITS = 60.0
DECOMPOSE, REORDER, EIGENVECTORS = jax.jit(schur), jax.jit(reorder), jax.jit(triangular_eigenvectors)


def cases(n):
    rng = np.random.default_rng(0)
    normal = lambda: rng.normal(size=(n, n))
    decay = np.diag(10.0 ** -np.arange(n))
    return {
        "random": normal(),
        "complex": normal() + 1j * normal(),
        "Jordan block": np.eye(n) + np.eye(n, k=1),
        "Jordan block, lower": np.eye(n) + np.eye(n, k=-1),
        "cyclic permutation": np.roll(np.eye(n), 1, axis=0),
        "companion": np.vstack([-np.ones(n), np.eye(n)[:-1]]),
        "orthogonal": np.linalg.qr(normal())[0],
        "graded": decay @ normal() @ decay,
        "zero": np.zeros((n, n)),
        "identity": np.eye(n),
        "rank one": np.ones((n, n)),
        "symmetric": normal() + np.eye(n),
        "quarter turns": np.kron(np.eye(n // 2 + 1), [[0, 1], [-1, 0]])[:n, :n],
        "Wilkinson's": np.diag(np.arange(n, 0.0, -1)) + 20 * np.eye(n, k=1),
    }


def check(matrix):
    """Check one (n, n) complex64 or complex128 matrix: Schur form, reordered Schur form, eigenvectors."""
    eps, n = np.finfo(matrix.dtype).eps, len(matrix)
    form = DECOMPOSE(jnp.asarray(matrix))
    assert bool(form.converged)
    dense = matrix.astype(np.complex128)
    size = max(np.linalg.norm(dense), np.finfo(float).tiny)
    ranks = np.random.default_rng(1).permutation(n).astype(np.int32)
    other = REORDER(form, jnp.asarray(ranks))
    for found in (form, other):
        triangular, unitary = (np.asarray(x).astype(np.complex128) for x in found[:2])
        assert not np.tril(triangular, -1).any()
        assert np.linalg.norm(unitary @ triangular @ unitary.conj().T - dense) <= UNITS * eps * size
        assert np.linalg.norm(unitary.conj().T @ unitary - np.eye(n)) <= UNITS * eps
    moved = np.diag(other.triangular)[ranks]
    assert_allclose(moved, np.diag(form.triangular), rtol=0, atol=UNITS * eps * size)
    vectors = np.asarray(EIGENVECTORS(form.triangular)).astype(np.complex128)
    triangular = np.asarray(form.triangular).astype(np.complex128)
    residuals = np.linalg.norm(triangular @ vectors - vectors * np.diag(triangular), axis=0)
    assert (residuals <= UNITS * eps * size).all()
    assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=UNITS * eps)


@pytest.mark.slow
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 2, 12])
def test_every_case_in_both_precisions(n, dtype):
    wide = np.complex64 if dtype == np.float32 else np.complex128
    for matrix in cases(n).values():
        check(matrix.astype(wide))


@pytest.mark.parametrize("factor", [1e-20, 1e18])
def test_the_scale_does_not_matter(factor):
    for matrix in cases(12).values():
        check((factor * matrix).astype(np.complex64))


def test_eigenvalues_of_normal_matrices(float64):
    for name in ("cyclic permutation", "orthogonal", "symmetric"):
        matrix = cases(12)[name]
        matrix = matrix + matrix.T if name == "symmetric" else matrix
        truth = np.linalg.eigvals(matrix)
        found = np.diag(DECOMPOSE(jnp.asarray(matrix, complex)).triangular)
        assert np.abs(found[:, None] - truth).min(axis=0).max() < 1e-13
        assert np.abs(found[:, None] - truth).min(axis=1).max() < 1e-13


def test_a_batch_is_its_members_and_nan_stays_in_its_lane():
    matrices = np.stack([cases(12)[name] for name in ("random", "cyclic permutation", "zero")]).astype(np.complex64)
    matrices[2, 3, 4] = np.nan
    together = jax.jit(jax.vmap(schur))(jnp.asarray(matrices))
    assert together.converged.tolist() == [True, True, False]
    assert np.isnan(together.triangular[2]).all()
    assert np.isnan(together.unitary[2]).all()
    # Not the entries of the triangle: those of close eigenvalues depend on rounding far above 1e-5.
    for triangle, unitary, matrix in zip(together.triangular[:2], together.unitary[:2], matrices, strict=False):
        assert_allclose(unitary @ triangle @ unitary.conj().T, matrix, atol=1e-5)
        assert_allclose(unitary @ unitary.conj().T, np.eye(12), atol=1e-5)
        assert_allclose(np.tril(triangle, -1), 0, atol=1e-6)


def test_eigenvectors_of_a_jordan_block_do_not_overflow():
    matrix = 1e-6 * np.eye(40) + np.eye(40, k=1)
    vectors = triangular_eigenvectors(jnp.asarray(matrix, jnp.complex64))
    assert np.isfinite(vectors).all()
    assert_allclose(np.abs(vectors[0]), 1, atol=1e-3)


def test_equal_eigenvalues_change_places():
    form = Schur(jnp.eye(3, dtype=jnp.complex64), jnp.eye(3, dtype=jnp.complex64), jnp.asarray(True))
    other = reorder(form, jnp.array([2, 0, 1], jnp.int32))
    assert_allclose(np.diag(other.triangular), 1)
    assert_allclose(np.abs(other.unitary @ other.unitary.conj().T), np.eye(3), atol=1e-6)
