"""Claim: `eigsh` needs no more matvecs than PRIMME at an equal basis size, for the same true residuals.

The problems, tolerances, basis sizes and checks of `eigsh_products`. PRIMME uses GD+k, its method for expensive
matvecs, from the same start vector. Both stop at tol times the largest Ritz value found so far. PRIMME does not compute
both ends ("BE"). The package, `pip install primme`, is compiled; without it only the matvecs of `eigsh` are listed.

    python -m benchmarks.eigen.eigsh_primme
"""

import importlib
import importlib.util
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse.linalg

from benchmarks.eigen.eigsh_products import (
    PAIRS,
    STARTS,
    TOLERANCES,
    Run,
    basis_size,
    checked_run,
    padded_alike,
    run_eigsh,
    summary,
)
from benchmarks.support import timing
from benchmarks.support.spectra import Spectrum, problems

METHOD = "PRIMME_DEFAULT_MIN_MATVECS"


def run_primme(problem: Spectrum, k: int, tol: float, ncv: int, start: np.ndarray) -> Run:
    """Solve once with PRIMME, and count its matvecs."""
    primme = importlib.import_module("primme")
    products, n = 0, len(start)

    def multiply(block):
        nonlocal products
        block = block.reshape(n, -1)
        products += block.shape[1]
        return problem.matrix @ block

    operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=multiply, matmat=multiply, dtype=np.float64)
    try:
        values, vectors = primme.eigsh(
            operator, k, which=problem.which, ncv=ncv, tol=tol, v0=start[:, None].copy(), method=METHOD
        )
    except primme.PrimmeError:
        return Run(products, np.inf, False)
    return checked_run(problem, values, vectors.T, products, tol)


def compare(problem: Spectrum, matrix: Any, pairs: Sequence[int], tolerances: Sequence[float], starts: int) -> list:
    """Return one row for every k and tol; `matrix` is the problem's matrix, padded."""
    n, is_there = problem.matrix.shape[0], importlib.util.find_spec("primme") is not None
    vectors = [np.random.default_rng(100 + i).normal(size=n) for i in range(starts)]
    rows = []
    for k in pairs:
        m = basis_size(k)
        for tol in tolerances:
            ours = [run_eigsh(problem, matrix, k, tol, m, start) for start in vectors]
            theirs = [run_primme(problem, k, tol, m, start) for start in vectors] if is_there else []
            products = statistics.median(run.products for run in ours)
            primme = statistics.median(run.products for run in theirs) if theirs else None
            rows.append(
                {
                    "problem": f"{problem.name}, {problem.which}, n={n}",
                    "k": k,
                    "tol": tol,
                    "basis": m,
                    "eigsh": products,
                    "primme": primme,
                    "ratio": products / primme if primme else None,
                    "eigsh_residual": max(run.residual for run in ours) / tol,
                    "primme_residual": max(run.residual for run in theirs) / tol if theirs else None,
                    "eigsh_right": sum(run.right for run in ours),
                    "primme_right": sum(run.right for run in theirs),
                    "starts": starts,
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them; --repeats is the number of start vectors."""
    args = timing.arguments(__doc__, STARTS, argv)
    pairs, tolerances = ((1, 5), (1e-6,)) if args.quick else (PAIRS, TOLERANCES)
    rows = []
    with jax.enable_x64(True):
        for problem, matrix in padded_alike(one for one in problems(args.quick) if one.which != "BE"):
            found = compare(problem, matrix, pairs, tolerances, args.repeats)
            print(timing.table(found), flush=True)
            rows += found
    timing.record("eigsh_primme", rows, args)
    compared = [row for row in rows if row["ratio"]]
    print(f"eigsh over PRIMME, {summary(compared, 'ratio')}" if compared else "not installed: primme")


if __name__ == "__main__":
    main()
