"""Cases of SciPy's test_lobpcg, PRIMME's and KrylovKit's generalized ones, against known eigenvalues or LAPACK."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from numpy.testing import assert_allclose
from scipy.sparse.linalg import aslinearoperator

from .adapter import eigs, eigsh, lobpcg

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]


def elastic_rod(n):
    """Return stiffness and mass of a rod of steel, fixed at one end: 1e10 and 1e-3 in SI units."""
    density, section, modulus, step = 7.85e3, 1e-4, 2.1e11, 1.0 / n
    one = np.eye(n, k=1) + np.eye(n, k=-1)
    stiffness = modulus * section / step * (np.diag(np.r_[np.full(n - 1, 2.0), 1.0]) - one)
    return stiffness, density * section * step / 6 * (np.diag(np.r_[np.full(n - 1, 4.0), 2.0]) + one)


def mikota(n):
    """Return the stiffness and the mass of the Mikota chain, with the eigenvalues 1, 4, 9, ..."""
    i = np.arange(1, n + 1)
    below = -np.arange(n - 1, 0, -1.0)
    stiffness = scipy.sparse.diags_array([below, np.arange(2 * n - 1, 0, -2.0), below], offsets=[-1, 0, 1])
    return stiffness.tocsr(), scipy.sparse.diags_array([1.0 / i], offsets=[0]).tocsr()


@pytest.mark.parametrize("n", [10, 20])
def test_elastic_rod(n, rng):
    a, b = elastic_rod(n)
    found, _ = lobpcg(a, rng.standard_normal((n, 2)), b, largest=False, tol=1e-10)
    assert_allclose(found, scipy.linalg.eigh(a, b, eigvals_only=True)[:2], rtol=1e-8)


@pytest.mark.parametrize("n", [10, 20, 128, 512])
def test_mikota_pairs_with_and_without_a_preconditioner(n, rng):
    a, b = mikota(n)
    k = min(n // 4, 5)
    exact, start = np.arange(1, k + 1) ** 2.0, rng.standard_normal((n, k))
    factor = jnp.asarray(np.linalg.inv(a.toarray()))
    found, _ = lobpcg(a, start, b, factor, largest=False, tol=1e-9)
    assert_allclose(found, exact, rtol=1e-8 * n)
    inverted, _ = eigsh(a, k, b, sigma=0.0)
    assert_allclose(inverted, exact, rtol=1e-8)


def test_a_diagonal_matrix_in_every_format_beside_known_vectors(rng):
    n, k = 30, 4
    values = np.arange(1.0, n + 1)
    a, one, inverse = (scipy.sparse.diags_array([x], offsets=[0]).tocsr() for x in (values, np.ones(n), 1 / values))
    start = rng.standard_normal((n, k))
    formats = (lambda x: x.toarray(), lambda x: x, aslinearoperator)
    for first, second, third in itertools.product(formats, repeat=3):
        found, _ = lobpcg(first(a), start, second(one), third(inverse), largest=False, tol=1e-9)
        assert_allclose(found, np.arange(1, k + 1), rtol=1e-8)
    found, vectors = lobpcg(a, start, one, inverse, np.eye(n, 3), largest=False, tol=1e-9)
    assert_allclose(found, np.arange(4, 4 + k), rtol=1e-8)
    assert_allclose(vectors[:, :3], 0, atol=1e-7)


@pytest.mark.parametrize("n", [8, 12])
def test_fiedler_vectors_of_a_path_from_exact_starts(n):
    path = np.eye(n, k=1) + np.eye(n, k=-1)
    laplacian = np.diag(path.sum(axis=1)) - path
    angles = np.pi * np.arange(n) / n
    exact, modes = 2 * (1 - np.cos(angles)), np.cos(np.outer(np.arange(n) + 0.5, angles))
    for largest, columns in ((False, slice(0, 2)), (True, slice(n - 2, n))):
        found, vectors = lobpcg(laplacian, modes[:, columns], largest=largest)
        assert_allclose(np.sort(found), exact[columns], atol=1e-13)
        assert_allclose(vectors @ laplacian, found[:, None] * vectors, atol=1e-8)
    guess = np.stack([np.ones(n), np.r_[np.ones(n // 2), -np.ones(n - n // 2)]], axis=1)
    assert_allclose(np.sort(lobpcg(laplacian, guess, largest=False, tol=1e-9)[0]), exact[:2], atol=1e-12)


def test_hermitian_pencils_of_both_precisions(rng):
    for size, k, pencil in itertools.product((3, 12), (1, 2), (False, True)):
        a = rng.random((size, size)) + 1j * rng.random((size, size))
        a = 10 * np.eye(size) + a + a.conj().T
        b = rng.random((size, size)) + 1j * rng.random((size, size))
        b = 10 * np.eye(size) + b @ b.conj().T if pencil else np.eye(size)
        exact = scipy.linalg.eigh(a, b, eigvals_only=True)[::-1][:k]
        for dtype, rtol in ((np.complex64, 1e-4), (np.complex128, 1e-10)):
            start = rng.standard_normal((size, k)).astype(dtype)
            mass = b.astype(dtype) if pencil else np.eye(size, dtype=dtype(0).real.dtype)
            assert_allclose(lobpcg(a.astype(dtype), start, mass)[0], exact, rtol=rtol)


def test_float32_identity_rank_and_the_sakurai_matrix(rng):
    n = 50
    matrix = scipy.sparse.diags_array([-np.arange(1, n + 1, dtype=np.float32)], offsets=[0])
    found, _ = lobpcg(matrix, rng.standard_normal((n, 3)).astype(np.float32), tol=1e-5)
    assert_allclose(found, [-1, -2, -3], atol=2e-5)
    assert_allclose(lobpcg(np.eye(10), np.ones((10, 1)))[0], 1)
    x = rng.standard_normal((100, 10))
    found, _ = lobpcg(x @ x.T, rng.standard_normal((100, 4)), tol=1e-12)
    assert_allclose(found, np.linalg.eigvalsh(x.T @ x)[::-1][:4], rtol=1e-10)
    # The squared second difference, condition n^4.
    chain = np.diag(np.r_[5.0, np.full(n - 2, 6.0), 5.0]) - 4 * (np.eye(n, k=1) + np.eye(n, k=-1))
    chain += np.eye(n, k=2) + np.eye(n, k=-2)
    exact = 16 * np.cos(np.arange(n, n - 3, -1) * np.pi / (2 * (n + 1))) ** 4
    found, _ = eigsh(chain, 3, sigma=0.0, tol=1e-9)
    assert_allclose(found, exact, rtol=1e-9)
    found, _ = eigsh(chain, 3, which="SA", tol=1e-10)
    assert_allclose(found, exact, atol=1e-12)


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
def test_random_pencils_with_a_positive_definite_mass(dtype, rng):
    n, k = 30, 3
    draw = lambda: rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if dtype in "FD" else 0)
    square, a, b = draw(), draw(), draw()
    a, b, rtol = a + a.conj().T, b @ b.conj().T / n + np.eye(n), 2e-3 if dtype in "fF" else 1e-8
    values = scipy.linalg.eigh(a, b, eigvals_only=True)
    for which, expected in (("LA", values[::-1][:k]), ("SA", values[:k])):
        found, vectors = eigsh(a.astype(dtype), k, b.astype(dtype), which=which)
        assert_allclose(found, expected, rtol=rtol)
        assert_allclose(vectors.conj() @ b @ vectors.T, np.eye(k), atol=1e-4 if dtype in "fF" else 1e-9)
    exact = scipy.linalg.eigvals(square, b)
    found, _ = eigs(square.astype(dtype), k, b.astype(dtype))
    assert_allclose(np.abs(found), np.sort(np.abs(exact))[::-1][:k], rtol=rtol)
