"""Spectral normalization against dense singular values, and in linen and nnx layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from eigenjax import spectral_norm


@pytest.mark.parametrize("dtype_", [np.float64, np.complex128])
def test_the_value_and_its_gradient_are_those_of_a_dense_svd(rng, float64, dtype_):
    matrix = rng.normal(size=(6, 4)) + (1j * rng.normal(size=(6, 4)) if dtype_ is np.complex128 else 0)
    left, values, right = np.linalg.svd(matrix)
    norm = spectral_norm(jnp.asarray(matrix), num_steps=200)
    assert_allclose(norm.value, values[0], rtol=1e-12)
    slope = jax.grad(lambda a: spectral_norm(a, norm.right).value)(jnp.asarray(matrix))
    # JAX's gradient is the conjugate of the direction of steepest ascent.
    assert_allclose(np.conj(slope), np.outer(left[:, 0], right[0]), atol=1e-8)


def convolution(kernel, image):
    return jax.lax.conv_general_dilated(image[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_a_convolution_is_taken_for_the_map_that_it_is(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
    image = jnp.zeros((7, 8, 2))
    dense = np.asarray(jax.jacobian(lambda x: convolution(kernel, x).ravel())(image)).reshape(-1, image.size)
    truth = np.linalg.svd(dense, compute_uv=False)
    norm = jax.jit(lambda k: spectral_norm(lambda x: convolution(k, x), like=image, num_steps=300))(kernel)
    assert_allclose(norm.value, truth[0], rtol=1e-4)
    reshaped = np.linalg.norm(np.asarray(kernel).reshape(-1, 3), 2)
    assert abs(reshaped / truth[0] - 1) > 0.1


def test_steps_are_counted_and_a_zero_map_has_the_norm_zero():
    value, slope = jax.value_and_grad(lambda a: spectral_norm(a).value)(jnp.zeros((3, 2)))
    assert value == 0
    assert_allclose(slope, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="num_steps=0"):
        spectral_norm(jnp.eye(2), num_steps=0)


class NormalizedConv(nn.Module):
    """Convolution of norm one for linen: one power step per call, with its vector in a separate collection."""

    @nn.compact
    def __call__(self, images):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, images.shape[-1], 4))
        start = self.variable("spectral", "right", lambda: jax.random.normal(jax.random.key(0), images.shape[1:]))
        norm = spectral_norm(lambda image: convolution(kernel, image), start.value)
        start.value = norm.right
        return jax.vmap(lambda image: convolution(kernel / norm.value, image)[0])(images)


class NormalizedLinear(nnx.Module):
    """Dense layer of norm one for nnx."""

    def __init__(self, features_in, features_out, rngs):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (features_in, features_out)))
        self.right = nnx.BatchStat(jax.random.normal(rngs.params(), (features_out,)))

    def __call__(self, x):
        norm = spectral_norm(self.kernel[...], self.right[...])
        self.right[...] = norm.right
        return x @ (self.kernel[...] / norm.value)


def test_a_linen_layer_keeps_norm_one_while_it_learns(rng):
    model, images = NormalizedConv(), jnp.asarray(rng.normal(size=(5, 6, 6, 2)), jnp.float32)
    variables = model.init(jax.random.key(0), images)

    @jax.jit
    def step(variables):
        def loss(params):
            outputs, updated = model.apply({**variables, "params": params}, images, mutable="spectral")
            return jnp.mean((outputs - 1) ** 2), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
        return {"params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient), **updated}

    for _ in range(100):
        variables = step(variables)
    one = lambda image: model.apply(variables, image[None], mutable="spectral")[0].ravel()
    dense = np.asarray(jax.jacobian(one)(images[0])).reshape(-1, images[0].size)
    assert_allclose(np.linalg.norm(dense, 2), 1, rtol=2e-2)


def test_an_nnx_layer_keeps_norm_one_while_it_learns(rng):
    layer, inputs = NormalizedLinear(5, 4, nnx.Rngs(0)), jnp.asarray(rng.normal(size=(20, 5)), jnp.float32)

    @nnx.jit
    def step(layer):
        gradient = nnx.grad(lambda layer: jnp.mean((layer(inputs) - 1) ** 2))(layer)
        layer.kernel[...] = layer.kernel[...] - 0.1 * gradient.kernel[...]

    for _ in range(100):
        step(layer)
    assert_allclose(np.linalg.norm(np.asarray(layer(jnp.eye(5))), 2), 1, rtol=2e-2)
