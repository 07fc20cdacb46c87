"""Loss on lines along eigenvectors, and on the plane of two of them, through the parameters.

For a unit eigenvector v_i and small t,

    L(p + t v_i) = L(p) + t <g, v_i> + t^2 lambda_i / 2 + O(t^3)

so that a plot of the loss together with this parabola shows whether lambda_i is correct.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.report.inputs.problem import Problem, batches_of, num_examples
from eigenjax.vectors.tree import PyTree

NUM_ALONG = 65
NUM_ACROSS = 33

# The lines extend to where the quadratic term equals this multiple of the loss.
RISE = 2.0


class Slice(NamedTuple):
    """Loss along one eigenvector."""

    positions: np.ndarray  # (m,) distances t
    losses: np.ndarray  # (m,) L(p + t v)
    parabola: np.ndarray  # (m,) L(p) + t <g, v> + t^2 lambda / 2


class Landscape(NamedTuple):
    """Loss along one or two eigenvectors, and on the plane of two."""

    slices: list[Slice]  # one for each direction
    plane: np.ndarray | None  # (m, m) losses, first axis along the second direction; None for one direction
    axes: tuple[np.ndarray, ...]  # (m,) positions of the plane's points, one array for each direction
    center: float  # loss at the parameters


def survey(
    problem: Problem, eigenvalues: np.ndarray, directions: PyTree, *, batch_size: int | None = None
) -> Landscape:
    """Evaluate the loss on lines and on the plane through the parameters.

    Args:
        problem: the loss, parameters and data.
        eigenvalues: (d,) eigenvalues of the directions, one or two; they set the length of the lines.
        directions: d unit vectors of the Hessian's structure, with a leading axis d on every leaf.
        batch_size: examples at a time; None for all at once.

    Returns:
        The landscape, with `NUM_ALONG` losses on each line and `NUM_ACROSS` squared on the plane.

    Example:
        >>> bowl = Problem(lambda w: 1.0 + w[0] ** 2 + 2 * w[1] ** 2, jnp.zeros(2))
        >>> landscape = survey(bowl, np.array([4.0, 2.0]), jnp.array([[0.0, 1.0], [1.0, 0.0]]))
        >>> print(np.allclose(landscape.slices[0].losses, landscape.slices[0].parabola))
        True
        >>> landscape.plane.shape
        (33, 33)
    """
    count = len(eigenvalues)
    evaluate = functools.partial(_losses, problem, directions, batch_size)
    center, slopes = evaluate(np.zeros((1, count)))[0], _slopes(problem, directions, batch_size)
    reach = np.sqrt(2 * RISE * max(abs(center), 1e-6) / np.maximum(np.abs(eigenvalues), 1e-12))
    slices = []
    for index in range(count):
        positions = np.linspace(-reach[index], reach[index], NUM_ALONG)
        losses = evaluate(np.outer(positions, np.eye(count)[index]))
        parabola = center + positions * slopes[index] + positions**2 * eigenvalues[index] / 2
        slices.append(Slice(positions, losses, parabola))
    axes = tuple(np.linspace(-r, r, NUM_ACROSS) for r in reach)
    plane = _plane(evaluate, axes) if count == 2 else None
    return Landscape(slices, plane, axes, float(center))


def _plane(evaluate: Callable, axes: tuple[np.ndarray, ...]) -> np.ndarray:
    first, second = np.meshgrid(*axes)
    return evaluate(np.stack([first.ravel(), second.ravel()], axis=1)).reshape(first.shape)


def _losses(problem: Problem, directions: PyTree, batch_size: int | None, points: np.ndarray) -> np.ndarray:
    coordinates = jnp.asarray(points, jnp.result_type(float))
    batches = _batches(problem.data, batch_size)
    shares = [
        share * np.asarray(_losses_of_batch(problem.loss, problem.params, batch, directions, coordinates))
        for share, batch in batches
    ]
    return np.asarray(np.sum(shares, axis=0, dtype=np.float64))


def _slopes(problem: Problem, directions: PyTree, batch_size: int | None) -> np.ndarray:
    shares = [
        share * np.asarray(_slopes_of_batch(problem.loss, problem.params, batch, directions))
        for share, batch in _batches(problem.data, batch_size)
    ]
    return np.asarray(np.sum(shares, axis=0, dtype=np.float64))


def _batches(data: PyTree, batch_size: int | None) -> list[tuple[float, PyTree]]:
    """List the batches of the data, each with its fraction of the examples."""
    count = num_examples(data) or 1
    batches = list(batches_of(data, batch_size))
    return [((num_examples(batch) or 1) / count, batch) for batch in batches]


@functools.partial(jax.jit, static_argnums=0)
def _losses_of_batch(loss: Callable, params: PyTree, batch: PyTree, directions: PyTree, points: jax.Array):
    # One point at a time: evaluating all at once would hold the activations of every point in memory.
    return jax.lax.map(lambda point: _call(loss, _moved(params, directions, point), batch), points)


@functools.partial(jax.jit, static_argnums=0)
def _slopes_of_batch(loss: Callable, params: PyTree, batch: PyTree, directions: PyTree):
    count = jax.tree.leaves(directions)[0].shape[0]
    origin = jnp.zeros(count, jnp.result_type(float))
    return jax.grad(lambda point: _call(loss, _moved(params, directions, point), batch))(origin)


def _call(loss: Callable, params: PyTree, batch: PyTree) -> jax.Array:
    return loss(params) if batch is None else loss(params, batch)


def _moved(params: PyTree, directions: PyTree, point: jax.Array) -> PyTree:
    # Leaves that the Hessian does not act on, such as integers, are None in the directions.
    def move(direction, leaf):
        if direction is None:
            return leaf
        point_of_dtype, along = point.astype(leaf.dtype), direction.astype(leaf.dtype)
        return leaf + jnp.tensordot(point_of_dtype, along, axes=1, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(move, directions, params, is_leaf=lambda leaf: leaf is None)
