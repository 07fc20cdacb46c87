"""Stiffness and mass matrices of linear finite elements on simplices, in one, two and three dimensions."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse


class Elements(NamedTuple):
    """Pair of matrices of  - div grad u = lambda u  with u = 0 on the boundary."""

    stiffness: Any  # (n, n), a SciPy matrix
    mass: Any


def cube(cells: int, dimension: int) -> Elements:
    """Assemble the matrices of the unit cube with this number of cells along each axis."""
    points, simplices = _grid(np.ones((cells,) * dimension, bool), 1 / cells)
    return _assembled(points, simplices, np.all((points > 1e-9) & (points < 1 - 1e-9), axis=1))


def l_shape(cells: int) -> Elements:
    """Assemble the matrices of the L-shaped membrane, three squares of side 1, each with cells^2 cells."""
    inside = np.ones((2 * cells, 2 * cells), bool)
    inside[cells:, cells:] = False
    points, simplices = _grid(inside, 1 / cells)
    x, y = points.T
    on_outside = (np.minimum(x, y) < 1e-9) | (np.maximum(x, y) > 2 - 1e-9)
    on_notch = (x > 1 - 1e-9) & (y > 1 - 1e-9)
    return _assembled(points, simplices, ~(on_outside | on_notch))


def _grid(inside: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Split the cells of a grid into simplices: one for each order of the axes (Kuhn 1960)."""
    dimension, shape = inside.ndim, np.array(inside.shape) + 1
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, dimension)
    corners = np.argwhere(inside)
    simplices = []
    for order in itertools.permutations(range(dimension)):
        steps = np.zeros((dimension + 1, dimension), int)
        for i, axis in enumerate(order):
            steps[i + 1 :, axis] += 1
        vertices = corners[:, None, :] + steps[None, :, :]
        simplices.append(np.ravel_multi_index(tuple(np.moveaxis(vertices, -1, 0)), tuple(shape)))
    return points * width, np.concatenate(simplices)


def _assembled(points: np.ndarray, simplices: np.ndarray, free: np.ndarray) -> Elements:
    dimension = points.shape[1]
    corners = points[simplices]
    edges = corners[:, 1:] - corners[:, :1]
    volumes = np.abs(np.linalg.det(edges)) / math.factorial(dimension)
    gradients = np.linalg.inv(edges).transpose(0, 2, 1)
    gradients = np.concatenate([-gradients.sum(axis=1, keepdims=True), gradients], axis=1)
    stiffness = volumes[:, None, None] * (gradients @ gradients.transpose(0, 2, 1))
    mass = (np.ones((dimension + 1,) * 2) + np.eye(dimension + 1)) / ((dimension + 1) * (dimension + 2))
    mass = volumes[:, None, None] * mass[None]
    rows = np.broadcast_to(simplices[:, :, None], mass.shape).ravel()
    columns = np.broadcast_to(simplices[:, None, :], mass.shape).ravel()
    shape = (len(points), len(points))
    build = lambda local: sparse.coo_matrix((local.ravel(), (rows, columns)), shape).tocsr()[free][:, free]
    return Elements(build(stiffness), build(mass))
