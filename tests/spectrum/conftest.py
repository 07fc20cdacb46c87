"""Fixture of the spectrum tests: a distance between distributions."""

import numpy as np
import pytest


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


@pytest.fixture(name="kolmogorov", scope="session")
def _kolmogorov():
    return kolmogorov
