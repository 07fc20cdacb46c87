"""The sharpness penalty against finite differences, and in a Flax training step."""

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from eigenjax import hessian, sharpness_penalty


def loss(params, batch):
    inputs, targets = batch
    outputs = jnp.tanh(inputs @ params["w0"] + params["b0"][None, :]) @ params["w1"]
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=1))


@pytest.fixture
def problem(rng, float64):
    params = {"w0": rng.normal(size=(3, 4)), "b0": rng.normal(size=4), "w1": rng.normal(size=(4, 2))}
    data = (rng.normal(size=(12, 3)), rng.normal(size=(12, 2)))
    return jax.tree.map(jnp.asarray, (params, data))


@pytest.mark.slow
def test_the_gradient_of_a_penalised_loss_is_that_of_finite_differences(problem, rng):
    params, data = problem
    penalised = lambda p: loss(p, data) + 0.1 * sharpness_penalty(hessian(loss, p, data), tol=1e-12)
    value, gradient = jax.jit(jax.value_and_grad(penalised))(params)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def dense(x):
        objective = lambda x: loss(unravel(x), data)
        return objective(x), jax.hessian(objective)(x)

    def truth(x):
        value, matrix = dense(x)
        return value + 0.1 * np.linalg.eigvalsh(matrix)[-1]

    assert_allclose(value, truth(flat), rtol=1e-12)
    step, slope = 1e-3, jax.flatten_util.ravel_pytree(gradient)[0]
    for _ in range(3):
        along = rng.normal(size=flat.size)
        at = lambda t, along=along: truth(flat + t * step * along)
        difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
        assert_allclose(slope @ along, difference, rtol=1e-7)


@pytest.mark.slow
def test_a_flax_step_that_carries_the_vector_makes_the_network_flatter(rng):
    model = nn.Sequential([nn.Dense(6), jnp.tanh, nn.Dense(1)])
    inputs = jnp.asarray(rng.normal(size=(40, 3)), jnp.float32)
    batch = (inputs, jnp.sin(2 * inputs.sum(1, keepdims=True)))
    loss = lambda params, batch: jnp.mean((model.apply(params, batch[0]) - batch[1]) ** 2)
    optimizer = optax.sgd(0.05)

    def penalised(params, weight, start):
        sharpness, top = sharpness_penalty(hessian(loss, params, batch), v0=start, max_matvecs=20, has_aux=True)
        return loss(params, batch) + weight * sharpness, top.eigenvectors

    @jax.jit
    def train(params, weight):
        def step(carry, _):
            params, state, start = carry
            gradient, start = jax.grad(penalised, has_aux=True)(params, weight, start)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state, start), None

        start = jax.tree.map(lambda leaf: jnp.ones_like(leaf)[None], params)
        return jax.lax.scan(step, (params, optimizer.init(params), start), length=60)[0][0]

    params = model.init(jax.random.key(0), inputs)
    unravel = jax.flatten_util.ravel_pytree(params)[1]
    dense = jax.jit(jax.hessian(lambda x: loss(unravel(x), batch)))
    ends = [train(params, jnp.float32(weight)) for weight in (0.0, 0.1)]
    plain, flatter = (np.linalg.eigvalsh(dense(jax.flatten_util.ravel_pytree(end)[0]))[-1] for end in ends)
    assert flatter < 0.8 * plain
    assert loss(ends[1], batch) < loss(params, batch)


def test_no_gradient_flows_through_the_solve_that_comes_along():
    of_aux = lambda matrix: jnp.sum(sharpness_penalty(matrix, has_aux=True)[1].eigenvectors ** 3)
    assert_allclose(jax.grad(of_aux)(jnp.diag(jnp.asarray([3.0, 1.0]))), np.zeros((2, 2)))
