"""Losses that are sums instead of means, targets that broadcast against outputs, and means over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from eigenjax import check_operator, gauss_newton, hessian, to_dense
from eigenjax.operators.curvature.means import mistake_of

KEY = jax.random.key(0)
PARAMS = jnp.array([0.5, -1.0])


@pytest.fixture
def inputs(rng):
    return jnp.asarray(rng.normal(size=(9, 2)).astype(np.float32))


def squares(params, batch):
    return (batch @ params - 1) ** 2


def total(params, batch):
    return jnp.sum(squares(params, batch))


def mean(params, batch):
    return jnp.mean(squares(params, batch))


def decayed(loss):
    return lambda params, batch: loss(params, batch) + 0.3 * jnp.sum(params**2)


def centred(params, batch):
    # Batch statistics, as in batch normalization: microbatches give a different function, which is allowed.
    values = batch @ params
    return jnp.mean((values - jnp.mean(values)) ** 2)


def test_a_sum_is_refused_with_microbatches(inputs):
    with pytest.raises(ValueError, match=r"is a sum over examples.*jnp\.mean"):
        hessian(total, PARAMS, inputs, batch_size=4)
    # Without microbatches the sum is taken over all data, and its Hessian is well defined.
    assert_allclose(to_dense(hessian(total, PARAMS, inputs)), 2 * inputs.T @ inputs, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [mean, decayed(mean), centred])
def test_means_pass(loss, inputs):
    check_operator(hessian(loss, PARAMS, inputs, batch_size=4), KEY)


def test_a_sum_beside_a_penalty_is_found_by_check_operator(inputs):
    with pytest.raises(ValueError, match="is a sum over examples"):
        check_operator(2.0 * hessian(decayed(total), PARAMS, inputs, batch_size=4), KEY)


def test_losses_of_examples_with_weights(inputs):
    weights = jnp.arange(1.0, 10.0)
    divided = lambda p, b: squares(p, b) / len(b)
    with pytest.raises(ValueError, match="do not divide by their number"):
        hessian(divided, PARAMS, inputs, weights=weights)
    expected = 2 * (inputs * weights[:, None]).T @ inputs / weights.sum()
    assert_allclose(to_dense(hessian(squares, PARAMS, inputs, weights=weights, batch_size=2)), expected, rtol=1e-5)
    mixed = lambda p, b: (b @ p - jnp.mean(b @ p)) ** 2
    with pytest.raises(ValueError, match="do not mix them"):
        check_operator(hessian(mixed, PARAMS, inputs, weights=weights), KEY)


def column(params, inputs):
    return (inputs @ params)[:, None]


def distance(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def test_targets_spread_against_outputs(inputs):
    targets = jnp.arange(9.0)
    error = pytest.raises(ValueError, match=r"\(9, 1\) and the targets \(9,\).*targets\[:, None\]")
    # With rank promotion allowed, JAX itself does not raise an error here.
    with jax.numpy_rank_promotion("allow"), error:
        gauss_newton(column, distance, PARAMS, (inputs, targets))
    expected = 2 * inputs.T @ inputs / 9
    assert_allclose(to_dense(gauss_newton(column, distance, PARAMS, (inputs, targets[:, None]))), expected, rtol=1e-5)
    # A loss that gives outputs and targets the same shape is accepted.
    careful = lambda z, y: jnp.mean((z[:, 0] - y) ** 2)
    assert_allclose(to_dense(gauss_newton(column, careful, PARAMS, (inputs, targets))), expected, rtol=1e-5)


def test_a_sum_in_gauss_newton(inputs):
    data = inputs, jnp.ones((9, 1))
    summed = lambda z, y: jnp.sum((z - y) ** 2)
    with pytest.raises(ValueError, match="is a sum over examples"):
        gauss_newton(column, summed, PARAMS, data, batch_size=5)
    divided = lambda z, y: jnp.sum((z - y) ** 2, 1) / len(z)
    with pytest.raises(ValueError, match="do not divide by their number"):
        gauss_newton(column, divided, PARAMS, data, weights=jnp.ones(9))


def test_a_loss_is_checked_once_and_not_under_jit(inputs):
    calls = []

    def counted(params, batch):
        calls.append(len(batch))
        return mean(params, batch)

    hessian(counted, PARAMS, inputs, batch_size=4)
    assert sorted(calls) == [1, 4, 4, 8]  # two microbatches, eight examples and half of these
    calls.clear()
    hessian(counted, PARAMS, inputs, batch_size=4)
    assert sorted(calls) == [1, 4]
    calls.clear()
    jax.jit(lambda p: hessian(lambda p, b: 2 * counted(p, b), p, inputs, batch_size=4)(p))(PARAMS)
    assert sorted(calls) == [1, 4]


def test_a_loss_that_needs_its_batches_whole_is_left_alone(inputs):
    fixed = lambda p, b: jnp.sum((b @ p).reshape(3, -1) ** 2)
    assert mistake_of(lambda p, b: jnp.sum((b @ p).reshape(9) ** 2), PARAMS, inputs) is None
    hessian(fixed, PARAMS, inputs, batch_size=3)


@pytest.mark.parametrize("way", ["pmap", "shard_map"])
def test_a_mean_over_devices_is_refused_where_its_derivative_is_of_one_device(way, inputs):
    loss = lambda p, b: jax.lax.pmean(mean(p, b), "devices")
    product = lambda p, b: hessian(loss, p, b)(p)[None]
    batch = jnp.concatenate([inputs, inputs[:7]])
    if way == "pmap":
        mapped = lambda: jax.pmap(product, axis_name="devices", in_axes=(None, 0))(PARAMS, batch.reshape(8, 2, 2))
    else:
        mapped = lambda: sharded(product, check_vma=False)(PARAMS, batch)
    with pytest.raises(ValueError, match="each device's part alone"):
        mapped()


def sharded(product, *, check_vma):
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"in_specs": (P(), P("devices")), "out_specs": P("devices")}
    return jax.jit(functools.partial(jax.shard_map, mesh=mesh, check_vma=check_vma, **specs)(product))


@pytest.mark.slow
def test_a_mean_over_devices_with_varying_axes(inputs):
    batch = jnp.concatenate([inputs, inputs[:7]])
    loss = lambda p, b: jax.lax.pmean(mean(p, b), "devices")
    found = sharded(lambda p, b: hessian(loss, p, b)(p)[None], check_vma=True)(PARAMS, batch)
    assert_allclose(found, np.tile(2 * batch.T @ batch @ PARAMS / 16, (8, 1)), rtol=1e-4)
