"""The learning-rate rule on quadratics with known curvature, and in chains of optax."""

import builtins

import jax
import jax.numpy as jnp
import optax
import pytest
from numpy.testing import assert_allclose

from eigenjax import scale_by_sharpness


def test_gradient_descent_above_the_edge_diverges_and_with_the_rule_converges():
    curvature = jnp.asarray([50.0, 3.0, 1.0])
    plain = optax.sgd(0.1)
    ruled = optax.chain(plain, scale_by_sharpness(0.1, bound=1.8))

    def descend(optimizer, **extra):
        def step(carry, _):
            x, state = carry
            updates, state = optimizer.update(curvature * x, state, x, **extra)
            return (optax.apply_updates(x, updates), state), None

        (x, state), _ = jax.lax.scan(step, (jnp.ones(3), optimizer.init(jnp.ones(3))), length=300)
        return jnp.abs(x).max(), state

    assert not descend(plain)[0] < 1e10
    end, state = jax.jit(lambda s: descend(ruled, sharpness=s))(jnp.float32(50.0))
    assert end < 1e-3
    assert_allclose(state[1].factor * 0.1 * 50, 1.8, rtol=1e-6)
    assert int(state[1].num_steps) == 300


@pytest.mark.parametrize(("sharpness", "factor"), [(5.0, 1.0), (18.0, 1.0), (36.0, 0.5), (-9.0, 1.0), (jnp.nan, 0.25)])
def test_the_factor(sharpness, factor):
    rule = scale_by_sharpness(0.1, bound=1.8)
    params = {"w": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
    state = rule.init(params)._replace(factor=jnp.float32(0.25))
    updates, state = rule.update(params, state, sharpness=sharpness)
    assert_allclose(updates["w"], [factor, factor], rtol=1e-6)
    assert updates["b"].dtype == jnp.bfloat16


def test_a_schedule_is_read_at_its_step_and_other_arguments_pass_by():
    schedule = lambda count: 0.1 * 0.5**count
    rule = optax.chain(optax.sgd(schedule), optax.with_extra_args_support(scale_by_sharpness(schedule, bound=1.0)))
    state, lengths = rule.init(jnp.ones(())), []
    for _ in range(3):
        update, state = rule.update(jnp.ones(()), state, jnp.ones(()), sharpness=jnp.float32(20.0), value=1.0)
        lengths.append(-float(update))
    assert_allclose(lengths, [0.05, 0.05, 0.025], rtol=1e-6)


def test_what_is_missing_is_named(monkeypatch):
    rule = scale_by_sharpness(0.1)
    with pytest.raises(TypeError, match="sharpness="):
        rule.update(jnp.ones(2), rule.init(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(ValueError, match="bound=0"):
        scale_by_sharpness(0.1, bound=0)
    real = builtins.__import__

    def without_optax(name, *args, **kwargs):
        if name == "optax":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_optax)
    with pytest.raises(ImportError, match=r"eigenjax\[training\]"):
        scale_by_sharpness(0.1)
