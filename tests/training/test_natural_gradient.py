"""Natural-gradient steps against dense solves, in chains of optax and in Flax loops."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import eigenjax
from eigenjax import scale_by_natural_gradient


def test_steps_on_a_quadratic(rotated):
    """A step divides by the damped curvature; the pairs follow a curvature that changes."""
    spectrum = np.array([50.0, -20.0, 3.0, 1.0, 0.3, -0.2])
    matrix, vector = rotated(spectrum), np.arange(1.0, 7.0)
    schedule = lambda step: jnp.where(step < 2, 2.0, 1.0)
    for negative, kept in (("clip", [50, 3, 0, 0, 0, 0]), ("abs", [50, 20, 0, 0, 0, 0])):
        _, vectors = np.linalg.eigh(matrix)
        order = [5, 4, 1, 2, 3, 0] if negative == "clip" else [5, 0, 1, 2, 3, 4]
        rule = optax.chain(
            scale_by_natural_gradient(2, damping=schedule, every=2, negative=negative), optax.scale(-0.5)
        )
        state, update, found = cast(Any, rule.init(jnp.ones(6))), jax.jit(rule.update), jnp.zeros(6)
        for step in range(4):
            factor = 1.0 if step < 2 else 2.0
            op = eigenjax.as_operator(jnp.asarray(factor * matrix, jnp.float32))
            found, state = update(jnp.asarray(vector, jnp.float32), state, curvature=op, value=1.0)
            damped = factor * (vectors[:, order] * kept) @ vectors[:, order].T + (2.0 if step < 2 else 1.0) * np.eye(6)
            assert_allclose(found, -0.5 * np.linalg.solve(damped, vector), rtol=0.02, atol=0.02)
        before = state[0].num_matvecs
        broken = eigenjax.as_operator(jnp.full((6, 6), jnp.nan))
        kept_on, state = update(jnp.asarray(vector, jnp.float32), state, curvature=broken, value=1.0)
        assert_allclose(kept_on, found, rtol=1e-4, atol=1e-5)
        assert state[0].num_matvecs > before


@pytest.mark.slow
def test_a_flax_loop_on_the_parameters_of_linen_and_nnx():
    linen, nnx = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx")
    inputs = jax.random.normal(jax.random.key(0), (32, 5)) * jnp.array([[10.0, 3.0, 1.0, 0.3, 0.1]])
    targets = inputs @ jax.random.normal(jax.random.key(1), (5, 2))
    square = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
    rule = lambda: optax.chain(scale_by_natural_gradient(4, damping=0.5, every=5), optax.scale(-0.5))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = linen.Dense(2)
        params = model.init(jax.random.key(2), inputs)
        optimizer, loss = rule(), lambda params: square(model.apply(params, inputs), targets)

        @jax.jit
        def train_step(carry, _):
            params, state = carry
            curvature = eigenjax.gauss_newton(model.apply, square, params, (inputs, targets))
            updates, state = optimizer.update(jax.grad(loss)(params), state, params, curvature=curvature)
            return (optax.apply_updates(params, updates), state), loss(params)

        _, losses = jax.lax.scan(train_step, (params, optimizer.init(params)), length=60)
        assert losses[-1] < 1e-3 * losses[0]

        module = nnx.Linear(5, 2, rngs=nnx.Rngs(0))
        nnx_optimizer = nnx.Optimizer(module, rule(), wrt=nnx.Param)
        nnx_loss = lambda module, batch: square(module(batch[0]), batch[1])

        @nnx.jit
        def nnx_step(module, nnx_optimizer):
            value, gradient = nnx.value_and_grad(nnx_loss)(module, (inputs, targets))
            curvature = eigenjax.hessian(nnx_loss, module, (inputs, targets))
            nnx_optimizer.update(module, gradient, curvature=curvature)
            return value

        losses = [float(nnx_step(module, nnx_optimizer)) for _ in range(60)]
        assert losses[-1] < 1e-3 * losses[0]


OP = eigenjax.as_operator(jnp.eye(4))
RULE = scale_by_natural_gradient(2, damping=1.0)


anything: Any = scale_by_natural_gradient


def step(rule=RULE, state=None, **extra):
    state = rule.init(jnp.ones(4)) if state is None else state
    return rule.update(jnp.ones(4), state, **extra)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anything(0, damping=1.0), "scale_by_natural_gradient.*k=0"),
        (lambda: anything(2, damping=0.0), "damping=0.0: give a positive"),
        (lambda: anything(2, damping=None), "damping=None"),
        (lambda: anything(2, damping="1"), "damping='1'"),
        (lambda: anything(2, damping=1.0, negative="keep"), "'clip', 'abs'"),
        (lambda: anything(2, damping=1.0, every=0), "every=0"),
        (lambda: step(anything(2, damping=1.0, tol=-1.0), curvature=OP), "tol=-1.0"),
        (lambda: RULE.init(jnp.ones(1)), "init of scale_by_natural_gradient"),
        (step, "curvature=None: pass the operator"),
        (lambda: step(curvature=jnp.eye(3)), "on vectors like the updates"),
        (lambda: step(curvature=OP, state=3), "as state: give"),
        (lambda: step(anything(2, damping=lambda step: "1"), curvature=OP), "damping"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
