"""Fixtures of the spectrum tests: matrices with known spectra, and a distance between distributions."""

import numpy as np
import pytest


def rotated(eigenvalues, seed=0, *, is_complex=False):
    """Construct a dense symmetric (complex Hermitian) matrix with these eigenvalues and random eigenvectors."""
    generator = np.random.default_rng(seed)
    n = len(eigenvalues)
    normal = generator.standard_normal((n, n)) + 1j * is_complex * generator.standard_normal((n, n))
    vectors, _ = np.linalg.qr(normal)
    matrix = (vectors * np.asarray(eigenvalues, float)) @ vectors.conj().T
    matrix = (matrix + matrix.conj().T) / 2
    return matrix if is_complex else matrix.real


def kolmogorov(cdf, eigenvalues, unit):
    """Compute sup_x |F^(x) - F(x)|, both sides of each step; points within 100 eps ||A|| count as equal.

    Between eigenvalues F is constant and F^ increases: the supremum is at an eigenvalue or directly before one. F^(x)
    is compared with all values of F within the rounding of x: a step may lie on either side.
    """
    values = np.sort(np.asarray(eigenvalues, float))
    slack = 100 * unit * np.abs(values).max()
    least = lambda x: np.searchsorted(values, x - slack, side="left") / len(values)
    most = lambda x: np.searchsorted(values, x + slack, side="right") / len(values)
    distance = 0.0
    for x in (values, values - slack):
        found = np.asarray(cdf(x), float)
        distance = max(distance, (found - most(x)).max(), (least(x) - found).max())
    return distance


@pytest.fixture(name="rotated", scope="session")
def _rotated():
    return rotated


@pytest.fixture(name="kolmogorov", scope="session")
def _kolmogorov():
    return kolmogorov
