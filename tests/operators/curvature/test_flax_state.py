"""Recipes for models with state: parameters, constants, and parts of the loss.

Each recipe is compared with `jax.hessian` of the raveled loss, in float64. Its loss takes `(params, batch)`.
Everything else (running averages, a dropout key, frozen parameters) is a constant of the loss.
"""

import re

import chex
import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from eigenjax import Status, blocks, check_operator, eigsh, hessian, to_dense

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _settings():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def batch(rng):
    inputs = rng.normal(size=(6, 3))
    return jnp.asarray(inputs), jnp.asarray(np.sin(inputs.sum(1, keepdims=True)))


def dense_hessian(loss, params):
    """Compute the dense Hessian of the loss as a function of the raveled parameters."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat))


def check(op, loss, params):
    """Check that the operator equals the dense Hessian in these parameters, and return the latter."""
    dense = dense_hessian(loss, params)
    assert abs(dense).max() > 1e-3
    assert_allclose(to_dense(op), dense, atol=1e-11 * abs(dense).max())
    return dense


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, param_dtype=float)(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, param_dtype=float, momentum=0.5)(x))
        return nn.Dense(1, param_dtype=float)(x)


@pytest.mark.slow
def test_linen_batch_norm_in_both_modes(batch):
    model = Normalized()
    variables = model.init(KEY, batch[0], train=False)
    params, state = variables["params"], variables["batch_stats"]
    state = jax.tree.map(lambda x: x.astype(float) + 0.3, state)  # not the initial averages

    # Evaluation mode: the running averages are constants, and the loss is a mean over examples.
    def eval_loss(params, batch):
        outputs = model.apply({"params": params, "batch_stats": state}, batch[0], train=False)
        return jnp.mean((outputs - batch[1]) ** 2)

    # Training mode: the batch statistics are functions of the parameters, so that they are differentiated.
    # The updated running averages are discarded.
    def train_loss(params, batch):
        variables = {"params": params, "batch_stats": state}
        outputs, _ = model.apply(variables, batch[0], train=True, mutable=["batch_stats"])
        return jnp.mean((outputs - batch[1]) ** 2)

    evaluated = check(hessian(eval_loss, params, batch, batch_size=4), lambda p: eval_loss(p, batch), params)
    trained = check(hessian(train_loss, params, batch), lambda p: train_loss(p, batch), params)
    assert abs(evaluated - trained).max() > 0.01 * abs(evaluated).max()
    # Each microbatch has its own statistics: the mean of the microbatch losses is a different function.
    halves = [jax.tree.map(lambda x, part=part: x[part], batch) for part in (slice(0, 3), slice(3, 6))]
    mean = lambda p: (train_loss(p, halves[0]) + train_loss(p, halves[1])) / 2
    of_halves = check(hessian(train_loss, params, batch, batch_size=3), mean, params)
    assert abs(of_halves - trained).max() > 0.01 * abs(trained).max()


class Module(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 4, rngs=rngs, param_dtype=float)
        self.norm = nnx.BatchNorm(4, rngs=rngs, param_dtype=float)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.outer = nnx.Linear(4, 1, rngs=rngs, param_dtype=float)

    def __call__(self, x):
        return self.outer(self.dropout(nnx.tanh(self.norm(self.inner(x)))))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_nnx_modules_are_split_outside_the_loss_and_merged_inside(batch, mode):
    model = Module(nnx.Rngs(0))
    getattr(model, mode)()
    graph, params, averages, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    averages = jax.tree.map(lambda x: x.astype(float), averages)

    def loss(params, batch):
        # The copy leaves the generator state and the running averages of the outer model unchanged.
        # Therefore every matvec uses the same dropout mask.
        merged = nnx.merge(graph, params, averages, others, copy=True)
        return jnp.mean((merged(batch[0]) - batch[1]) ** 2)

    op = hessian(loss, params, batch)
    check(op, lambda p: loss(p, batch), params)
    vector = jax.tree.map(jnp.ones_like, params)
    chex.assert_trees_all_equal(op(vector), op(vector))
    assert set(blocks(op)) == {"inner", "norm", "outer"}
    kernels = hessian(loss, params, batch, select="*/kernel")
    assert kernels.size == 16
    assert set(blocks(kernels)) == {"inner", "outer"}


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(nn.tanh(nn.Dense(4, param_dtype=float)(x)))
        return nn.Dense(1, param_dtype=float)(x)


@pytest.mark.slow
def test_dropout_with_one_key_and_with_a_fresh_one(batch):
    model = Dropping()
    params = model.init({"params": KEY, "dropout": KEY}, batch[0])["params"]

    def loss(params, batch, key):
        return jnp.mean((model.apply({"params": params}, batch[0], rngs={"dropout": key}) - batch[1]) ** 2)

    op = hessian(lambda p, b: loss(p, b, KEY), params, batch)
    check(op, lambda p: loss(p, batch, KEY), params)
    # A common mistake: each matvec draws a new dropout mask.
    keys = iter(jax.random.split(KEY, 100))
    fresh = lambda v: jax.jvp(jax.grad(lambda p: loss(p, batch, next(keys))), (params,), (v,))[1]
    with pytest.raises(ValueError, match=r"changes between two calls.*one fixed key"):
        check_operator(fresh, KEY, like=params)


def test_tied_weights_are_one_leaf(batch):
    params = {"tied": 0.3 * jnp.arange(9.0).reshape(3, 3) - 1.0, "bias": jnp.ones(3)}

    def loss(params, batch):
        code = jnp.tanh(batch[0] @ params["tied"] + params["bias"][None, :])
        return jnp.mean((code @ params["tied"].T - batch[0]) ** 2)

    dense = check(hessian(loss, params, batch), lambda p: loss(p, batch), params)
    # Two untied leaves give a larger matrix; its rows and columns add up to the tied Hessian.
    apart = lambda p, b: jnp.mean((jnp.tanh(b[0] @ p["x"] + p["bias"][None, :]) @ p["y"].T - b[0]) ** 2)
    untied = to_dense(hessian(apart, {"bias": params["bias"], "x": params["tied"], "y": params["tied"]}, batch))
    tie = np.vstack([np.eye(12), np.hstack([np.zeros((9, 3)), np.eye(9)])])
    assert_allclose(tie.T @ untied @ tie, dense, atol=1e-12)


def test_frozen_integer_and_low_rank_leaves(batch):
    params = {
        "base": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "order": jnp.array([2, 0, 1])},
        "adapter": {"lora_a": jnp.full((3, 1), 0.5), "lora_b": jnp.linspace(0.0, 1.0, 4)[None]},
        "head": {"kernel": jnp.ones((4, 1)), "bias": jnp.zeros(1)},
    }

    def loss(params, batch):
        kernel = params["base"]["kernel"] + params["adapter"]["lora_a"] @ params["adapter"]["lora_b"]
        hidden = jnp.tanh(batch[0][:, params["base"]["order"]] @ kernel)
        return jnp.mean((hidden @ params["head"]["kernel"] + params["head"]["bias"][None, :] - batch[1]) ** 2)

    op = hessian(loss, params, batch, select=[re.compile("lora_[ab]$"), "head/*"])
    assert op.structure["base"] == {"kernel": None, "order": None}
    trained = {name: params[name] for name in ("adapter", "head")}
    check(op, lambda p: loss({"base": params["base"], **p}, batch), trained)
    assert {name: block.size for name, block in blocks(op).items()} == {"adapter": 7, "head": 5}
    # Without a selection, all leaves except the integer ones vary.
    assert hessian(loss, params, batch).size == 12 + 7 + 5


@pytest.mark.slow
@pytest.mark.parametrize("narrow", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_sixteen_bit_parameters_are_judged_honestly(batch, narrow, rng):
    params = {"b": 0.3 * rng.normal(size=4), "head": rng.normal(size=(4, 1)), "w": rng.normal(size=(3, 4))}
    params = jax.tree.map(lambda x: jnp.asarray(x, narrow), params)

    def loss(params, batch):
        outputs = jnp.tanh(batch[0].astype(params["w"].dtype) @ params["w"] + params["b"][None, :]) @ params["head"]
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        return jnp.mean((outputs - batch[1].astype(outputs.dtype)) ** 2)

    exact = dense_hessian(lambda p: loss(p, batch), jax.tree.map(lambda x: x.astype(float), params))
    truth = np.linalg.eigvalsh(exact)[::-1][:2]
    op = hessian(loss, params, jax.tree.map(lambda x: x.astype(jnp.float32), batch), batch_size=4)
    # The error of a matvec is a small multiple of the rounding unit: smaller tolerances cannot be met.
    rounding = float(jnp.finfo(narrow).eps) / 2
    results = jax.vmap(lambda tol: eigsh(op, 2, tol=tol))(jnp.array([rounding / 10, 8 * rounding]))
    assert results.converged.tolist() == [[False, False], [True, True]]
    assert results.status.tolist() == [Status.STAGNATED, Status.CONVERGED]
    assert results.eigenvalues.dtype == jnp.float32
    assert_allclose(results.eigenvalues, np.stack([truth, truth]), rtol=2 * rounding)
    vectors = np.concatenate([np.reshape(x, (2, 2, -1)) for x in jax.tree.leaves(results.eigenvectors)], -1)
    residuals = np.linalg.norm(vectors @ exact - results.eigenvalues[..., None] * vectors, axis=-1)
    assert np.all(residuals <= results.residuals + 3 * rounding * truth[0])
    assert np.all(results.residuals <= 8 * rounding * truth[0])
