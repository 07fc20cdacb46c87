"""Claim: without a search, general problems near a shift take at most ARPACK's solves.

Ten eigenvalues of K x + c . grad x = lambda M x, linear finite elements of diffusion on a square with a convection in
one direction, in float64. `real` and `complex`: the nearest to 0 and to 60 + 40i with a factorization of K - s M
(ARPACK: mode 3 with the same factors; it takes the real part of the inverse for a complex shift of a real matrix);
`largest`: the largest, where systems with M are solved (ARPACK: mode 2); `smallest`: the smallest of M^-1 K with
nothing but matvecs. `all` are the products until all copies are certain, `plain` those with verify=False, as ARPACK
makes them; `residual` is the largest ||K x - lambda M x|| over ||K|| ||x||, recomputed; `error` is the largest distance
from an eigenvalue of ARPACK relative to it; `time` is that of a later call without the search, relative to ARPACK's.

    python -m benchmarks.eigen.eigs_shifts [--quick]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse.linalg

from benchmarks.support import finite_elements, timing
from benchmarks.support.counted_operator import CountedOperator
from eigenjax import as_operator, eigs, shift_inverse

K, TOL = 10, 1e-8
# Numbers of cells along an axis: n = 81, 961 and 9,801.
CELLS, QUICK = (10, 32, 100), (10,)
# Beyond this, problems without a factorization take minutes: each convergence check computes a Schur form.
_LARGEST_WITHOUT = 100
CONVECTION, COMPLEX_SHIFT = 20.0, 60.0 + 40.0j
COLUMNS = dict.fromkeys(
    (*("n", "method", "all", "plain", "arpack", "ratio"), *("residual", "arpack_residual", "error", "time"))
)


def pair(cells: int) -> tuple[Any, Any]:
    """Return K with the convection, and M."""
    stiffness, mass = finite_elements.cube(cells, 2)
    n, h = cells - 1, 1 / cells
    along = scipy.sparse.diags([-0.5, 0.5], [-1, 1], (n, n)) * h
    return (stiffness + CONVECTION * scipy.sparse.kron(along, scipy.sparse.identity(n))).tocsr(), mass


def shifted(a: Any, b: Any, sigma: Any, repeats: int) -> dict[str, Any]:
    """Compare the pairs nearest to a shift, with a factorization."""
    first, second, inverse = as_operator(a), as_operator(b), shift_inverse(a, sigma, b)
    solve = lambda verify: eigs(first, K, b=second, sigma=sigma, inverse=inverse, tol=TOL, verify=verify)
    factors = scipy.sparse.linalg.splu((a - sigma * b).tocsc())
    dtype = complex if np.iscomplexobj(sigma) else float
    counted = CountedOperator(a.shape, lambda v: factors.solve(v.astype(dtype)), dtype=dtype)
    arpack = lambda: scipy.sparse.linalg.eigs(a, K, b, sigma=sigma, OPinv=counted, tol=TOL)
    return compared(a, b, solve, lambda result: result.num_solves, arpack, counted, repeats)


def largest(a: Any, b: Any, repeats: int) -> dict[str, Any]:
    """Compare the largest eigenvalues."""
    first, second = as_operator(a), as_operator(b)
    solve = lambda verify: eigs(first, K, b=second, tol=TOL, verify=verify)
    counted, factors = CountedOperator(a.shape, a.dot), scipy.sparse.linalg.splu(b.tocsc())
    inverse = scipy.sparse.linalg.LinearOperator(b.shape, matvec=factors.solve, dtype=float)
    options = {"Minv": inverse, "tol": TOL, "ncv": 2 * K + 10, "maxiter": 10_000}
    arpack = lambda: scipy.sparse.linalg.eigs(counted, K, b, **options)
    return compared(a, b, solve, lambda result: result.num_matvecs, arpack, counted, repeats)


def smallest(a: Any, b: Any, repeats: int) -> dict[str, Any]:
    """Compare the smallest eigenvalues of M^-1 K, from matvecs alone."""
    factors = scipy.sparse.linalg.splu(b.tocsc())
    matrix = scipy.sparse.csr_matrix(factors.solve(a.toarray()))
    op, dim = as_operator(matrix.toarray()), 4 * K + 20
    solve = lambda verify: eigs(op, K, which="SM", tol=TOL, krylov_dim=dim, verify=verify, max_matvecs=100_000)
    counted = CountedOperator(a.shape, matrix.dot)
    arpack = lambda: scipy.sparse.linalg.eigs(counted, K, which="SM", tol=TOL, ncv=dim, maxiter=100_000)
    identity = scipy.sparse.identity(len(matrix.indptr) - 1)
    return compared(matrix, identity, solve, lambda result: result.num_matvecs, arpack, counted, repeats)


def compared(a: Any, b: Any, solve: Any, products: Any, arpack: Any, counted: CountedOperator, repeats: int) -> dict:
    """Return products, residuals and times of both."""
    before = counted.products
    values, vectors = arpack()
    theirs = counted.products - before
    result, plain = solve(True), solve(False)
    times = timing.interleaved({"eigs": lambda: solve(False), "arpack": arpack}, repeats)
    found = np.asarray(result.eigenvalues)
    # The last one may be another of a conjugate pair.
    errors = np.abs(found[:, None] - np.concatenate([values, values.conj()])[None, :]).min(axis=1) / np.abs(found)
    return {
        "all": int(products(result)),
        "plain": int(products(plain)),
        "arpack": theirs,
        "ratio": int(products(plain)) / theirs,
        "residual": residual(a, b, plain.eigenvalues, np.asarray(plain.eigenvectors).T),
        "arpack_residual": residual(a, b, values, vectors),
        "error": float(np.max(errors)),
        "time": timing.ratio(times["eigs"], times["arpack"]),
    }


def residual(a: Any, b: Any, values: Any, vectors: np.ndarray) -> float:
    """Compute the largest relative residual."""
    defects = a @ vectors - (b @ vectors) * np.asarray(values)[None, :]
    scale = scipy.sparse.linalg.norm(a, 1) * np.linalg.norm(vectors, axis=0)
    return float(np.max(np.linalg.norm(defects, axis=0) / scale))


def rows(cells: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    """Compare the solvers on each mesh."""
    for number in cells:
        a, b = pair(number)
        runs = {"real": lambda a=a, b=b: shifted(a, b, 0.0, repeats)}
        runs["complex"] = lambda a=a, b=b: shifted(a, b, COMPLEX_SHIFT, repeats)
        if a.shape[0] <= _LARGEST_WITHOUT:
            runs |= {"largest": lambda a=a, b=b: largest(a, b, repeats)}
            runs |= {"smallest": lambda a=a, b=b: smallest(a, b, repeats)}
        for method, run in runs.items():
            yield COLUMNS | {"n": a.shape[0], "method": method} | run()


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the solvers and record it."""
    args = timing.arguments(__doc__, 3, argv)
    with jax.enable_x64(True):
        timing.record("eigs_shifts", [*rows(QUICK if args.quick else CELLS, args.repeats)], args)


if __name__ == "__main__":
    main()
