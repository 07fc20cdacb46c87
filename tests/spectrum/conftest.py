"""Spectra with a truth that needs no solver, and how far a distribution is from them."""

import numpy as np
import pytest


def rotated(eigenvalues, seed=0, *, is_complex=False):
    """A dense symmetric (complex Hermitian) matrix with these eigenvalues and random eigenvectors."""
    generator = np.random.default_rng(seed)
    n = len(eigenvalues)
    normal = generator.standard_normal((n, n)) + 1j * is_complex * generator.standard_normal((n, n))
    vectors, _ = np.linalg.qr(normal)
    matrix = (vectors * np.asarray(eigenvalues, float)) @ vectors.conj().T
    matrix = (matrix + matrix.conj().T) / 2
    return matrix if is_complex else matrix.real


def kolmogorov(cdf, eigenvalues, unit):
    """sup_x |F^(x) - F(x)|, both sides of each step; what lies within 100 units of rounding of ||A|| is one place.

    Between eigenvalues F is flat and F^ rises, so the supremum is at an eigenvalue or just before one. F^(x) is held
    against all that F is within the rounding of x: a step may be there or not yet.
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
