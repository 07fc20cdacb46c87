"""Repeated Gram-Schmidt orthogonalization, and random directions at a breakdown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import eigs, eigsh, lanczos, svds
from eigenjax.vectors.orthogonalize import normalize, orthogonalize, random_direction, unless_broken_down


def orthonormal(rng, m, n, dtype):
    return jnp.asarray(np.linalg.qr(rng.standard_normal((n, m)))[0].T.astype(dtype))


@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-5])
def test_what_cancellation_leaves_is_orthogonal_too(share, dtype, rng):
    # A vector almost in the span: one pass leaves its rounding error, which is amplified by 1 / share.
    basis, n = orthonormal(rng, 6, 30, dtype), 30
    inside, outside = rng.standard_normal(6) @ np.asarray(basis, float), rng.standard_normal(n)
    outside -= np.asarray(basis, float).T @ (np.asarray(basis, float) @ outside)
    cleaned, length, _ = orthogonalize(basis, jnp.asarray((inside + share * outside).astype(dtype)))
    cleaned = np.asarray(cleaned, float)
    np.testing.assert_allclose(float(length), np.linalg.norm(cleaned), rtol=1e-5)
    assert np.abs(np.asarray(basis, float) @ cleaned).max() <= 10 * np.finfo(dtype).eps * np.linalg.norm(cleaned)
    np.testing.assert_allclose(cleaned, share * outside, rtol=0, atol=100 * np.finfo(dtype).eps)


def test_a_vector_of_the_span_leaves_rounding(dtype, rng):
    basis = orthonormal(rng, 6, 30, dtype)
    assert float(orthogonalize(basis, basis[2]).norm) <= np.finfo(dtype).eps


def test_rows_of_zeros_do_no_harm(rng):
    basis = orthonormal(rng, 2, 8, np.float32)
    vector = jnp.asarray(rng.standard_normal(8), jnp.float32)
    padded = orthogonalize(jnp.concatenate([basis, jnp.zeros((3, 8))]), vector)
    np.testing.assert_allclose(padded.vector, orthogonalize(basis, vector).vector, rtol=0, atol=1e-6)


def test_complex_coefficients_are_conjugated_once(rng):
    normal = rng.standard_normal((8, 3)) + 1j * rng.standard_normal((8, 3))
    basis = np.linalg.qr(normal)[0].T
    vector = rng.standard_normal(8) + 1j * rng.standard_normal(8)
    found = orthogonalize(jnp.asarray(basis, jnp.complex64), jnp.asarray(vector, jnp.complex64)).vector
    np.testing.assert_allclose(found, vector - basis.T @ (basis.conj() @ vector), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1e30])
def test_a_vector_of_any_length_is_normalized(length):
    vector = jnp.asarray([0.6 * length, 0.8 * length], jnp.float32)
    np.testing.assert_allclose(normalize(vector, jnp.float32(length)), [0.6, 0.8], rtol=1e-5)


def test_zero_stays_zero_and_nan_stays_nan():
    assert not np.any(normalize(jnp.zeros(3), jnp.zeros(())))
    assert np.all(np.isnan(normalize(jnp.ones(3), jnp.asarray(jnp.nan))))


def test_a_fresh_direction_is_a_unit_vector_orthogonal_to_the_basis(dtype, rng):
    # All dimensions but one are taken: little of a random vector remains.
    basis = orthonormal(rng, 11, 12, dtype)
    fresh = np.asarray(random_direction(jax.random.key(0), basis, basis[0]), float)
    np.testing.assert_allclose(np.linalg.norm(fresh), 1, rtol=10 * np.finfo(dtype).eps)
    assert np.abs(np.asarray(basis, float) @ fresh).max() <= 10 * np.finfo(dtype).eps


def test_a_breakdown_is_answered_with_a_fresh_direction_and_nothing_else_is(rng):
    basis = orthonormal(rng, 3, 8, np.float32)
    vector = 2 * basis[0]  # not orthogonal to the basis: distinct from a random direction
    choose = lambda broken_down: unless_broken_down(
        jax.random.key(0), basis, vector, jnp.float32(2), jnp.asarray(broken_down)
    )
    np.testing.assert_allclose(choose(False), basis[0], rtol=0, atol=1e-6)
    assert np.abs(np.asarray(basis @ choose(True))).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("solver", [eigsh, lanczos, eigs, svds])
def test_long_vectors_on_one_device_are_orthogonal(solver, monkeypatch):
    # There only rows that the solver calls valid are read: a row left out would stay in the remainder.
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    n, largest = 2**14 + 1, np.array([5.0, 4.0, 3.0, 2.0])
    values = jnp.asarray(np.concatenate([np.linspace(0, 1, n - 4), largest]), jnp.float32)
    result = jax.jit(lambda values: solver(lambda v: values * v, 4, like=values, krylov_dim=20))(values)
    found, vectors = (result.values, result.right) if solver is svds else (result.eigenvalues, result.eigenvectors)
    np.testing.assert_allclose(found, largest, rtol=1e-5)
    vectors = np.asarray(vectors, complex)
    np.testing.assert_allclose(vectors.conj() @ vectors.T, np.eye(4), atol=1e-5)
