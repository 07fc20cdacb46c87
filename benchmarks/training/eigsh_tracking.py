"""Claim: a warm start solves a slightly changed operator with a fraction of the matvecs of a cold start.

A matrix drifts through 100 small steps. `eigsh` starts each time from the result of the previous step (`warm`), and
from a random vector (`cold`), to the same tolerance; both are compared with the dense eigenvalues. At least k + 1
matvecs are needed. The matrices are a model of a network's Hessian (ten outliers, k = 10) and a 2-D Laplacian with a
drifting potential (k = 6). The drifts per step, relative to ||A||, range from far below to far above the tolerance.

    python -m benchmarks.training.eigsh_tracking
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from benchmarks.support.spectra import grid_laplacian, outliers
from eigenjax import EigenResult, eigsh

TOL = 1e-6
DRIFTS = (1e-8, 1e-6, 1e-4, 1e-3)


class Drifting(NamedTuple):
    """Matrix and its change per step."""

    name: str
    which: str
    k: int
    matrix: np.ndarray  # (n, n)
    change: Callable[[np.random.Generator], np.ndarray]  # a symmetric matrix of norm about one


def drifting(quick: bool) -> Iterator[Drifting]:
    """Yield both problems."""
    n = 100 if quick else 500

    def rotation(generator: np.random.Generator) -> np.ndarray:
        sample = generator.normal(size=(n, n))
        return (sample + sample.T) / (8 * n) ** 0.5

    yield Drifting("ten outliers", "LA", 3 if quick else 10, np.diag(outliers(n)), rotation)
    sides = (9, 11) if quick else (24, 29)
    laplacian = grid_laplacian(sides)[0].toarray()
    potential = lambda generator: np.diag(generator.uniform(-1, 1, len(laplacian)))
    yield Drifting("Laplacian 2-D and potential", "SA", 3 if quick else 6, laplacian, potential)


def follow(problem: Drifting, drift: float, steps: int) -> dict[str, float]:
    """Count the matvecs of warm and cold starts over all steps, and the worst error of an eigenvalue."""
    generator, matrix = np.random.default_rng(0), problem.matrix.copy()
    norm = np.linalg.norm(matrix, 2)
    solve = jax.jit(functools.partial(eigsh, k=problem.k, which=problem.which, tol=TOL, verify=False))
    warm_result: EigenResult = solve(jnp.asarray(matrix))
    warm, cold, errors, unconverged = [], [], [], 0
    for _ in range(steps):
        matrix = matrix + drift * norm * problem.change(generator)
        warm_result, cold_result = solve(jnp.asarray(matrix), v0=warm_result), solve(jnp.asarray(matrix))
        warm.append(int(warm_result.num_matvecs))
        cold.append(int(cold_result.num_matvecs))
        truth = np.linalg.eigvalsh(matrix)
        truth = truth[::-1] if problem.which == "LA" else truth
        errors.append(np.abs(np.asarray(warm_result.eigenvalues) - truth[: problem.k]).max() / norm)
        unconverged += int(np.sum(~np.asarray(warm_result.converged)))
    return {
        "warm": float(np.mean(warm)),
        "cold": float(np.mean(cold)),
        "ratio": float(np.sum(warm) / np.sum(cold)),
        "worst_error": float(np.max(errors)),
        "unconverged": unconverged,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them."""
    args = timing.arguments(__doc__, 1, argv)
    steps = 3 if args.quick else 100
    rows = []
    with jax.enable_x64(True):
        for problem in drifting(args.quick):
            for drift in DRIFTS[:1] if args.quick else DRIFTS:
                found = follow(problem, drift, steps)
                rows.append({"problem": problem.name, "k": problem.k, "drift": drift, "steps": steps, **found})
    timing.record("eigsh_tracking", rows, args)


if __name__ == "__main__":
    main()
