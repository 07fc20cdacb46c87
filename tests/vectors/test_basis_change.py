"""Change of basis in place, against one matrix product in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.vectors.basis_change import change_basis

SIZES = [(1, 1), (2, 1), (5, 5), (6, 4), (20, 12), (20, 13), (33, 26), (30, 3)]
N = 50


def orthonormal(generator, m, p, *, is_complex=False):
    normal = generator.standard_normal((m, p)) + 1j * is_complex * generator.standard_normal((m, p))
    q, _ = np.linalg.qr(normal)
    return q if is_complex else q.real


@functools.partial(jax.jit)
def rotated_rows(basis, coefficients):
    return change_basis(basis, coefficients)


def assert_turned(basis, coefficients, tolerance):
    new, rows = (np.asarray(x) for x in rotated_rows(jnp.asarray(basis), jnp.asarray(coefficients)))
    assert len(set(rows.tolist())) == coefficients.shape[1], "a row holds two vectors"
    np.testing.assert_allclose(new[rows], coefficients.T @ basis, rtol=0, atol=tolerance)
    others = np.setdiff1d(np.arange(len(basis)), rows)
    assert (new[others] == 0).all()


@pytest.mark.parametrize(("m", "p"), SIZES)
def test_every_vector_is_the_combination_asked_for_and_other_rows_are_zero(m, p, float64, rng):
    assert_turned(rng.standard_normal((m, N)), orthonormal(rng, m, p), 1e-13 * m)


@pytest.mark.parametrize("trial", range(5))
def test_large_and_small_rows_of_coefficients_stay_stable_in_float32(trial, float64):
    # Coefficients over ten decades, as for converged Ritz vectors: pivoting keeps the factors below one.
    generator = np.random.default_rng(trial)
    graded, _ = np.linalg.qr(np.logspace(0, -10, 20)[:, None] * generator.standard_normal((20, 12)))
    assert_turned(orthonormal(generator, N, 20).T.astype(np.float32), graded.astype(np.float32), 3e-6)


@pytest.mark.parametrize("zeros", [[11], [8, 9, 10, 11], [0, 5], list(range(12))])
def test_columns_of_zeros_give_rows_of_zeros(zeros, float64, rng):
    coefficients = orthonormal(rng, 20, 12)
    coefficients[:, zeros] = 0
    assert_turned(rng.standard_normal((20, N)), coefficients, 1e-12)


def test_unit_vectors_are_only_chosen(float64, rng):
    # A permutation: the factorization has many zeros, and ties in the choice of pivots.
    assert_turned(rng.standard_normal((20, N)), np.eye(20)[:, rng.permutation(20)[:12]], 0)


def test_complex_coefficients_are_not_conjugated(float64, rng):
    basis = rng.standard_normal((20, N)) + 1j * rng.standard_normal((20, N))
    assert_turned(basis, orthonormal(rng, 20, 12, is_complex=True), 1e-12)


def test_a_pytree_is_turned_leaf_by_leaf_in_its_own_dtypes(float64, rng):
    coefficients = orthonormal(rng, 20, 12)
    basis = {
        "matrix": rng.standard_normal((20, 3, 4)),
        "scalar": rng.standard_normal(20),
        "empty": np.zeros((20, 0)),
        "narrow": rng.standard_normal((20, 5)).astype(np.float32),
    }
    new, rows = rotated_rows(jax.tree.map(jnp.asarray, basis), jnp.asarray(coefficients))
    for name, leaf in basis.items():
        assert new[name].dtype == leaf.dtype
        expected = np.tensordot(coefficients.T, leaf.astype(float), 1)
        tolerance = 1e-5 if name == "narrow" else 1e-12
        np.testing.assert_allclose(np.asarray(new[name])[np.asarray(rows)], expected, rtol=0, atol=tolerance)


def test_orthonormal_rows_stay_orthonormal(rng):
    # One change of basis costs a few eps of float32.
    basis = orthonormal(rng, N, 20).T.astype(np.float32)
    new, rows = rotated_rows(jnp.asarray(basis), jnp.asarray(orthonormal(rng, 20, 12).astype(np.float32)))
    changed = np.asarray(new, float)[np.asarray(rows)]
    assert np.abs(changed @ changed.T - np.eye(12)).max() < 10 * np.finfo(np.float32).eps


@pytest.mark.parametrize(("m", "p"), [(20, 12), (40, 32), (30, 9)])
def test_a_donated_basis_is_turned_in_place_beside_a_quarter_of_the_vectors(m, p):
    n = 100_000
    shapes = jax.ShapeDtypeStruct((m, n), jnp.float32), jax.ShapeDtypeStruct((m, p), jnp.float32)
    program = jax.jit(change_basis, donate_argnums=0).lower(*shapes).compile()
    vectors = program.memory_analysis().temp_size_in_bytes / (4 * n)
    assert vectors <= -(-p // 4) + 1
