"""Grcar matrices, whose eigenvalues float64 cannot give: what `eigs` says of its pairs is true, and no more than that.

The truth comes from D A D^-1 with D = diag(r^j): the eigenvalues are the same, and for each there is an r with which it
is well-conditioned. The conditions in A itself follow from those vectors, scaled back.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eigenjax import Status, eigs, left_eigenvectors

K = 4
_WELL_CONDITIONED = 1e4

pytestmark = pytest.mark.usefixtures("float64")


def grcar(n):
    return np.eye(n) - np.eye(n, k=-1) + sum(np.eye(n, k=i) for i in (1, 2, 3))


@functools.cache
def truth(n):
    """All n eigenvalues, to some 1e-12, and their conditions in A."""
    best = {}
    for r in np.linspace(1.05, 1.5, 10):
        scale = r ** np.arange(n)
        values, left, right = scipy.linalg.eig(grcar(n) * scale[:, None] / scale, left=True, right=True)
        overlaps = np.abs(np.sum(left.conj() * right, axis=0))
        original = np.linalg.norm(left * scale[:, None], axis=0) * np.linalg.norm(right / scale[:, None], axis=0)
        for value, condition, in_a in zip(values, 1 / overlaps, original / overlaps, strict=True):
            key = (round(value.real, 6), round(value.imag, 6))
            if condition < min(_WELL_CONDITIONED, best.get(key, (0, np.inf))[1]):
                best[key] = value, condition, in_a
    values, _, conditions = (np.array(column) for column in zip(*best.values(), strict=True))
    assert len(values) == n
    return values, conditions


@functools.partial(jax.jit, static_argnames="which")
def solved(matrix, tol, which):
    result = eigs(matrix, K, which=which, tol=tol)
    return result, left_eigenvectors(matrix, result)


@pytest.mark.parametrize(
    ("n", "which"),
    [
        pytest.param(24, "LR", marks=pytest.mark.slow),
        (100, "LM"),
        pytest.param(100, "LR", marks=pytest.mark.slow),
        pytest.param(200, "LM", marks=pytest.mark.slow),
        pytest.param(200, "LR", marks=pytest.mark.slow),
    ],
)
def test_what_is_said_of_the_pairs_of_a_grcar_matrix_is_true(n, which):
    matrix = grcar(n)
    values, conditions = truth(n)
    norm = np.linalg.norm(matrix, 2)
    for tol in (1e-4, 1e-8):
        result, left = solved(jnp.asarray(matrix), tol, which)
        found, vectors = np.asarray(result.eigenvalues), np.asarray(result.eigenvectors)
        residuals = np.linalg.norm(matrix @ vectors.T - vectors.T * found, axis=0)
        np.testing.assert_allclose(result.residuals, residuals, rtol=1e-6, atol=1e-14 * n)
        assert np.all(residuals[np.asarray(result.converged)] <= tol * norm)
        # So far from normal the search may find something else each time, which depends on the last digits.
        assert np.all(result.converged) == (int(result.status) in (Status.CONVERGED, Status.UNVERIFIED))
        for value, residual in zip(found, residuals, strict=True):
            # An eigenvalue of a matrix that is no further away than the residual: all that a residual promises.
            assert np.linalg.svd(matrix - value * np.eye(n), compute_uv=False)[-1] <= residual + 1e-13
        # Its distance from the true one is bounded by the condition, where that is known. Infinity is said of the rest.
        distances = np.abs(found[:, None] - values)
        assert np.all(distances.min(axis=1) <= 2 * np.asarray(left.conditions) * (residuals + 1e-13))
        known = np.isfinite(left.conditions)
        assert np.all(known) or n > 50
        if tol == 1e-8:
            true = conditions[distances.argmin(axis=1)]
            np.testing.assert_allclose(np.asarray(left.conditions)[known], true[known], rtol=1e-2)
            assert np.all(known | (true > 1e3))
