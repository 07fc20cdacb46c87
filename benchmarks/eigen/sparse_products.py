"""Claim: a product with a sparse matrix takes no longer than SciPy's, and a solve without a search hardly longer.

Two- and three-dimensional lattices, a random graph of degree 10 and a power-law graph, n = 10^5 and 10^6, float32.
`product` is the time of one product over that of SciPy's CSR, `of_8` that of eight vectors at once over that of eight
single ones, `bcoo` JAX's own product over SciPy's. `convert_s` is the time of `as_operator`. `eigsh` is the time of a
solve for six pairs over SciPy's, without a search and with it, at residuals of at most 1e-4 of the largest eigenvalue;
SciPy solves to the tolerance that gives such residuals.

    python -m benchmarks.eigen.sparse_products
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from jax.experimental import sparse

import eigenjax
from benchmarks.support import timing

SIZES, QUICK_SIZES = (100_000, 1_000_000), (1000,)
SOLVED = ("eigsh_s", "eigsh", "eigsh_searched", "residual")
K, TOL = 6, 1e-4


def lattice(side: int, dimensions: int) -> sp.csr_array:
    """Build the Laplacian of a square or cubic lattice."""
    line = sp.diags_array([-np.ones(side - 1), 2 * np.ones(side), -np.ones(side - 1)], offsets=[-1, 0, 1])
    matrix = line
    for _ in range(dimensions - 1):
        matrix = sp.kron(matrix, sp.eye_array(side)) + sp.kron(sp.eye_array(matrix.shape[0]), line)
    return matrix.tocsr()


def graph(n: int, weights: np.ndarray | None) -> sp.csr_array:
    """Build the adjacency matrix of a random graph with 5 n edges; one end of each is drawn by the weights."""
    rng = np.random.default_rng(0)
    first, second = rng.choice(n, 5 * n, p=weights), rng.integers(0, n, 5 * n)
    half = sp.coo_array((np.ones(5 * n), (first, second)), (n, n))
    return (half + half.T).tocsr()


def _power_law(n: int) -> sp.csr_array:
    weights = (np.arange(n) + 10.0) ** -0.6
    return graph(n, weights / weights.sum())


PROBLEMS: dict[str, Callable[[int], sp.csr_array]] = {
    "lattice 2-D": lambda n: lattice(round(n**0.5), 2),
    "lattice 3-D": lambda n: lattice(round(n ** (1 / 3)), 3),
    "random graph": lambda n: graph(n, None),
    "power-law graph": _power_law,
}


def scipy_solver(matrix: sp.csr_array) -> Callable[[], Any]:
    """Return SciPy's solve at the loosest tolerance of a few whose residuals are at most TOL."""
    for tol in (1e-2, 1e-3, 1e-4, 1e-5, 0):
        values, vectors = scipy.sparse.linalg.eigsh(matrix, K, which="LA", tol=tol)
        if np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max() <= TOL * values.max():
            return lambda tol=tol: scipy.sparse.linalg.eigsh(matrix, K, which="LA", tol=tol)
    raise RuntimeError("SciPy does not reach the residuals")


def compare(name: str, size: int, repeats: int) -> dict[str, Any]:
    """Measure one problem."""
    matrix = PROBLEMS[name](size).astype(np.float32)
    n = matrix.shape[0]
    vectors = np.random.default_rng(1).standard_normal((8, n)).astype(np.float32)
    start = time.perf_counter()
    op = eigenjax.as_operator(matrix)
    jax.block_until_ready(jax.tree.leaves(op))
    convert_s = time.perf_counter() - start
    product, products = jax.jit(lambda op, v: op(v)), jax.jit(lambda op, rows: jax.vmap(op)(rows))
    bcoo, bcoo_product = sparse.BCOO.from_scipy_sparse(matrix.tocoo()), jax.jit(lambda a, v: a @ v)
    one, rows = jnp.asarray(vectors[0]), jnp.asarray(vectors)
    times = timing.interleaved(
        {
            "eigenjax": lambda: product(op, one),
            "scipy": lambda: matrix @ vectors[0],
            "bcoo": lambda: bcoo_product(bcoo, one),
            "eight": lambda: products(op, rows),
            "single": lambda: [product(op, row) for row in rows],
        },
        5 * repeats,
    )
    return {
        "problem": name,
        "n": n,
        "entries": matrix.nnz,
        "convert_s": convert_s,
        "product_s": times["eigenjax"].median,
        "product": timing.ratio(times["eigenjax"], times["scipy"]),
        "bcoo": timing.ratio(times["bcoo"], times["scipy"]),
        "of_8": timing.ratio(times["eight"], times["single"]),
        "error": float(np.abs(product(op, one) - matrix.astype(float) @ vectors[0]).max()),
        **solved(op, matrix, repeats),
    }


def solved(op: Any, matrix: sp.csr_array, repeats: int) -> dict[str, Any]:
    """Measure solves for six pairs."""
    plain = jax.jit(lambda op: eigenjax.eigsh(op, K, tol=TOL, verify=False, dense=False))
    searched = jax.jit(lambda op: eigenjax.eigsh(op, K, tol=TOL, dense=False))
    solves = {"plain": lambda: plain(op), "searched": lambda: searched(op), "scipy": scipy_solver(matrix)}
    times = timing.interleaved(solves, repeats)
    result = plain(op)
    figures = (
        times["plain"].median,
        timing.ratio(times["plain"], times["scipy"]),
        timing.ratio(times["searched"], times["scipy"]),
        float(result.residuals.max() / result.eigenvalues[0]),
    )
    return dict(zip(SOLVED, figures, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all problems and record the table."""
    args = timing.arguments(__doc__, 3, argv)
    sizes = QUICK_SIZES if args.quick else SIZES
    rows = [compare(name, size, args.repeats) for size in sizes for name in PROBLEMS]
    timing.record("sparse_products", rows, args)


if __name__ == "__main__":
    main()
