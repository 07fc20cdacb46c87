"""Problem on generated data: a small network that tells three noisy rings apart. It needs JAX alone.

eigenjax spectrum --problem eigenjax.report.inputs.generated:rings
"""

import itertools

import jax
import jax.numpy as jnp

from eigenjax.report.inputs.problem import Problem
from eigenjax.vectors.tree import PyTree

WIDTHS = (2, 24, 24, 3)
NUM_EXAMPLES, NUM_STEPS, LEARNING_RATE = 600, 400, 0.3
_NOISE = 0.15


def rings() -> Problem:
    """Generate points on three rings, and train a network to classify them.

    Returns:
        The problem: 747 parameters, 600 examples. It is the same in every call.

    Cost: about a second.

    Example:
        >>> problem = rings()
        >>> print(problem.loss(problem.params, problem.data) < 0.5)
        True
    """
    angle_key, noise_key, params_key = jax.random.split(jax.random.key(0), 3)
    classes = jnp.arange(NUM_EXAMPLES) % WIDTHS[-1]
    angles = jax.random.uniform(angle_key, (NUM_EXAMPLES,), maxval=2 * jnp.pi)
    circle = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    points = (1 + classes[:, None].astype(jnp.float32)) * circle
    data = points + _NOISE * jax.random.normal(noise_key, points.shape), classes
    return Problem(_loss, _train(_initial(params_key), data), data, _model, _loss_of_output)


def _initial(key: jax.Array) -> dict[str, dict[str, jax.Array]]:
    layers = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (inputs, outputs)) / inputs**0.5
        layers[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
    return layers


def _model(params: PyTree, inputs: jax.Array) -> jax.Array:
    *hidden, last = params.values()
    for layer in hidden:
        inputs = jnp.tanh(inputs @ layer["kernel"] + layer["bias"][None])
    return inputs @ last["kernel"] + last["bias"][None]


def _loss_of_output(logits: jax.Array, classes: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], axis=1)
    return -jnp.mean(chosen)


def _loss(params: PyTree, data: tuple[jax.Array, jax.Array]) -> jax.Array:
    return _loss_of_output(_model(params, data[0]), data[1])


@jax.jit
def _train(params: PyTree, data: tuple[jax.Array, jax.Array]) -> PyTree:
    step = lambda _, params: jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, jax.grad(_loss)(params, data))
    return jax.lax.fori_loop(0, NUM_STEPS, step, params)
