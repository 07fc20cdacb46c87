"""Comparison of singular triplets with a dense matrix."""

import numpy as np
from numpy.testing import assert_allclose

from eigenjax import Status
from tests.conftest import flat

# Residuals and singular values may differ from the exact ones by UNITS * eps * ||A||.
UNITS = 50.0
ORTHONORMALITY = {"float32": 1e-5, "float64": 1e-12}


def check_result(result, matrix, *, tol=None, complete=True, smallest=False):
    """Compare a SingularResult with the dense matrix: values, true residuals, orthonormality, signs and status."""
    matrix = np.asarray(matrix)
    eps = np.finfo(matrix.dtype).eps
    dense = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    truth = np.linalg.svd(dense, compute_uv=False)
    tol = eps**0.5 if tol is None else tol
    slack = UNITS * eps * truth[0] + np.finfo(float).tiny
    left, values, right = flat(result.left), np.asarray(result.values, float), flat(result.right)
    there = np.linalg.norm(right @ dense.T - values[:, None] * left, axis=1)
    back = np.linalg.norm(left @ dense.conj() - values[:, None] * right, axis=1)
    residuals, converged = np.hypot(there, back), np.asarray(result.converged)
    assert_allclose(np.asarray(result.residuals, float), residuals, rtol=0, atol=slack)
    assert (residuals[converged] <= tol * truth[0] + slack).all()
    assert (np.diff(values) * (-1 if smallest else 1) <= 0).all()
    assert (values >= 0).all()
    for side in (left, right):
        bound = ORTHONORMALITY[str(np.asarray(result.values).dtype)]
        assert_allclose(side.conj() @ side.T, np.eye(len(values)), rtol=0, atol=bound)
    assert_signs_fixed(right)
    if complete:
        assert converged.all(), f"not converged: {np.flatnonzero(~converged)}"
        assert int(result.status) == Status.CONVERGED
        # The error (squared residual over gap) is far below this bound, and in a cluster at most the cluster's width.
        assert_allclose(values, (truth[::-1] if smallest else truth)[: len(values)], rtol=0, atol=slack)


def assert_signs_fixed(rows):
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    assert_allclose(largest, np.abs(largest), rtol=1e-5)
