"""Products with the Gauss-Newton matrix in compiled programs: memory, batches, derivatives, precision, sharding."""

import functools

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from eigenjax import eigsh, gauss_newton, softmax_cross_entropy

from .conftest import IGNORED, cross_entropy, dense_gauss_newton, network, product_bytes, temporary_bytes

SLOW = pytest.mark.slow


def temporaries(examples, batch_size, loss=cross_entropy):
    params = {"w0": jnp.ones((8, 64)), "b0": jnp.ones(64), "w1": jnp.ones((64, 2))}
    data = (jnp.ones((examples, 8)), jnp.zeros(examples, jnp.int32))
    op = gauss_newton(network, loss, params, data, batch_size=batch_size)
    return product_bytes(op, params)


@pytest.mark.parametrize("loss", [pytest.param(cross_entropy, marks=SLOW), softmax_cross_entropy])
def test_memory_does_not_grow_with_the_number_of_examples(loss):
    assert temporaries(8192, 64, loss) <= temporaries(512, 64, loss)
    assert temporaries(512, 64, loss) < temporaries(512, None, loss) / 4


def test_the_closed_form_saves_an_array_of_logits():
    params = {"w0": jnp.ones((8, 16)), "b0": jnp.ones(16), "w1": jnp.ones((16, 2000))}
    data = (jnp.ones((4, 64, 8)), jnp.zeros((4, 64), jnp.int32))

    def arrays(loss):
        product = lambda params, data: gauss_newton(network, loss, params, data)(params)
        return temporary_bytes(product, params, data) / (4 * 256 * 2000)

    assert arrays(softmax_cross_entropy) < arrays(cross_entropy) - 0.9


@pytest.mark.slow
def test_parameters_and_data_change_without_a_new_program(problem):
    params, data = problem
    product = jax.jit(chex.assert_max_traces(lambda op, v: op(v), n=1))
    for _ in range(3):
        # Each loss is a new object; the program is reused because the losses compare equal.
        loss = functools.partial(softmax_cross_entropy, ignore_label=IGNORED)
        params = jax.tree.map(lambda x: 1.1 * x, params)
        ours = product(gauss_newton(network, loss, params, data, batch_size=5), params)
    flat = jax.flatten_util.ravel_pytree(params)[0]
    dense = dense_gauss_newton(network, cross_entropy, params, data)
    assert_allclose(jax.flatten_util.ravel_pytree(ours)[0], dense @ flat, rtol=1e-10, atol=1e-14)


def test_vectors_by_vmap(problem, rng):
    params, data = problem
    op = gauss_newton(network, cross_entropy, params, data, batch_size=4)
    vectors = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=(3, *x.shape))), params)
    together, single = jax.jit(jax.vmap(op))(vectors), jax.jit(op)
    row = lambda vectors, i: jax.tree.map(lambda x: x[i], vectors)
    for i in range(3):
        chex.assert_trees_all_close(row(together, i), single(row(vectors, i)), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_a_model_that_closes_over_a_dropout_key_and_arrays(problem):
    params, data = problem

    def model_of(key, offset):
        def model(params, inputs):
            kept = jax.random.bernoulli(key, 0.5, inputs.shape)
            return network(params, jnp.where(kept, inputs, 0.0) + offset[None, :])

        return model

    def product(key, offset, params):
        return gauss_newton(model_of(key, offset), softmax_cross_entropy, params, data, batch_size=4)(params)

    first = jax.jit(product)(jax.random.key(1), jnp.ones(3), params)
    again = product(jax.random.key(1), jnp.ones(3), params)
    other = product(jax.random.key(2), jnp.ones(3), params)
    chex.assert_trees_all_close(first, again, rtol=1e-10)
    assert np.abs(first["w0"] - other["w0"]).max() > 1e-4


@pytest.mark.slow
def test_the_derivative_of_the_top_eigenvalue(problem):
    params, data = problem
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    direction = np.cos(np.arange(flat.size))

    def top(x):
        op = gauss_newton(network, softmax_cross_entropy, unravel(x), data, batch_size=4)
        return eigsh(op, k=1, tol=1e-12, krylov_dim=20).eigenvalues[0]

    slope = jax.jit(jax.grad(top))(flat) @ direction
    dense = jax.jit(functools.partial(dense_top, network, cross_entropy), static_argnums=0)
    at = lambda t: dense(unravel, flat + t * direction, data)
    h = 1e-3
    difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    assert_allclose(slope, difference, rtol=1e-8)


def dense_top(model, loss, unravel, flat, data):
    jacobian = jax.jacobian(lambda x: model(unravel(x), data[0]).ravel())(flat)
    outputs = model(unravel(flat), data[0])
    curvature = jax.hessian(lambda z: loss(z.reshape(outputs.shape), data[1]))(outputs.ravel())
    return jnp.linalg.eigvalsh(jacobian.T @ curvature @ jacobian)[-1]


def test_bfloat16_parameters_sum_their_microbatches_in_float32():
    # 512 batches of equal curvature 1/512: a sum in bfloat16 would stop growing near 2^-1.
    data = (jnp.ones((512, 1), jnp.bfloat16), jnp.zeros(512, jnp.bfloat16))
    loss = lambda z, y: 0.5 * jnp.mean((z - y) ** 2)
    op = gauss_newton(lambda p, x: x @ p, loss, jnp.ones(1, jnp.bfloat16), data, batch_size=1)
    assert_allclose(float(op(jnp.ones(1, jnp.bfloat16))[0]), 1.0, rtol=1e-2)


def test_data_and_parameters_sharded_over_explicit_axes(rng):
    shapes = {"w0": (6, 16), "b0": (16,), "w1": (16, 4)}
    specs = {"w0": P(None, "model"), "b0": P("model"), "w1": P("model", None)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    data = (rng.normal(size=(20, 6)).astype(np.float32), rng.integers(0, 4, size=20).astype(np.int32))

    def model(params, inputs, out_sharding=None):
        hidden = jnp.tanh(jnp.einsum("ni,ih->nh", inputs, params["w0"]) + params["b0"][None, :])
        return jnp.einsum("nh,ho->no", hidden, params["w1"], out_sharding=out_sharding)

    product = lambda model, params, data: gauss_newton(model, softmax_cross_entropy, params, data)(params)
    alone = product(model, params, data)
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    with jax.set_mesh(mesh):
        sharded = functools.partial(model, out_sharding=P("data", None))
        placed = {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in params.items()}
        examples = jax.device_put(data, NamedSharding(mesh, P("data")))
        together = jax.jit(functools.partial(product, sharded))(placed, examples)
    for name, x in together.items():
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, specs[name]), x.ndim), name
        assert_allclose(x, alone[name], rtol=1e-4, atol=1e-5 * np.abs(alone[name]).max())
