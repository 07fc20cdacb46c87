"""Test matrices of the solvers: a dozen kinds of spectrum, in float64, with their eigenvalues.

The convergence of a Krylov method depends only on the eigenvalues and the components of the start vector. Constructed
spectra are therefore diagonal matrices: with a random start vector they are as hard as rotated ones, at cheap matvecs.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.spatial

from eigenjax import hessian, to_dense
from eigenjax.report.inputs.digits import digits_problem


class Spectrum(NamedTuple):
    """Matrix, the wanted end of its spectrum, and the exact eigenvalues."""

    name: str
    which: str
    matrix: Any  # (n, n) float64: scipy.sparse CSR, or a NumPy array where it is dense
    eigenvalues: np.ndarray  # (n,) ascending

    @property
    def norm(self) -> float:
        """Compute ||A||."""
        return float(np.abs(self.eigenvalues[[0, -1]]).max())

    def wanted(self, k: int) -> np.ndarray:
        """Return the k wanted eigenvalues, ascending; for BE and odd k, one more from the upper end."""
        if self.which == "BE":
            return np.sort(np.r_[self.eigenvalues[: k // 2], self.eigenvalues[len(self.eigenvalues) - (k + 1) // 2 :]])
        order = {"LA": -self.eigenvalues, "SA": self.eigenvalues, "LM": -np.abs(self.eigenvalues)}[self.which]
        return np.sort(self.eigenvalues[np.argsort(order, kind="stable")[:k]])


def problems(quick: bool = False) -> Iterator[Spectrum]:
    """Yield all problems; with `quick`, of 100 to 200 dimensions."""
    shrink = 5 if quick else 1
    n = 2000 // shrink**2 if quick else 2000
    plane = (60 // shrink, 70 // shrink)
    yield from spectra("Laplacian 2-D", grid_laplacian(plane), "SA")
    yield from spectra("Laplacian 3-D", grid_laplacian((4, 5, 6) if quick else (15, 16, 17)), "SA")
    yield from spectra("Laplacian 1 : 0.05", grid_laplacian(plane, (1.0, 0.05)), "SA")
    yield from spectra("random graph", dense_truth(random_graph(n, degree=6)), "LA", "SA")
    yield from spectra("geometric graph", dense_truth(geometric_graph(1500 // shrink**2, 0.05 * shrink)), "LA")
    yield from spectra("random sparse", dense_truth(random_sparse(n, 0.005 * shrink)), "LM")
    yield from spectra("ten outliers", diagonal(outliers(n)), "LA", "LM")
    yield from spectra("clusters of five", diagonal(clusters(n)), "LA")
    yield from spectra("normal indefinite", diagonal(np.random.default_rng(5).normal(size=n)), "LM", "BE")
    yield from spectra("Wishart", dense_truth(wishart(1000 // shrink**2)), "LA")
    yield from spectra("digits Hessian", dense_truth(digits_hessian(quick)), "LA")


def spectra(name: str, matrix_and_truth: tuple[Any, np.ndarray], *ends: str) -> Iterator[Spectrum]:
    """Yield a problem for each `which`."""
    matrix, eigenvalues = matrix_and_truth
    for which in ends:
        yield Spectrum(name, which, matrix, np.sort(eigenvalues))


def dense_truth(matrix: Any) -> tuple[Any, np.ndarray]:
    """Return a matrix and its eigenvalues."""
    return matrix, np.linalg.eigvalsh(matrix.toarray() if scipy.sparse.issparse(matrix) else matrix)


def diagonal(eigenvalues: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return a diagonal matrix and its eigenvalues."""
    return scipy.sparse.diags(eigenvalues).tocsr(), eigenvalues


