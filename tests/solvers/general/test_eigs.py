"""Solver `eigs` against dense float64: the wanted pairs, true residuals, and correct flags."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import orth

from .conftest import SIZE, K, check, matrices, solve

pytestmark = pytest.mark.usefixtures("float64")

SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "which", ["LM", pytest.param("LI", marks=SLOW), pytest.param("LR", marks=SLOW), pytest.param("SR", marks=SLOW)]
)
def test_the_pairs_wanted_of_every_matrix(which):
    for name, matrix in matrices().items():
        # All imaginary parts of real eigenvalues are equal.
        if which == "LI" and name in ("convection-diffusion", "symmetric", "rank three", "triangular"):
            continue
        result = solve(jnp.asarray(matrix), 1e-9, which=which)
        check(result, matrix, which, tol=1e-9)


@SLOW
def test_a_basis_hardly_larger_than_the_pairs():
    for name in ("normal", "random", "convection-diffusion"):
        matrix = matrices()[name]
        check(solve(jnp.asarray(matrix), 1e-6, k=6, krylov_dim=10, max_matvecs=5000), matrix, tol=1e-6, k=6)


@pytest.mark.slow
def test_float32_and_its_default_tolerance():
    for matrix in matrices().values():
        matrix = matrix.astype(np.float32)
        result = solve(jnp.asarray(matrix), None)
        assert result.eigenvectors.dtype == np.complex64
        check(result, matrix, tol=np.finfo(np.float32).eps ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["LM", "LI"])
def test_complex_operators(which, rng):
    matrix = rng.normal(size=(SIZE, SIZE)) + 1j * rng.normal(size=(SIZE, SIZE))
    check(solve(jnp.asarray(matrix), 1e-9, which=which), matrix, which, tol=1e-9)


@pytest.mark.slow
def test_a_cyclic_permutation_and_a_rotation():
    # All eigenvalues have modulus one: any k distinct ones are correct.
    for matrix in (np.roll(np.eye(SIZE), 1, axis=0), orth(np.random.default_rng(2).normal(size=(SIZE, SIZE)))):
        result = solve(jnp.asarray(matrix), 1e-9, krylov_dim=SIZE)
        check(result, matrix, tol=1e-9)
        assert len(np.unique(np.round(np.asarray(result.eigenvalues), 6))) == K


@pytest.mark.slow
def test_multiples_of_the_identity_and_zero():
    for factor in (0.0, 1.0, 1e-6, -1e6):
        result = solve(factor * jnp.eye(SIZE), 1e-9)
        check(result, factor * np.eye(SIZE), tol=1e-9)
        assert_allclose(result.eigenvalues, factor, rtol=1e-12)
        assert np.linalg.matrix_rank(np.asarray(result.eigenvectors), tol=1e-6) == K
        # One matvec for each pair and one that finds no other pair; then residuals are computed, not estimated.
        assert int(result.num_matvecs) <= K + 1 + 2 * K + 1


def test_a_defective_matrix_has_true_residuals():
    for shift in (0.0, 1.0):
        block = shift * np.eye(SIZE) + np.eye(SIZE, k=1)
        result = solve(jnp.asarray(block), 1e-9, krylov_dim=SIZE)
        check(result, block, tol=1e-9, complete=False)
        # The result is exact for a nearby matrix: its eigenvalues lie within a circle of radius eps^(1/n).
        assert np.all(np.abs(result.eigenvalues - shift) < 1.01)
    restarted = solve(jnp.asarray(block), 1e-9)
    check(restarted, block, tol=1e-9, complete=False)
