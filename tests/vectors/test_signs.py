"""Sign (phase) of an eigenvector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eigenjax.vectors.signs import fix_signs


def test_the_largest_component_over_all_leaves_becomes_positive():
    vectors = {"a": jnp.array([[0.1, 0.2], [0.1, 0.2]]), "b": jnp.array([-0.9, 0.9]), "c": jnp.zeros((2, 0))}
    fixed, phases = fix_signs(vectors)
    np.testing.assert_array_equal(phases, [-1, 1])
    np.testing.assert_allclose(fixed["b"], [0.9, 0.9])
    np.testing.assert_allclose(fixed["a"], [[-0.1, -0.2], [0.1, 0.2]])


def test_the_phase_of_a_complex_vector_makes_its_largest_component_real(rng):
    vectors = (rng.standard_normal((3, 7)) + 1j * rng.standard_normal((3, 7))).astype(np.complex64)
    fixed, phases = fix_signs(jnp.asarray(vectors))
    largest = np.asarray(fixed)[np.arange(3), np.abs(vectors).argmax(axis=1)]
    np.testing.assert_allclose(largest, np.abs(vectors).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.abs(phases), 1, rtol=1e-5)
    np.testing.assert_allclose(fixed, vectors * np.asarray(phases)[:, None], rtol=1e-5)


def test_of_components_as_large_to_rounding_the_first_tells():
    # A change of one eps in a component must not decide.
    phases = np.exp(1j * np.array([0.3, 1.1, -2.0])).astype(np.complex64)
    for nudge in (-1, 0, 1):
        vector = phases * np.array([1, 1 + nudge * np.finfo(np.float32).eps, 0.1], np.float32)
        fixed, _ = fix_signs(jnp.asarray(vector[None]))
        np.testing.assert_allclose(fixed[0], vector * np.conj(phases[0]), rtol=1e-6)


def test_a_reference_vector_comes_first():
    fixed, _ = fix_signs(jnp.array([[0.6, -0.8], [0.8, 0.6]]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(fixed, [[0.6, -0.8], [0.8, 0.6]])
    fixed, _ = fix_signs(jnp.array([[0.6, -0.8], [0.8, 0.6]]), jnp.array([-1e20, 0.0]))
    np.testing.assert_allclose(fixed, [[-0.6, 0.8], [-0.8, -0.6]])


def test_a_complex_product_with_the_reference_becomes_real_and_positive(rng):
    vectors = (rng.standard_normal((3, 7)) + 1j * rng.standard_normal((3, 7))).astype(np.complex64)
    reference = (rng.standard_normal(7) + 1j * rng.standard_normal(7)).astype(np.complex64)
    products = np.asarray(fix_signs(jnp.asarray(vectors), jnp.asarray(reference))[0]) @ reference.conj()
    np.testing.assert_allclose(products.imag, 0, atol=1e-5)
    assert (products.real > 0).all()


def test_rounding_in_the_product_with_a_reference_decides_nothing():
    fixed, _ = fix_signs(jnp.array([[0.0, -1.0]]), jnp.array([1.0, 1e-7]))
    np.testing.assert_allclose(fixed, [[0.0, 1.0]])
    fixed, _ = fix_signs(jnp.array([[0.0, -1.0]]), jnp.zeros(2))
    np.testing.assert_allclose(fixed, [[0.0, 1.0]])


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_the_phase_of_complex_vectors_that_lie_over_devices(rng, axis_type):
    vectors = (rng.standard_normal((2, 3, 8)) + 1j * rng.standard_normal((2, 3, 8))).astype(np.complex64)
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(axis_type,), devices=jax.devices()[:4])
    sharding = NamedSharding(mesh, P(None, None, "rows"))
    with jax.set_mesh(mesh):
        fixed, _ = jax.jit(fix_signs)(jax.device_put(vectors, sharding))
    flat = vectors.reshape(2, -1)
    largest = flat[np.arange(2), np.abs(flat).argmax(axis=1)]
    np.testing.assert_allclose(fixed, vectors * (np.conj(largest) / np.abs(largest))[:, None, None], rtol=1e-5)
    assert fixed.sharding.is_equivalent_to(sharding, 3)
