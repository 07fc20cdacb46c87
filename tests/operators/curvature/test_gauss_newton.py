"""The Gauss-Newton matrix against dense Jacobians, closed forms, and a spectrum from another framework."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import gauss_newton, hessian, softmax_cross_entropy, to_dense

from .conftest import (
    IGNORED,
    assert_close,
    cross_entropy,
    cube,
    dense_gauss_newton,
    network,
    reference,
    reference_model,
    scanned_cube,
)

SLOW = pytest.mark.slow


def squared_error(outputs, targets):
    return jnp.mean(jnp.sum((outputs - targets) ** 2, -1))


def masked_losses(logits, labels):
    """Compute the cross-entropy of each position, (b, T), zero for ignored labels."""
    valid = labels != IGNORED
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(valid, labels, 0)[..., None], -1)[..., 0]
    return jnp.where(valid, losses, 0.0)


@pytest.fixture
def sequences(rng, float64):
    """Return parameters and ten sequences of five positions with ignored labels; the last one is entirely ignored."""
    params = {"w0": rng.normal(size=(3, 4)), "b0": rng.normal(size=4), "w1": rng.normal(size=(4, 6))}
    labels = np.where(rng.uniform(size=(10, 5)) < 0.4, IGNORED, rng.integers(0, 6, size=(10, 5)))
    labels[-1] = IGNORED
    return jax.tree.map(jnp.asarray, (params, (rng.normal(size=(10, 5, 3)), labels)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "batch_size"),
    [(cross_entropy, 8), (softmax_cross_entropy, 17), pytest.param(cross_entropy, None, marks=SLOW)],
)
def test_the_spectrum_is_that_of_another_framework(loss, batch_size, float64):
    saved, params, data = reference()
    truth = saved["ggn_eigenvalues"]
    dense = to_dense(gauss_newton(reference_model, loss, params, data, batch_size=batch_size))
    assert_allclose(np.linalg.eigvalsh(dense), truth, rtol=0, atol=1e-13 * truth[-1])


@pytest.mark.parametrize("batch_size", [None, 4])
def test_linear_regression(rng, float64, batch_size):
    X, y = rng.normal(size=(10, 4)), rng.normal(size=10)
    loss = lambda z, y: jnp.mean((z - y) ** 2)
    op = gauss_newton(lambda w, X: X @ w, loss, jnp.ones(4), (X, y), batch_size=batch_size)
    assert_allclose(to_dense(op), 2 / 10 * X.T @ X, rtol=1e-12, atol=1e-13)


def test_logistic_regression(rng, float64):
    X, y, w = rng.normal(size=(10, 4)), rng.integers(0, 2, size=10), rng.normal(size=4)
    loss = lambda z, y: jnp.mean(jnp.logaddexp(0.0, z) - y.astype(z.dtype) * z)
    p = 1 / (1 + np.exp(-X @ w))
    op = gauss_newton(lambda w, X: X @ w, loss, w, (X, y))
    assert_allclose(to_dense(op), X.T @ ((p * (1 - p))[:, None] * X) / 10, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("loss", [cross_entropy, softmax_cross_entropy])
def test_softmax_regression_is_a_sum_of_kronecker_products_and_the_hessian(rng, float64, loss):
    X, y, W = rng.normal(size=(10, 3)), rng.integers(0, 4, size=10), rng.normal(size=(3, 4))
    p = np.exp(X @ W) / np.exp(X @ W).sum(1, keepdims=True)
    kronecker = sum(np.kron(np.outer(x, x), np.diag(q) - np.outer(q, q)) for x, q in zip(X, p, strict=True)) / 10
    model = lambda W, X: X @ W
    assert_allclose(to_dense(gauss_newton(model, loss, W, (X, y), batch_size=3)), kronecker, rtol=0, atol=1e-14)
    # The model is linear in its parameters, so that its Hessian equals the Gauss-Newton matrix.
    full = to_dense(hessian(lambda W, batch: loss(model(W, batch[0]), batch[1]), W, (X, y)))
    assert_allclose(full, kronecker, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_a_dense_jacobian_gives_the_same_and_it_is_positive_semidefinite(problem, rng):
    params, (inputs, _) = problem
    targets = jnp.asarray(rng.normal(size=(10, 2)))
    quartic = lambda z, y: jnp.mean(jnp.sum((z - y) ** 4, -1) + jnp.prod(z, -1) ** 2)
    dense = dense_gauss_newton(network, quartic, params, (inputs, targets))
    ours = np.asarray(to_dense(gauss_newton(network, quartic, params, (inputs, targets), batch_size=4)))
    assert_close(ours, dense)
    convex = np.asarray(to_dense(gauss_newton(network, squared_error, params, (inputs, targets))))
    assert_allclose(convex, convex.T, rtol=0, atol=1e-14 * np.abs(convex).max())
    assert np.linalg.eigvalsh(convex)[0] > -1e-13 * np.abs(convex).max()


@pytest.mark.slow
def test_outputs_may_be_a_pytree_with_integers_in_it(problem, rng):
    params, (inputs, labels) = problem

    def model(params, inputs):
        logits = network(params, inputs["x"])
        return {"logits": jnp.stack([logits, 2 * logits], 1), "norm": jnp.sum(logits**2, -1), "index": inputs["index"]}

    def loss(outputs, targets):
        chosen = jnp.where(outputs["index"] > 4, outputs["norm"], 0.0)
        return cross_entropy(outputs["logits"], jnp.stack([targets["y"]] * 2, 1)) + jnp.mean(chosen**2)

    data = ({"x": inputs, "index": jnp.arange(10)}, {"y": labels})
    floating = lambda params, inputs: {k: v for k, v in model(params, inputs).items() if k != "index"}
    dense = dense_gauss_newton(floating, lambda z, y: loss(z | {"index": data[0]["index"]}, y), params, data)
    ours = to_dense(gauss_newton(model, loss, params, data, batch_size=3))
    assert_close(ours, dense)


# Losses that give an exact mean over valid positions, each with the weights for its reduction.
MASKS = {
    "known": (functools.partial(softmax_cross_entropy, ignore_label=IGNORED), lambda valid: None),
    "known, by example": (
        functools.partial(softmax_cross_entropy, ignore_label=IGNORED, reduction="example"),
        lambda valid: valid.sum(1),
    ),
    "known, by position": (
        functools.partial(softmax_cross_entropy, ignore_label=IGNORED, reduction="none"),
        lambda valid: valid,
    ),
    "by example": (
        lambda z, y: jnp.sum(masked_losses(z, y), 1) / jnp.maximum(jnp.sum(y != IGNORED, 1), 1).astype(z.dtype),
        lambda valid: valid.sum(1),
    ),
    "by position": (masked_losses, lambda valid: valid),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[SLOW] if name.startswith("known, by") else []) for name in MASKS]
)
def test_ignored_labels_in_microbatches(sequences, name):
    params, data = sequences
    valid = np.asarray(data[1]) != IGNORED
    loss, weights_of = MASKS[name]
    mean = lambda z, y: jnp.sum(masked_losses(z, y)) / float(valid.sum())
    dense = dense_gauss_newton(network, mean, params, data)
    weights = weights_of(valid.astype(float))
    ours = to_dense(gauss_newton(network, loss, params, data, batch_size=3, weights=weights))
    assert_close(ours, dense)


def test_labels_out_of_range_are_not_passed_over(sequences):
    params, data = sequences
    product = gauss_newton(network, softmax_cross_entropy, params, data)(params)
    assert np.isnan(product["w1"]).all()
    assert np.isnan(softmax_cross_entropy(network(params, data[0]), data[1]))


@SLOW
def test_weights_make_a_weighted_mean(problem, rng):
    params, data = problem
    weights = rng.uniform(size=10)
    example = functools.partial(softmax_cross_entropy, reduction="example")
    losses = lambda z, y: jax.vmap(lambda z, y: cross_entropy(z[None], y[None]))(z, y)
    dense = dense_gauss_newton(network, lambda z, y: jnp.sum(weights * losses(z, y)) / weights.sum(), params, data)
    for loss in (example, losses):
        ours = to_dense(gauss_newton(network, loss, params, data, weights=weights, batch_size=4))
        assert_close(ours, dense)


@pytest.mark.slow
def test_selected_parameters_integer_leaves_and_tied_weights(problem):
    params, data = problem
    params = {"w0": params["w0"], "shift": jnp.arange(4), "b0": params["b0"]}

    def model(params, inputs):  # w0 is the first layer and, transposed, the second
        hidden = jnp.tanh(inputs @ params["w0"] + (params["b0"] + params["shift"].astype(jnp.float64))[None, :])
        return hidden @ params["w0"].T

    floating = lambda part, inputs: model(params | part, inputs)
    w0 = {"w0": params["w0"]}
    both = dense_gauss_newton(floating, cross_entropy, w0 | {"b0": params["b0"]}, data)
    op = gauss_newton(model, softmax_cross_entropy, params, data)
    assert op.structure["shift"] is None
    assert_close(to_dense(op), both)
    block = gauss_newton(model, cross_entropy, params, data, select=lambda path, leaf: leaf.ndim == 2)
    assert_allclose(to_dense(block), dense_gauss_newton(floating, cross_entropy, w0, data), rtol=0, atol=1e-13)


@pytest.mark.parametrize("function", [cube, scanned_cube])
def test_models_and_losses_with_a_custom_vjp(function, float64):
    model = lambda p, x: function(x @ p)
    loss = lambda z, y: jnp.mean(function(z - y))
    data = (jnp.array([[1.0, 2.0], [0.5, 1.0]]), jnp.array([0.3, 0.1]))
    p = jnp.array([0.7, 0.4])
    s = data[0] @ p
    jacobian = 3 * s[:, None] ** 2 * data[0]
    expected = jacobian.T @ ((6 * (s**3 - data[1]) / 2)[:, None] * jacobian)
    op = gauss_newton(model, loss, p, data)
    assert_allclose(to_dense(op), expected, rtol=1e-12)
    assert_allclose(op(jnp.ones(2)), expected.sum(1), rtol=1e-12)


def test_bad_input_is_refused(problem):
    params, (inputs, labels) = problem
    refused = functools.partial(gauss_newton, network, softmax_cross_entropy, params)
    with pytest.raises(ValueError, match=r"data is of type tuple of 3: give the pair \(inputs, targets\)"):
        refused((inputs, labels, labels))
    with pytest.raises(ValueError, match="data is of type dict"):
        refused({"inputs": inputs})
    with pytest.raises(ValueError, match=r"same number of examples.*10.*9"):
        refused((inputs, labels[:9]))
    with pytest.raises(ValueError, match="batch_size=0"):
        refused((inputs, labels), batch_size=0)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\).*10 examples"):
        refused((inputs, labels), weights=jnp.ones(3))
    with pytest.raises(TypeError, match=r"targets are float64.*integer labels"):
        refused((inputs, labels.astype(float)))
    with pytest.raises(TypeError, match=r"weights=, loss\(outputs, targets\) must return the shape \(10,\)"):
        refused((inputs, labels), weights=jnp.ones(10))
    with pytest.raises(ValueError, match=r"targets have shape \(10, 1\).*\(10,\)"):
        refused((inputs, labels[:, None]))(params)
    with pytest.raises(TypeError, match=r"loss\(outputs, targets\) must return the shape \(\), and returned \(10, 2\)"):
        gauss_newton(network, lambda z, y: z, params, (inputs, labels))(params)
    model = lambda p, x: {"z": network(p, x).astype(complex)}
    with pytest.raises(TypeError, match=r"output \['z'\] is complex"):
        gauss_newton(model, lambda z, y: jnp.sum(jnp.abs(z["z"])), params, (inputs, labels))(params)
    with pytest.raises(ValueError, match="reduction='sums'"):
        softmax_cross_entropy(inputs, labels, reduction="sums")
    with pytest.raises(TypeError, match=r"ignore_label=1\.5"):
        softmax_cross_entropy(inputs, labels, ignore_label=1.5)
