"""Operators that are timed: networks, a stencil, a graph. Their arrays are arguments of the compiled programs."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from benchmarks.accelerator import transformer
from benchmarks.eigen.lanczos_overhead import loss as perceptron_loss
from benchmarks.support.trained_networks import perceptron
from eigenjax import LinearOperator, as_operator, hessian
from eigenjax.vectors.tree import PyTree


class Problem(NamedTuple):
    """Symmetric operator A(theta; fixed), and the options of its solves."""

    name: str
    build: Callable[[PyTree, PyTree], LinearOperator]
    theta: PyTree  # floating-point arrays to differentiate with respect to
    fixed: PyTree
    k: int
    krylov_dim: int
    max_matvecs: int
    tracked: int  # pairs of the tracker
    tracker_matvecs: int | None  # its budget; None is its default

    @property
    def op(self) -> LinearOperator:
        """Return the operator for the problem's own arrays."""
        return self.build(self.theta, self.fixed)


_MEDIUM = {"k": 5, "krylov_dim": 20, "max_matvecs": 60, "tracked": 3, "tracker_matvecs": None}
# A matvec takes a tenth of a second: allow few, and no missed-pair searches.
_LARGE = {"k": 3, "krylov_dim": 12, "max_matvecs": 24, "tracked": 1, "tracker_matvecs": 2}


def network_hessian(params: PyTree, batch: PyTree) -> LinearOperator:
    """Create the Hessian of a tanh perceptron."""
    return hessian(perceptron_loss, params, batch)


def small_network(quick: bool) -> Problem:
    """Create a problem with 85,002 parameters, trained on 1,797 digits."""
    network = perceptron(*(((64, 16, 10), 64, 2) if quick else ((64, 256, 256, 10), 1797, 100)))
    data = (network.images, network.labels)
    return Problem("perceptron, 85 k", network_hessian, network.params, data, **_MEDIUM)


def medium_network(quick: bool) -> Problem:
    """Create a problem with 1.03 million parameters and 3,072 examples, the one of `lanczos_overhead`."""
    widths, examples = ((64, 32, 10), 16) if quick else ((64, 700, 700, 700, 10), 3072)
    keys = jax.random.split(jax.random.key(0), len(widths) + 1)
    params = [
        {"kernel": jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5, "bias": jnp.zeros(fan_out)}
        for key, fan_in, fan_out in zip(keys, widths, widths[1:], strict=False)
    ]
    inputs = jax.random.normal(keys[-2], (examples, widths[0]))
    labels = jax.random.randint(keys[-1], (examples,), 0, widths[-1])
    return Problem("perceptron, 1 M", network_hessian, params, (inputs, labels), **_MEDIUM)


def language_model(dtype: str) -> Callable[[bool], Problem]:
    """Create the problem of GPT-2 small with 8 x 512 tokens and parameters in the given dtype."""

    def problem(quick: bool) -> Problem:
        shape = transformer.QUICK if quick else transformer.GPT2_SMALL
        params, tokens = transformer.initial(shape, dtype), transformer.batch(shape)
        return Problem(f"GPT-2 small, {dtype}", _language_hessian, params, tokens, **_LARGE)

    return problem


def _language_hessian(params: PyTree, tokens: jax.Array) -> LinearOperator:
    return hessian(transformer.loss, params, tokens)


def stencil(quick: bool) -> Problem:
    """Create the five-point Laplacian of a periodic 1024 x 1024 grid plus a random potential."""
    side = 16 if quick else 1024
    potential = jax.random.uniform(jax.random.key(3), (side, side), maxval=10.0)
    return Problem(f"stencil, {side} x {side}", five_point, potential, None, **_MEDIUM)


def five_point(potential: jax.Array, fixed: None) -> LinearOperator:
    """Create the operator (V + 4) u minus the four neighbors."""
    del fixed
    return as_operator(lambda u: _five_point(potential, u), like=potential)


def _five_point(potential: jax.Array, u: jax.Array) -> jax.Array:
    neighbors = jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0) + jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1)
    return (potential + 4) * u - neighbors


def graph(quick: bool) -> Problem:
    """Create the Laplacian of a random graph of a million nodes and five million edges, as BCOO."""
    matrix = graph_laplacian(400 if quick else 1_000_000)
    entries, indices = bcoo_parts(matrix)
    return Problem(f"graph, {matrix.shape[0]} nodes", of_graph(matrix.shape[0]), entries, indices, **_MEDIUM)


@functools.cache
def graph_laplacian(nodes: int) -> scipy.sparse.csr_matrix:
    """Draw D - A in float32, for an Erdos-Renyi graph of mean degree ten."""
    ends = np.random.default_rng(0).integers(0, nodes, size=(2, 5 * nodes), dtype=np.int32)
    rows, columns = np.concatenate([ends[0], ends[1]]), np.concatenate([ends[1], ends[0]])
    adjacency = scipy.sparse.coo_matrix((np.ones(len(rows), np.float32), (rows, columns)), (nodes, nodes)).tocsr()
    degrees = np.asarray(adjacency.sum(axis=1), np.float32).ravel()
    return (scipy.sparse.diags(degrees) - adjacency).tocsr().astype(np.float32)


def bcoo_parts(matrix: scipy.sparse.csr_matrix) -> tuple[jax.Array, jax.Array]:
    """Return entries and indices on the device, in the order of the rows."""
    coordinates = matrix.tocoo()
    indices = np.stack([coordinates.row, coordinates.col], axis=1).astype(np.int32)
    return jnp.asarray(coordinates.data), jnp.asarray(indices)


def of_graph(nodes: int) -> Callable[[jax.Array, jax.Array], LinearOperator]:
    """Build the function from entries and indices to the operator of a sorted BCOO matrix."""
    from jax.experimental import sparse

    def build(entries: jax.Array, indices: jax.Array) -> LinearOperator:
        matrix = sparse.BCOO((entries, indices), shape=(nodes, nodes), indices_sorted=True, unique_indices=True)
        return as_operator(matrix)

    return build
