"""Nonsymmetric matrices, and the comparison of eigenpairs with a dense one."""

import numpy as np
from numpy.testing import assert_allclose
from scipy.linalg import eig

from eigenjax import Status, eigs

SIZE, K = 40, 4
# A residual may differ from the recomputed one by RESIDUAL_UNITS * eps * ||A||.
RESIDUAL_UNITS = 100.0


def normal(n=SIZE):
    """Construct a normal matrix with conjugate pairs and a few real eigenvalues in a random basis."""
    rng = np.random.default_rng(1)
    blocks = np.zeros((n, n))
    for i in range(0, n - 1, 2):
        modulus, angle = rng.uniform(0.2, 1) ** 2, rng.uniform(0, np.pi)
        blocks[i : i + 2, i : i + 2] = modulus * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
    blocks[0, 0], blocks[1, 1], blocks[0, 1], blocks[1, 0] = 1.2, -1.1, 0, 0
    vectors, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return vectors @ blocks @ vectors.T


def matrices(n=SIZE):
    rng = np.random.default_rng(0)
    chain = rng.uniform(size=(n, n)) ** 4
    return {
        "normal": normal(n),
        "random": rng.normal(size=(n, n)),
        "convection-diffusion": 2 * np.eye(n) - 1.3 * np.eye(n, k=-1) - 0.7 * np.eye(n, k=1),
        "Markov chain": chain / chain.sum(axis=1, keepdims=True),
        "rank three": rng.normal(size=(n, 3)) @ rng.normal(size=(3, n)),
        "triangular": np.diag(np.linspace(1, 3, n) ** 2) + 0.1 * np.triu(rng.normal(size=(n, n)), 1),
        "Grcar": np.eye(n) - np.eye(n, k=-1) + sum(np.eye(n, k=i) for i in (1, 2, 3)),
        "symmetric": (lambda a: a + a.T)(rng.normal(size=(n, n))),
    }


def solve(matrix, tol, v0=None, *, k=K, **options):
    # Compiled once for all calls that share the options; no missed-pair search, which `test_missed_pairs` covers.
    return eigs(matrix, k, tol=tol, v0=v0, **{"verify": False} | options)


def keys(values, which, *, real=True):
    imaginary = -np.abs(values.imag) if real else -values.imag
    return {"LM": -np.abs(values), "LR": -values.real, "SR": values.real, "LI": imaginary}[which]


def check(result, matrix, which="LM", *, tol, complete=True, k=K):
    """Compare one result with the dense matrix."""
    unit, matrix = np.finfo(matrix.dtype).eps, matrix.astype(np.result_type(matrix.dtype, np.float64))
    size = np.linalg.norm(matrix, 2)
    values = np.asarray(result.eigenvalues).astype(complex)
    vectors = np.asarray(result.eigenvectors).astype(complex)
    residuals = np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1)
    slack = RESIDUAL_UNITS * unit * size + np.finfo(float).tiny
    assert (np.abs(residuals - np.asarray(result.residuals)) <= slack).all()
    assert (residuals[np.asarray(result.converged)] <= tol * size + slack).all()
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=RESIDUAL_UNITS * unit)
    # Any component of largest magnitude: those of a cyclic permutation's vectors are equal up to rounding.
    sizes = np.abs(vectors)
    is_largest = sizes >= sizes.max(axis=1, keepdims=True) - RESIDUAL_UNITS * unit
    assert (is_largest & np.isclose(vectors, sizes, rtol=1e-7, atol=RESIDUAL_UNITS * unit)).any(axis=1).all()
    found = keys(values, which, real=np.isrealobj(matrix))
    assert (np.diff(found) >= -slack).all()
    if np.isrealobj(matrix):
        assert_conjugates_follow_each_other(values)
    if complete:
        assert result.converged.all(), result.residuals
        assert int(result.status) == Status.CONVERGED
        truth, left, right = eig(matrix, left=True)
        order = np.argsort(keys(truth, which, real=np.isrealobj(matrix)), kind="stable")
        conditions = 1 / np.abs(np.sum(left.conj() * right, axis=0))[order]
        wanted = keys(truth, which, real=np.isrealobj(matrix))[order][:k]
        allowed = 4 * conditions[:k].max() * (tol * size + slack)
        assert_allclose(found, wanted, rtol=0, atol=allowed)
        assert np.abs(values[:, None] - truth).min(axis=1).max() <= allowed


def assert_conjugates_follow_each_other(values):
    i = 0
    while i < len(values):
        if values[i].imag == 0:
            i += 1
            continue
        assert values[i].imag > 0, values
        assert i + 1 == len(values) or values[i + 1] == values[i].conj(), values
        i += 2
