"""Losses of a `LinearHead` without an array of logits: equal to those of the logits, in the memory of one chunk."""

import dataclasses
import functools

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from eigenjax import LinearHead, fisher, gauss_newton, hessian, softmax_cross_entropy, to_dense

IGNORED = -1
V, D, B, T = 7, 3, 2, 5


@pytest.fixture
def problem(rng, float64):
    """Return the parameters of a one-layer language model with tied embeddings, its tokens and its labels."""
    params = {"embedding": rng.normal(size=(V, D)), "inner": rng.normal(size=(D, D)), "bias": rng.normal(size=V)}
    tokens, labels = rng.integers(0, V, size=(2, B, T))
    labels[0, 1] = labels[1, 0] = labels[1, 3] = IGNORED
    return jax.tree.map(jnp.asarray, (params, (tokens, labels)))


def head(params, tokens, chunk_size=None):
    features = jnp.tanh(params["embedding"][tokens] @ params["inner"])
    return LinearHead(features, params["embedding"].T, params["bias"], chunk_size)


def logits(params, tokens):
    return head(params, tokens).logits()


ignoring = functools.partial(softmax_cross_entropy, ignore_label=IGNORED)


def by_hand(logits, labels):
    """Compute the loss of each position in NumPy."""
    z = np.asarray(logits)
    losses = np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return np.where(labels == IGNORED, 0, losses)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_loss_and_its_reductions(problem, chunk_size):
    params, (tokens, labels) = problem
    losses, valid = by_hand(logits(params, tokens), np.asarray(labels)), np.asarray(labels) != IGNORED
    expected = {"none": losses, "example": losses.sum(1) / valid.sum(1), "mean": losses.sum() / valid.sum()}
    for reduction, value in expected.items():
        for outputs in (head(params, tokens, chunk_size), logits(params, tokens)):
            assert_allclose(ignoring(outputs, labels, reduction=reduction), value, rtol=1e-13)


def test_narrow_labels_and_no_valid_one(float64):
    z = jnp.linspace(0.0, 1.0, 300)[None]
    expected = np.log(np.exp(np.asarray(z)).sum()) - z[0, 200]
    assert_allclose(softmax_cross_entropy(z, jnp.array([200], jnp.uint8)), expected, rtol=1e-13)
    assert_array_equal(softmax_cross_entropy(z, jnp.array([-100], jnp.int8), ignore_label=-100), 0.0)
    assert np.isnan(softmax_cross_entropy(z, jnp.array([300])))


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [2, pytest.param(None, marks=pytest.mark.slow)])
def test_curvature_is_that_of_formed_logits(problem, chunk_size):
    params, data = problem
    model = functools.partial(head, chunk_size=chunk_size)
    loss_of = lambda model: lambda params, batch: ignoring(model(params, batch[0]), batch[1])
    gradients = [jax.grad(loss_of(m))(params, data) for m in (model, logits)]
    chex.assert_trees_all_close(*gradients, rtol=1e-12, atol=1e-14)
    pairs = {
        "Hessian": [hessian(loss_of(m), params, data) for m in (model, logits)],
        "Gauss-Newton": [gauss_newton(m, ignoring, params, data, batch_size=1) for m in (model, logits)],
        "empirical": [fisher(m, params, data, kind="empirical", ignore_label=IGNORED) for m in (model, logits)],
        "monte_carlo": [
            fisher(m, params, data, kind="monte_carlo", key=jax.random.key(0), ignore_label=IGNORED)
            for m in (model, logits)
        ],
    }
    for name, operators in pairs.items():
        ours, formed = map(to_dense, operators)
        assert_allclose(ours, formed, rtol=0, atol=1e-13 * np.abs(formed).max(), err_msg=name)


