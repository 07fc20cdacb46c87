"""What every solver's answer is held against: dense float64 arithmetic in numpy, never the library's own."""

import functools

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from eigenjax import Status

# A residual may differ from the recomputed one by so many units of rounding of ||A||.
RESIDUAL_UNITS = 50.0
# Orthonormality that no dtype may fall short of.
ORTHONORMALITY = {"float32": 1e-5, "float64": 1e-12, "complex64": 1e-5, "complex128": 1e-12}


def rotated(eigenvalues, seed=0, *, is_complex=False):
    """A dense float64 symmetric (complex Hermitian) matrix with these eigenvalues and random eigenvectors."""
    generator = np.random.default_rng(seed)
    n = len(eigenvalues)
    normal = generator.standard_normal((n, n)) + 1j * is_complex * generator.standard_normal((n, n))
    vectors, _ = np.linalg.qr(normal)
    matrix = (vectors * np.asarray(eigenvalues, float)) @ vectors.conj().T
    matrix = (matrix + matrix.conj().T) / 2
    return matrix if is_complex else matrix.real


def flat(vectors):
    """(k, n) float64 or complex128 rows of a pytree with a leading axis k on every leaf."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(vectors)]
    wide = np.complex128 if any(np.iscomplexobj(leaf) for leaf in leaves) else np.float64
    return np.concatenate([leaf.astype(wide).reshape(len(leaf), -1) for leaf in leaves], axis=1)


@functools.lru_cache(maxsize=100)
def dense_eigenvalues(data, dtype):
    """(n,) ascending, of the Hermitian matrix in these bytes."""
    entries = np.frombuffer(data, dtype)
    return np.linalg.eigvalsh(entries.reshape(int(len(entries) ** 0.5), -1))


def wanted_keys(values, which):
    """Sorted keys, the most wanted first; those of "LM" do not tell the signs of a tie apart."""
    values = np.sort(np.asarray(values, float))
    if which == "BE":
        ends = [values[::-1][i // 2] if i % 2 == 0 else values[i // 2] for i in range(len(values))]
        return np.array(ends)
    return {"LM": np.sort(np.abs(values))[::-1], "LA": values[::-1], "SA": values}[which]


def check_result(result, matrix, *, which="LM", tol=None, unit=None, complete=False, accuracy=None):
    """Holds one EigenResult against the dense matrix it was computed from.

    Args:
        result: without batch axes.
        matrix: (n, n), as the operator holds it; widened to float64 here.
        which: as of the solve.
        tol: as of the solve; None is sqrt(eps) of the result's dtype.
        unit: rounding unit of the operator; None is the eps of the matrix's dtype.
        complete: whether all k wanted eigenvalues must be there and flagged.
        accuracy: of complete eigenvalues, relative to ||A||; None is that of the residuals' rounding.
    """
    matrix = np.asarray(matrix)
    unit = np.finfo(matrix.dtype).eps if unit is None else unit
    dense = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    truth = dense_eigenvalues(dense.tobytes(), dense.dtype)
    size = np.abs(truth).max()
    slack = RESIDUAL_UNITS * unit * size
    values, vectors = np.asarray(result.eigenvalues, float), flat(result.eigenvectors)
    converged = np.asarray(result.converged)
    tol = np.finfo(np.asarray(result.residuals).dtype).eps ** 0.5 if tol is None else tol

    true_residuals = np.linalg.norm(vectors @ dense.T - values[:, None] * vectors, axis=1)
    np.testing.assert_array_less(
        np.abs(true_residuals - np.asarray(result.residuals, float)), slack + np.finfo(float).tiny
    )
    bound = max(ORTHONORMALITY[str(leaf.dtype)] for leaf in jax.tree.leaves(result.eigenvectors))
    np.testing.assert_allclose(vectors.conj() @ vectors.T, np.eye(len(values)), rtol=0, atol=bound)
    np.testing.assert_array_less(true_residuals[converged], tol * size + slack + np.finfo(float).tiny)
    assert_each_counted_once(values[converged], true_residuals[converged], truth, slack)
    assert_in_order(values, which)
    if complete:
        assert converged.all(), f"not converged: {np.flatnonzero(~converged)}"
        assert int(result.status) == Status.CONVERGED
        found, wanted = wanted_keys(values, which), wanted_keys(truth, which)[: len(values)]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=slack if accuracy is None else accuracy * size)


def assert_each_counted_once(values, residuals, truth, slack):
    """Each value has an eigenvalue of its own within its bound: none serves two beyond its multiplicity."""
    if len(values):
        bound = np.sqrt(np.sum(residuals**2)) + slack
        too_far = np.abs(values[:, None] - truth[None, :]) > bound
        rows, columns = linear_sum_assignment(too_far)
        assert not too_far[rows, columns].any(), f"of {values} some are no eigenvalues, or counted twice"


def assert_in_order(values, which):
    """The most wanted first."""
    if which == "BE":
        np.testing.assert_array_equal(values, wanted_keys(values, which))
    else:
        keys = {"LM": -np.abs(values), "LA": -values, "SA": values}[which]
        assert (np.diff(keys) >= 0).all(), values


@pytest.fixture(name="rotated", scope="session")
def _rotated():
    return rotated


@pytest.fixture(name="check_result", scope="session")
def _check_result():
    return check_result


@pytest.fixture(name="flat", scope="session")
def _flat():
    return flat
