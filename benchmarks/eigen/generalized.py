"""Claim: without a search, generalized problems take at most ARPACK's matvecs, or solves with a factorization.

The lowest ten modes of linear finite elements on a cube in one to three dimensions, K x = lambda M x, in float64.
`inverse`: shift-invert at 0 with `shift_inverse` (ARPACK: mode 3 with `splu`); `matvecs`: with K, while systems with M
are solved by conjugate gradients (ARPACK: mode 2 with `splu` of M); `preconditioned`: LOBPCG with the factors of K,
beside SciPy's. `all` are the products until all copies of multiple eigenvalues are certain, `plain` those with
verify=False, as ARPACK makes them. `residual` is the largest ||K x - lambda M x|| over ||K|| ||x||, recomputed. `time`
is that of a later call, with the search, relative to the other. `inside` is shift-invert in the middle of the spectrum
of K; `without` is the number of matvecs of `eigsh(sigma=)` there with no inverse, and `time_without` the time of that
call relative to the one with an inverse. The last row has ten modes of an L-shaped membrane, extrapolated from five
meshes of up to 195,585 points: `error_first` is relative to 9.6397238440219, and `error_modes` is the largest relative
to the ten values of Betcke and Trefethen (2005) and Trefethen and Betcke (2006).

    python -m benchmarks.eigen.generalized [--quick]
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse.linalg

from benchmarks.support import finite_elements, timing
from benchmarks.support.counted_operator import CountedOperator
from benchmarks.support.finite_elements import Elements
from eigenjax import as_operator, eigsh, shift_inverse

K, TOL = 10, 1e-8
# Numbers of cells along an axis, by dimension: n = 1,000 to 100,000.
CUBES = ((1, 1000), (2, 32), (3, 11), (2, 100), (3, 22), (2, 317))
QUICK = ((1, 100), (2, 10))
# Beyond this, problems without a factorization take minutes, and interior ones from a tenth of it on.
_LARGEST_WITHOUT = 1_200
MESHES = (16, 32, 64, 128, 256)
QUICK_MESHES = (4, 8, 16)
# Powers of the mesh width in the error of a mode, those of the reentrant corner among them.
POWERS = (4 / 3, 2.0, 8 / 3, 10 / 3)
MODES = np.array(
    [
        *(9.6397238440219, 15.1972519265, 2 * np.pi**2, 29.5214811142, 31.9126359371),
        *(41.4745098903, 44.9484877848, 5 * np.pi**2, 5 * np.pi**2, 56.7096098988),
    ]
)
_PRODUCTS = ("all", "plain", "arpack")
_RESIDUALS = ("residual", "plain_residual", "arpack_residual")
COLUMNS = dict.fromkeys(
    (
        "dimension",
        "n",
        "method",
        *_PRODUCTS,
        *_RESIDUALS,
        "time",
        "without",
        "time_without",
        "converged",
        "error_first",
        "error_modes",
    )
)


def cubes(sizes: Sequence[tuple[int, int]], repeats: int) -> Iterator[dict[str, Any]]:
    """Compare the solvers on each cube."""
    for dimension, cells in sizes:
        elements = finite_elements.cube(cells, dimension)
        n = elements.stiffness.shape[0]
        for method, run in METHODS.items():
            if method == "inverse" or n <= _LARGEST_WITHOUT:
                yield COLUMNS | {"dimension": dimension, "n": n, "method": method} | run(elements, repeats)


def with_inverse(elements: Elements, repeats: int) -> dict[str, Any]:
    """Compare shift-invert at 0."""
    a, b = map(as_operator, elements)
    inverse = shift_inverse(elements.stiffness)
    solve = lambda verify=True: eigsh(a, K, b=b, sigma=0.0, inverse=inverse, tol=TOL, verify=verify)
    factors = scipy.sparse.linalg.splu(elements.stiffness.tocsc())
    counted = CountedOperator(elements.stiffness.shape, factors.solve)
    arpack = lambda: scipy.sparse.linalg.eigsh(elements.stiffness, K, elements.mass, sigma=0.0, OPinv=counted, tol=TOL)
    return compared(elements, solve, lambda result: result.num_solves, arpack, lambda: counted.products, repeats)


def inside(elements: Elements, repeats: int) -> dict[str, Any]:
    """Compare shift-invert inside the spectrum of K, and with no inverse."""
    n = elements.stiffness.shape[0]
    a, sigma = as_operator(elements.stiffness), 0.5 * float(elements.stiffness.diagonal().max())
    inverse = shift_inverse(elements.stiffness, sigma)
    solve = lambda verify=True: eigsh(a, K, sigma=sigma, inverse=inverse, tol=TOL, verify=verify)
    factors = scipy.sparse.linalg.splu((elements.stiffness - sigma * scipy.sparse.identity(n)).tocsc())
    counted = CountedOperator((n, n), factors.solve)
    arpack = lambda: scipy.sparse.linalg.eigsh(elements.stiffness, K, sigma=sigma, OPinv=counted, tol=TOL)
    alone = elements._replace(mass=scipy.sparse.identity(n))
    found = compared(alone, solve, lambda result: result.num_solves, arpack, lambda: counted.products, repeats)
    without = lambda: eigsh(a, K, sigma=sigma, tol=TOL, max_matvecs=200_000)
    times = timing.interleaved({"with": solve, "without": without}, repeats)
    ratio = timing.ratio(times["without"], times["with"])
    return found | {"without": int(without().num_matvecs), "time_without": ratio}


def with_matvecs(elements: Elements, repeats: int) -> dict[str, Any]:
    """Compare solvers that multiply K."""
    a, b = map(as_operator, elements)
    solve = lambda verify=True: eigsh(a, K, b=b, which="SA", tol=TOL, verify=verify)
    counted = CountedOperator(elements.stiffness.shape, elements.stiffness.dot)
    mass = scipy.sparse.linalg.splu(elements.mass.tocsc())
    inverse = scipy.sparse.linalg.LinearOperator(elements.mass.shape, matvec=mass.solve, dtype=float)
    options = {"which": "SA", "Minv": inverse, "tol": TOL, "ncv": 2 * K + 10, "maxiter": 10_000}
    arpack = lambda: scipy.sparse.linalg.eigsh(counted, K, elements.mass, **options)
    return compared(elements, solve, lambda result: result.num_matvecs, arpack, lambda: counted.products, repeats)


def preconditioned(elements: Elements, repeats: int) -> dict[str, Any]:
    """Compare LOBPCG, with SciPy's in place of ARPACK."""
    a, b = map(as_operator, elements)
    inverse = shift_inverse(elements.stiffness)
    # LOBPCG makes no search.
    solve = lambda verify=True: eigsh(a, K, b=b, which="SA", preconditioner=inverse, tol=TOL, verify=verify)
    n = elements.stiffness.shape[0]
    counted = CountedOperator((n, n), elements.stiffness.dot)
    factors = scipy.sparse.linalg.splu(elements.stiffness.tocsc())
    start = np.random.default_rng(0).standard_normal((n, K + K // 3))
    scale = TOL * scipy.sparse.linalg.norm(elements.stiffness, 1)

    def lobpcg():
        multiply = lambda x: np.column_stack([counted.matvec(column) for column in x.T])
        options = {"B": elements.mass, "M": factors.solve, "largest": False, "tol": scale, "maxiter": 200}
        values, vectors = scipy.sparse.linalg.lobpcg(multiply, start, **options)
        return values[:K], vectors[:, :K]

    return compared(elements, solve, lambda result: result.num_matvecs, lobpcg, lambda: counted.products, repeats)


METHODS = {"inverse": with_inverse, "inside": inside, "matvecs": with_matvecs, "preconditioned": preconditioned}


def compared(
    elements: Elements, solve: Callable, products: Callable, other: Callable, counted: Callable, repeats: int
) -> dict[str, Any]:
    """Return products, residuals and times of both."""
    jax.block_until_ready(solve())
    before = counted()
    values, vectors = other()
    arpack = counted() - before
    times = timing.interleaved({"eigsh": solve, "arpack": other}, repeats)
    result, plain = solve(), solve(verify=False)
    return {
        "all": int(products(result)),
        "plain": int(products(plain)),
        "arpack": arpack,
        "residual": residual(elements, result.eigenvalues, np.asarray(result.eigenvectors).T),
        "plain_residual": residual(elements, plain.eigenvalues, np.asarray(plain.eigenvectors).T),
        "arpack_residual": residual(elements, values, vectors),
        "time": timing.ratio(times["eigsh"], times["arpack"]),
        "converged": bool(np.all(result.converged)),
    }


def residual(elements: Elements, values: Any, vectors: np.ndarray) -> float:
    """Compute the largest relative residual."""
    defects = elements.stiffness @ vectors - (elements.mass @ vectors) * np.asarray(values)[None, :]
    scale = scipy.sparse.linalg.norm(elements.stiffness, 1) * np.linalg.norm(vectors, axis=0)
    return float(np.max(np.linalg.norm(defects, axis=0) / scale))


def membrane(meshes: Sequence[int]) -> dict[str, Any]:
    """Extrapolate the modes of the L-shaped membrane."""
    values = []
    for cells in meshes:
        stiffness, mass = finite_elements.l_shape(cells)
        result = eigsh(stiffness, K, b=mass, inverse=shift_inverse(stiffness), tol=1e-12)
        values.append(np.sort(result.eigenvalues))
    errors = np.abs(extrapolated(np.array(values), POWERS) / MODES - 1)
    return {
        "method": "modes",
        "n": int(stiffness.shape[0]),
        "error_first": float(errors[0]),
        "error_modes": float(np.max(errors)),
    }


def extrapolated(values: np.ndarray, powers: Sequence[float]) -> np.ndarray:
    """Remove the powers of the mesh width from values on meshes of half the width each (Richardson)."""
    rows = list(values)
    for power in powers[: len(values) - 1]:
        rows = [(2**power * fine - coarse) / (2**power - 1) for coarse, fine in itertools.pairwise(rows)]
    return rows[-1]


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the solvers and record it."""
    args = timing.arguments(__doc__, 3, argv)
    with jax.enable_x64(True):
        rows = [*cubes(QUICK if args.quick else CUBES, args.repeats)]
        rows.append(COLUMNS | membrane(QUICK_MESHES if args.quick else MESHES))
    timing.record("generalized", rows, args)


if __name__ == "__main__":
    main()