def test_the_gauss_newton_matrix_is_that_of_the_logits(problem):
    # The head is bilinear in features and kernel; its own curvature is not part of the Gauss-Newton matrix.
    params, (tokens, labels) = problem
    labels = jnp.maximum(labels, 0)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    z = np.asarray(logits(params, tokens)).reshape(-1, V)
    jacobian = np.asarray(jax.jacobian(lambda x: logits(unravel(x), tokens))(flat)).reshape(len(z), V, -1)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dense = sum(J.T @ (np.diag(q) - np.outer(q, q)) @ J for J, q in zip(jacobian, p, strict=True)) / len(z)
    handwritten = lambda z, y: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[..., None], -1))
    for loss in (softmax_cross_entropy, handwritten):
        ours = to_dense(gauss_newton(functools.partial(head, chunk_size=2), loss, params, (tokens, labels)))
        assert_allclose(ours, dense, rtol=0, atol=1e-13 * np.abs(dense).max())


def test_features_of_examples_alone_and_checkpointed_models(problem):
    params, (tokens, labels) = problem
    data = (tokens.reshape(-1), jnp.maximum(labels, 0).reshape(-1))

    def model(params, tokens):
        whole = head(params, tokens, chunk_size=4)
        policy = jax.checkpoint_policies.nothing_saveable
        inner = jax.checkpoint(lambda e, w: jnp.tanh(e @ w), policy=policy)
        return dataclasses.replace(whole, features=inner(params["embedding"][tokens], params["inner"]), bias=None)

    formed = lambda params, tokens: logits(params | {"bias": jnp.zeros(V)}, tokens)
    ours = to_dense(gauss_newton(model, softmax_cross_entropy, params, data))
    theirs = to_dense(gauss_newton(formed, softmax_cross_entropy, params, data))
    assert_allclose(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_the_derivative_of_a_product(problem):
    params, data = problem

    def square(model, params):
        product = gauss_newton(model, ignoring, params, data)(jax.tree.map(jnp.cos, params))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(product))

    ours = jax.jit(jax.grad(functools.partial(square, functools.partial(head, chunk_size=2))))(params)
    theirs = jax.jit(jax.grad(functools.partial(square, logits)))(params)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_no_array_of_all_logits_exists():
    width, classes, length = 16, 8192, 2048
    params = {"embedding": jax.ShapeDtypeStruct((classes, width), jnp.float32)}
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    kernel = lambda params: params["embedding"].T
    model = lambda params, tokens: LinearHead(jnp.tanh(params["embedding"][tokens]), kernel(params), chunk_size=64)
    loss = lambda params, batch: softmax_cross_entropy(model(params, batch[0]), batch[1])
    products = {
        "gradient": lambda params, data: jax.grad(loss)(params, data),
        "Gauss-Newton": lambda params, data: gauss_newton(model, softmax_cross_entropy, params, data)(params),
        "Hessian": lambda params, data: hessian(loss, params, data)(params),
        "Fisher": lambda params, data: fisher(model, params, data, kind="empirical")(params),
        "derivative": lambda params, data: jax.grad(
            lambda p: jnp.sum(gauss_newton(model, softmax_cross_entropy, p, data)(p)["embedding"] ** 2)
        )(params),
    }
    for name, product in products.items():
        memory = jax.jit(product).lower(params, (tokens, tokens)).compile().memory_analysis()
        # All logits take 64 MiB, the logits of a chunk 2 MiB, and the embedding 0.5 MiB.
        assert memory.temp_size_in_bytes < 2**26 / 2, (name, memory.temp_size_in_bytes)


@pytest.mark.slow
def test_bfloat16_logits_are_reduced_in_float32(problem, rng):
    params, (tokens, labels) = problem
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert ignoring(head(narrow, tokens, 2), labels).dtype == jnp.float32
    product = gauss_newton(functools.partial(head, chunk_size=2), ignoring, narrow, (tokens, labels))(narrow)
    exact = gauss_newton(logits, ignoring, params, (tokens, labels))(params)
    for name, leaf in product.items():
        assert leaf.dtype == jnp.bfloat16
        assert_allclose(leaf.astype(float), exact[name], atol=0.05 * np.abs(exact[name]).max())
