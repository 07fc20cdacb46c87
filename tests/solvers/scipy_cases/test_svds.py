"""Cases of SciPy's test_svds: both ends, small and rank-deficient matrices, against LAPACK in float64."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from numpy.testing import assert_allclose
from scipy.sparse.linalg import aslinearoperator

from .adapter import svds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]

FIRST = [[1, 2, 3], [3, 4, 3], [1 + 1j, 0, 2], [0, 0, 1]]
SECOND = [[1, 2, 3, 8 + 5j], [3 - 2j, 4, 3, 5], [1, 0, 2, 3], [0, 0, 1, 0]]


def check(a, found, which, *, atol):
    left, values, right = found
    k, exact = len(values), scipy.linalg.svdvals(a)
    assert_allclose(np.sort(values), np.sort(exact)[-k:] if which == "LM" else np.sort(exact)[:k], atol=atol)
    assert_allclose(right @ a.T, values[:, None] * left, atol=10 * atol)
    assert_allclose(left @ a.conj(), values[:, None] * right, atol=1e3 * atol)
    for vectors in (left, right):
        assert_allclose(vectors.conj() @ vectors.T, np.eye(k), atol=10 * atol)


@pytest.mark.parametrize("which", ["LM", "SM"])
@pytest.mark.parametrize("given", [FIRST, SECOND])
def test_small_matrices_of_every_type(given, which):
    for real in (True, False):
        for a in (np.asarray(given), np.asarray(given).T):
            a = a.real if real else a
            for matrix_type in (np.asarray, scipy.sparse.csc_array, aslinearoperator):
                for k in range(1, min(a.shape) + 1):
                    # SciPy's arrays of integers are operators too.
                    given_matrix = matrix_type(a.astype(a.dtype if matrix_type is np.asarray else complex))
                    given_matrix = matrix_type(a.astype(float)) if real else given_matrix
                    check(a, svds(given_matrix, k, which=which, tol=1e-10), which, atol=3e-9)


@pytest.mark.parametrize("which", ["LM", "SM"])
@pytest.mark.parametrize("k", [3, 5])
def test_k_and_which(k, which, rng):
    a = rng.random((10, 10))
    check(a, svds(a, k, which=which, tol=1e-12), which, atol=1e-9)


def test_linear_operators_with_start_vectors():
    for n, m, k in ((6, 7, 3), (9, 5, 4), (10, 8, 5)):
        for which, seed in (("LM", 52), ("SM", 1909)):
            a = np.random.default_rng(seed).standard_normal((n, m))
            v0 = np.ones(m)
            matrix, operator = svds(a, k, which=which, v0=v0), svds(aslinearoperator(a), k, which=which, v0=v0)
            for one, other in zip(matrix, operator, strict=True):
                assert_allclose(one, other, rtol=1e-6, atol=1e-6)
            check(a, matrix, which, atol=1e-6)


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
@pytest.mark.parametrize("shape", [(100, 100), (100, 101), (101, 100)])
def test_small_values_of_a_sparse_matrix(shape, dtype, rng):
    a = scipy.sparse.random_array(shape, density=0.1, rng=rng)
    scales = np.ones(shape[0])
    scales[:5] *= 10.0 ** np.arange(-5, 0)
    a = (scipy.sparse.dia_array((scales[None], [0]), shape=(shape[0], shape[0])) @ a).astype(dtype).tocsr()
    left, values, right = svds(a, 5, which="SM")
    dense = a.toarray().astype("D")
    assert_allclose(values, np.sort(scipy.linalg.svdvals(dense))[:5], atol=2e-3 if dtype in "fF" else 1e-7)
    assert_allclose(right @ dense.T, values[:, None] * left, atol=2e-2 if dtype in "fF" else 1e-6)


@pytest.mark.parametrize("shape", [(6, 5), (5, 5), (5, 6)])
def test_a_matrix_of_ones_and_zero(shape):
    for dtype in (float, complex):
        a = np.ones(shape, dtype)
        check(a, svds(a, 3), "LM", atol=1e-7)
        left, values, right = svds(0 * a, 1)
        assert values == 0
        assert_allclose([np.linalg.norm(left), np.linalg.norm(right)], 1, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
def test_values_over_many_orders_and_null_spaces(dtype, rng):
    for shape in ((20, 20), (20, 21), (21, 20)):
        u, _, vh = scipy.linalg.svd(rng.random(shape), full_matrices=False)
        a = ((u * (10.0 if dtype in "fF" else 100.0) ** -np.arange(len(vh))) @ vh).astype(dtype)
        check(a.astype("D"), svds(a, 4), "LM", atol=1e-3 if dtype in "fF" else 1e-7)
    x = rng.random((10, 6))
    a = np.hstack([x, x[:, :4] * rng.random(4)]).astype(dtype)
    left, values, right = svds(scipy.sparse.csc_array(a), 4, which="SM")
    small = 1e-5 if dtype in "fF" else 1e-12
    assert_allclose(values, 0, atol=small)
    assert_allclose(right @ a.T, 0, atol=10 * small)
    assert_allclose(left @ a.conj(), 0, atol=1e-2 if dtype in "fF" else 1e-6)
