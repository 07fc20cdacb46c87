"""Small networks trained on scikit-learn's digits, for the Hessians of `eigsh_time`."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.eigen.lanczos_overhead import loss
from eigenjax import LinearOperator, hessian

SIDE = 8


class Network(NamedTuple):
    """Parameters, training data, and the mean loss as a function of both."""

    name: str
    params: list[dict[str, jax.Array]]
    images: jax.Array
    labels: jax.Array
    loss: Callable[..., jax.Array]

    @property
    def operator(self) -> LinearOperator:
        """Create the Hessian of the loss."""
        return hessian(self.loss, self.params, (self.images, self.labels))


def perceptron(widths: Sequence[int], examples: int, steps: int) -> Network:
    """Train a perceptron with tanh between layers."""
    return _trained("digits", list(itertools.pairwise(widths)), loss, examples, steps)


def convolutional(features: int, examples: int, steps: int) -> Network:
    """Train two 3 x 3 convolutions with tanh, the second at half the resolution, and a dense layer."""
    dense = (SIDE // 2) ** 2 * 2 * features
    shapes = [(3, 3, 1, features), (3, 3, features, 2 * features), (dense, 10)]
    return _trained("convolutional digits", shapes, convolutional_loss, examples, steps)


def convolutional_loss(params: list[dict[str, jax.Array]], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Compute the softmax cross-entropy of the convolutional network."""
    images, labels = batch
    hidden = images.reshape(-1, SIDE, SIDE, 1)
    for stride, layer in enumerate(params[:-1], 1):
        numbers = ("NHWC", "HWIO", "NHWC")
        hidden = jax.lax.conv_general_dilated(
            hidden, layer["kernel"], (stride, stride), "SAME", dimension_numbers=numbers
        )
        hidden = jnp.tanh(hidden + layer["bias"])
    return loss(params[-1:], (hidden.reshape(len(hidden), -1), labels))


def _trained(name: str, shapes: Sequence[tuple[int, ...]], loss: Callable, examples: int, steps: int) -> Network:
    """Train a network with kernels of these shapes by Adam."""
    import optax
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    batch = jnp.asarray(images[:examples] / 16, jnp.float32), jnp.asarray(labels[:examples], jnp.int32)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    draw = lambda key, shape: jax.random.normal(key, shape) / math.prod(shape[:-1]) ** 0.5
    params = [
        {"kernel": draw(key, shape), "bias": jnp.zeros(shape[-1])} for key, shape in zip(keys, shapes, strict=True)
    ]
    optimizer = optax.adam(1e-3)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
        return optax.apply_updates(params, updates), state

    # Adam's step counter is an integer, which strict promotion refuses. Convolutions are slow in loops on a CPU.
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        for _ in range(steps):
            params, state = step(params, state, batch)
        return Network(name, params, *batch, loss)
