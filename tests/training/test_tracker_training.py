"""The tracker in a training run: accuracy, matvecs and compilations against cold solves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits

from eigenjax import eigsh, hessian, spectrum_tracker

K = 3


class Counted:
    """Loss that counts how often Python runs it."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, params, batch):
        self.calls += 1
        logits = self.model.apply(params, batch[0])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))


def follow(optimizer, which, every, steps, between_checks):
    """Return the metrics of each step, errors against cold solves, and the numbers of traces and programs."""
    images, labels = load_digits(return_X_y=True)
    data = (jnp.asarray(images[:300] / 16, jnp.float32), jnp.asarray(labels[:300], jnp.int32))
    model = nn.Sequential([nn.Dense(12), jnp.tanh, nn.Dense(10)])
    loss, tracker = Counted(model), spectrum_tracker(K, which=which, every=every)

    @jax.jit
    def train_step(params, opt_state, state):
        state, metrics = tracker.update(hessian(loss, params, data), state)
        updates, opt_state = optimizer.update(jax.grad(loss)(params, data), opt_state, params)
        return optax.apply_updates(params, updates), opt_state, state, metrics

    cold = jax.jit(lambda params: eigsh(hessian(Counted(model), params, data), K, which=which, tol=1e-5))
    params = model.init(jax.random.key(0), data[0])
    opt_state, state = optimizer.init(params), tracker.init(hessian(loss, params, data), jax.random.key(1))
    every_metric, errors, loss.calls = [], [], 0
    for step in range(steps):
        truth = cold(params) if step % between_checks == 0 else None
        params, opt_state, state, metrics = train_step(params, opt_state, state)
        every_metric.append(metrics)
        if truth is not None:
            seen = np.asarray([metrics[f"eigenvalue_{i}"] for i in range(K)])
            errors.append(np.abs(seen - truth.eigenvalues) / np.abs(truth.eigenvalues))
    metrics = {name: np.asarray([one[name] for one in every_metric]) for name in every_metric[0]}
    return metrics, np.asarray(errors), loss.calls, train_step._cache_size()


# One trace for the matvec and one for the gradient of the step.
TRACES = 2


@pytest.mark.slow
def test_a_hundred_steps_of_a_network():
    with jax.numpy_dtype_promotion("standard"):
        metrics, errors, traces, programs = follow(optax.sgd(0.2), "LA", 1, 100, 25)
    assert errors.max() < 0.01
    # After twenty steps of fast change the drift is small, except where two eigenvalues cross.
    assert np.median(metrics["num_matvecs"]) == K + 1
    assert metrics["num_matvecs"][20:].mean() < K + 2
    assert (traces, programs) == (TRACES, 1)
    assert_allclose(metrics["converged_2"].mean(), 1, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.2), optax.adam(1e-3)], ids=["sgd", "adam"])
def test_a_thousand_steps_of_a_network(optimizer, every):
    with jax.numpy_dtype_promotion("standard"):
        metrics, errors, traces, programs = follow(optimizer, "LA", every, 1000, 50)
    assert len(errors) == 20
    assert errors.max() < 0.01
    assert (traces, programs) == (TRACES, 1)
    products = metrics["num_matvecs"][metrics["age"] == 0]
    assert products.max() <= 4 * K + 20
    # In the first steps the spectrum changes fast: each needs a search, at about the cost of a cold solve.
    assert products[len(products) // 2 :].mean() < K + 1.5
