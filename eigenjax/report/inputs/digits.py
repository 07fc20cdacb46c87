"""Built-in problem: a small network trained to classify scikit-learn's 1797 digits.

    64 pixels -> 24 tanh -> 24 tanh -> 24 tanh -> 10 classes

Full-batch gradient descent minimizes the softmax cross-entropy, and the largest eigenvalue of the Hessian is recorded.
It rises to 2 / learning_rate, above which gradient descent is unstable, and stays near it (Cohen et al. 2021).
Training ends in this regime, where the Hessian has clearly negative eigenvalues.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.curvature.hessian import hessian
from eigenjax.report.inputs.problem import History, Problem
from eigenjax.report.inputs.progress import Update
from eigenjax.solvers.symmetric.lanczos import lanczos
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Optional packages that this problem needs.
PACKAGES = ("flax", "optax", "sklearn")

HIDDEN = (24, 24, 24)
LEARNING_RATE = 0.5
NUM_STEPS = 100
RECORD_EVERY = 2

_KRYLOV_DIM = 12


def digits_problem(
    key: jax.Array,
    *,
    dtype: Any = jnp.float32,
    num_steps: int = NUM_STEPS,
    update: Update | None = None,
) -> Problem:
    """Train the network and return it with its data and the history of its largest eigenvalue.

    Args:
        key: random key of the initial parameters.
        dtype: dtype of parameters and images.
        num_steps: steps of gradient descent.
        update: called as `update(completed, note)` at every record; None for no calls.

    Returns:
        The problem: 3010 parameters, 1797 examples.

    Cost: one or two seconds; twelve Hessian matvecs per record.
    """
    model, loss_of_output, loss, optimizer, train = _pieces()
    images, labels = _images(dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), jax.jit(model.init)(key, images[:1]))
    params, history = _run(train, params, optimizer.init(params), (images, labels), num_steps, update)
    return Problem(loss, params, (images, labels), model.apply, loss_of_output, history)


def accuracy(problem: Problem) -> float:
    """Compute the fraction of the training images that the network classifies correctly."""
    images, labels = problem.data
    assert problem.model is not None
    return float(jnp.mean(jnp.argmax(problem.model(problem.params, images), axis=-1) == labels))


@functools.cache
def _pieces():
    # Cached, so that static function arguments keep their identity and nothing is compiled twice.
    import optax
    from flax import linen

    model = linen.Sequential(
        [layer for width in HIDDEN for layer in (linen.Dense(width), jnp.tanh)] + [linen.Dense(10)]
    )

    def loss_of_output(logits, labels):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def loss(params, batch):
        return loss_of_output(model.apply(params, batch[0]), batch[1])

    optimizer = optax.sgd(LEARNING_RATE)
    return model, loss_of_output, loss, optimizer, _training(loss, optimizer)


def _images(dtype: Any) -> tuple[jax.Array, jax.Array]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images / 16, dtype), jnp.asarray(labels, jnp.int32)


def _sharpness(loss: Callable) -> Callable:
    def sharpness(params, data, start):
        op = hessian(loss, params, data)
        # Only a breakdown uses the key, and none occurs here. The "rbg" implementation compiles in half the time.
        key = jax.random.key(0, impl="rbg")
        result = lanczos(op, k=1, which="LA", krylov_dim=_KRYLOV_DIM, v0=start, key=key)
        return result.eigenvalues[0], tree.row(result.eigenvectors, 0)

    return sharpness


def _training(loss: Callable, optimizer: Any) -> Callable:
    import optax

    sharpness = _sharpness(loss)

    def one(carry, data):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, data), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def train(params, state, data, start, num_steps):
        params, state = jax.lax.fori_loop(0, num_steps, lambda _, carry: one(carry, data), (params, state))
        # The eigenvector changes slowly during training: the previous one is a good start vector.
        eigenvalue, start = sharpness(params, data, start)
        return params, state, start, loss(params, data), eigenvalue

    return train


def _run(train: Callable, params: PyTree, state: Any, data: PyTree, num_steps: int, update: Update | None):
    steps = [*range(0, num_steps, RECORD_EVERY), num_steps]
    start = jax.tree.map(jnp.ones_like, params)
    losses, eigenvalues = [], []
    if update is not None:
        update(0, "compiling")
    for before, now in zip([0, *steps], steps, strict=False):
        params, state, start, value, eigenvalue = train(params, state, data, start, now - before)
        losses.append(float(value))
        eigenvalues.append(float(eigenvalue))
        if update is not None:
            update(now, f"step {now}, loss {losses[-1]:.3f}, eigenvalue {eigenvalues[-1]:.3f}")
    return params, History(np.asarray(steps), np.asarray(losses), np.asarray(eigenvalues), LEARNING_RATE)
