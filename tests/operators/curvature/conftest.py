"""A small network with its loss, dense matrices to compare operators with, and spectra from another framework."""

import pathlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "mlp_tanh.npz"
IGNORED = -1


def network(params, inputs):
    linear = inputs @ params["w0"]
    return jnp.tanh(linear + jnp.broadcast_to(params["b0"], linear.shape)) @ params["w1"]


def cross_entropy(logits, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))


@pytest.fixture
def problem(rng, float64):
    """Return the parameters of the network, and ten inputs with labels."""
    params = {"w0": rng.normal(size=(3, 4)), "b0": rng.normal(size=4), "w1": rng.normal(size=(4, 2))}
    data = (rng.normal(size=(10, 3)), rng.integers(0, 2, size=10))
    return jax.tree.map(jnp.asarray, (params, data))


def dense_gauss_newton(model, loss, params, data):
    """Compute J^T H J from the dense Jacobian of raveled outputs and the dense Hessian of the loss in them."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    outputs, unravel_outputs = jax.flatten_util.ravel_pytree(model(params, data[0]))
    jacobian = jax.jacobian(lambda x: jax.flatten_util.ravel_pytree(model(unravel(x), data[0]))[0])(flat)
    curvature = jax.hessian(lambda z: loss(unravel_outputs(z), data[1]))(outputs)
    return np.asarray(jacobian.T @ curvature @ jacobian)


def reference(dtype=np.float64):
    """Load a trained network with spectra from another framework; return all arrays, params and (inputs, labels)."""
    saved = np.load(REFERENCE)
    params = [(jnp.asarray(saved[f"W{i}"], dtype), jnp.asarray(saved[f"b{i}"], dtype)) for i in range(3)]
    return saved, params, (jnp.asarray(saved["X"], dtype), jnp.asarray(saved["y"]))


def reference_model(params, inputs):
    for kernel, bias in params[:-1]:
        inputs = jnp.tanh(inputs @ kernel + bias[None, :])
    return inputs @ params[-1][0] + params[-1][1][None, :]


@jax.custom_vjp
def cube(x):
    return x**3


# The forward rule calls the function itself, so that a second derivative meets the custom rule again.
cube.defvjp(lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g,))


def scanned_cube(x):
    return jax.lax.scan(lambda carry, _: (cube(carry), None), x, length=1)[0]


def assert_close(ours, dense):
    assert_allclose(ours, dense, rtol=0, atol=1e-13 * np.abs(dense).max())


def temporary_bytes(function, *args):
    """Compile a function and return the bytes of its temporary arrays."""
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def product_bytes(op, vector):
    """Return the bytes of temporary arrays in one product."""
    return temporary_bytes(lambda op, v: op(v), op, vector)
