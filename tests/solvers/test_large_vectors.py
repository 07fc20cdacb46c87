"""Vectors of two million numbers in one leaf: inner products must not accumulate sequentially.

A CPU's matrix products do so, with an error of 6e-5 of the lengths at this size. No pair below would converge then.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import diagonal_operator, eigsh

SHAPE = (2048, 1024)
OUTLIERS, BULK = [50, -40, 30, 20, 15], np.linspace(-0.5, 0.5, 2**21).reshape(SHAPE)
TOL = 1e-5


def check(result, product):
    assert np.asarray(result.converged).all()
    values, vectors = np.asarray(result.eigenvalues, float), np.asarray(result.eigenvectors, float)
    np.testing.assert_allclose(values, OUTLIERS[:3], rtol=0, atol=0.02)
    for value, vector in zip(values, vectors, strict=True):
        assert np.linalg.norm(product(vector) - value * vector) <= 2 * TOL * 50
    rows = vectors.reshape(3, -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_basis_stays_orthogonal():
    diagonal = np.concatenate([OUTLIERS, BULK.reshape(-1)[5:]]).reshape(SHAPE).astype(np.float32)
    solve = lambda diagonal: eigsh(diagonal_operator(diagonal), 3, which="LM", tol=TOL)
    check(jax.jit(solve)(jnp.asarray(diagonal)), lambda v: diagonal.astype(float) * v)


@pytest.mark.slow
def test_a_recomputed_basis_gives_dense_eigenvectors():
    # The vectors of signs are orthonormal to rounding.
    rows, columns = np.indices(SHAPE)
    signs = [(-1.0) ** (((rows >> i) + (columns >> i)) % 2) / 2**10.5 for i in range(5)]

    def product(v, xp=np):
        narrow = [x.astype(v.dtype) for x in signs]
        return BULK.astype(v.dtype) * v + sum(c * xp.sum(x * v) * x for c, x in zip(OUTLIERS, narrow, strict=True))

    solve = lambda v0: eigsh(lambda v: product(v, jnp), 3, which="LM", tol=TOL, v0=v0, basis="recompute")
    check(jax.jit(solve)(jnp.asarray(np.cos(rows * columns + 1.0), jnp.float32)), product)
