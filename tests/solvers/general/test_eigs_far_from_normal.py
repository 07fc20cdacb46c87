"""Grcar matrices, whose eigenvalues float64 cannot resolve: residuals, flags and conditions of `eigs` are correct.

The reference comes from D A D^-1 with D = diag(r^j), which has the same eigenvalues. For each eigenvalue some r makes
it well-conditioned. The condition numbers in A follow from the eigenvectors scaled back.
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
    """Compute all n eigenvalues, to about 1e-12, and their condition numbers in A."""
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


@pytest.mark.slow
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
        # Far from normal, the pairs that the search finds depend on rounding.
        assert np.all(result.converged) == (int(result.status) in (Status.CONVERGED, Status.UNVERIFIED))
        for value, residual in zip(found, residuals, strict=True):
            # The value is an exact eigenvalue of a matrix within a distance of the residual (backward error).
            assert np.linalg.svd(matrix - value * np.eye(n), compute_uv=False)[-1] <= residual + 1e-13
        # The condition number bounds the distance from the true eigenvalue. Infinity stands for an unknown condition.
        distances = np.abs(found[:, None] - values)
        assert np.all(distances.min(axis=1) <= 2 * np.asarray(left.conditions) * (residuals + 1e-13))
        determined = np.isfinite(left.conditions)
        assert np.all(determined) or n > 50
        if tol == 1e-8:
            true = conditions[distances.argmin(axis=1)]
            np.testing.assert_allclose(np.asarray(left.conditions)[determined], true[determined], rtol=1e-2)
            assert np.all(determined | (true > 1e3))