def grid_laplacian(sides: tuple[int, ...], weights: tuple[float, ...] | None = None) -> tuple[Any, np.ndarray]:
    """Create a weighted sum of second differences along the axes of a grid, with zero boundary.

    The sides differ, so that no eigenvalue is double.
    """
    weights = weights or (1.0,) * len(sides)
    matrix, eigenvalues = scipy.sparse.csr_array((1, 1)), np.zeros(1)
    for n, weight in zip(sides, weights, strict=True):
        line = weight * scipy.sparse.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])
        along = weight * 4 * np.sin(np.pi * np.arange(1, n + 1) / (2 * n + 2)) ** 2
        identity = scipy.sparse.eye_array
        matrix = scipy.sparse.kron(matrix, identity(n)) + scipy.sparse.kron(identity(matrix.shape[0]), line)
        eigenvalues = (eigenvalues[:, None] + along).ravel()
    return matrix.tocsr(), eigenvalues


def graph_laplacian(edges: np.ndarray, n: int) -> scipy.sparse.csr_array:
    """Create degrees minus adjacency of the largest connected part, so that the eigenvalue 0 is simple."""
    ones = np.ones(len(edges))
    adjacency = scipy.sparse.coo_array((ones, tuple(edges.T)), shape=(n, n)).tocsr()
    adjacency = adjacency + adjacency.T
    _, labels = scipy.sparse.csgraph.connected_components(adjacency)
    part = np.flatnonzero(labels == np.bincount(labels).argmax())
    return scipy.sparse.csgraph.laplacian(adjacency[part][:, part]).tocsr()


def random_graph(n: int, degree: float) -> scipy.sparse.csr_array:
    """Draw a graph in which every edge has the same probability."""
    rng = np.random.default_rng(1)
    edges = np.unique(np.sort(rng.integers(n, size=(int(n * degree / 2), 2)), axis=1), axis=0)
    return graph_laplacian(edges[edges[:, 0] < edges[:, 1]], n)


def geometric_graph(n: int, radius: float) -> scipy.sparse.csr_array:
    """Draw points in the unit square, and join those that are close."""
    points = np.random.default_rng(2).uniform(size=(n, 2))
    return graph_laplacian(scipy.spatial.cKDTree(points).query_pairs(radius, output_type="ndarray"), n)


def random_sparse(n: int, density: float) -> scipy.sparse.csr_array:
    """Draw a symmetric sparse matrix with normal entries at random places."""
    half = scipy.sparse.random_array(
        (n, n), density=density / 2, rng=np.random.default_rng(3), data_sampler=np.random.default_rng(4).normal
    )
    return (half + half.T).tocsr()


def outliers(n: int) -> np.ndarray:
    """Draw a model of a network's spectrum: ten from 8 to 100, a bulk with density exp(-x), a tenth negative."""
    bulk = np.random.default_rng(6).exponential(size=n - 10) * np.where(np.arange(n - 10) % 10, 0.5, -0.2)
    return np.r_[np.geomspace(8, 100, 10), bulk]


def clusters(n: int) -> np.ndarray:
    """Draw six groups of five, 1e-4 apart within each, over a uniform bulk."""
    groups = np.arange(10.0, 4.0, -1.0)[:, None] + 1e-4 * np.arange(5)
    return np.r_[groups.ravel(), np.random.default_rng(7).uniform(0, 4, n - 30)]


def wishart(n: int) -> np.ndarray:
    """Create X X^T / n: no outliers, an edge at 4."""
    sample = np.random.default_rng(8).normal(size=(n, n))
    return sample @ sample.T / n


def digits_hessian(quick: bool) -> np.ndarray:
    """Compute the Hessian of the trained digits network in all layers but the first.

    It has 1,450 parameters; with `quick` only those of the last layer, 250.
    """
    # Flax initializes in float32 for any dtype of the inputs.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        problem = digits_problem(jax.random.key(0), dtype=np.float64, num_steps=4 if quick else 100)
        layers = problem.params["params"]
        first, *others = sorted(layers)
        chosen = others[-1:] if quick else others
        fixed = {name: layers[name] for name in [first, *others] if name not in chosen}

        def loss(part, data):
            return problem.loss({"params": {**fixed, **part}}, data)

        dense = to_dense(hessian(loss, {name: layers[name] for name in chosen}, problem.data))
        return np.asarray(dense + dense.T) / 2
