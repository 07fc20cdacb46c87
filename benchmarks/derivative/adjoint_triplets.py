"""Claim: the reverse pass of k singular triplets costs about as much as the forward solve.

`adjoint` counts the matvecs with A and A^H of the linear systems for all k cotangents, drawn at random; `forward` those
of the forward solve. `steps` counts the reverse pass's steps, of k matvecs side by side; a forward step takes one
matvec. The tolerance is the solver's default: the accuracy of the triplets. `plain` is without the recycled Ritz
triplets of the forward solve. `error` compares all solutions with tight solves, relative to the error caused by the
errors of the triplets.

    python -m benchmarks.derivative.adjoint_triplets
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.singular import svds_products
from benchmarks.support import timing
from eigenjax.implicit.systems import dilation
from eigenjax.implicit.systems.triplets import SolvedTriplets
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.solvers.singular.svds import svds

PAIRS = 10
TOLERANCES = (1e-4, 1e-8)
# Tolerance of the reference solves.
_TIGHT = 1e-12


@functools.partial(jax.jit, static_argnames="tol")
def solve(matrix: Any, bars: Any, tol: float) -> dict[str, Any]:
    """Run the forward solve, and solve the systems with and without recycled triplets, and to a tight tolerance."""
    op = as_rectangular(matrix)
    result, recycled = svds(op, PAIRS, tol=tol)
    solved = SolvedTriplets(op, result.left, result.values, result.right, result.residuals, None, recycled)
    found, plain = (dilation.iterate(x, bars, None) for x in (solved, solved._replace(recycled=None)))
    exact = dilation.iterate(solved._replace(adjoint_tol=jnp.asarray(_TIGHT)), bars, None)
    return {"result": result, "found": found, "plain": plain, "exact": exact}


def measure(name: str, matrix: np.ndarray, tol: float) -> dict[str, Any]:
    """Return one row."""
    generator = np.random.default_rng(0)
    bars = tuple(jnp.asarray(generator.standard_normal((PAIRS, size))) for size in matrix.shape)
    done = jax.device_get(solve(jnp.asarray(matrix), bars, tol))
    result, steps = done["result"], done["found"].num_steps
    found, exact = (np.concatenate(done[way].vectors, axis=1) for way in ("found", "exact"))
    gaps = result.values - np.linalg.svd(matrix, compute_uv=False)[PAIRS]
    inherent = np.linalg.norm(np.minimum(1, result.residuals / gaps) * np.linalg.norm(exact, axis=1))
    forward = int(result.num_matvecs)
    return {
        "problem": name,
        "tol": tol,
        "forward": forward,
        "adjoint": 2 * int(steps.sum()),
        "steps": 2 * int(steps.max()),
        "plain": 2 * int(done["plain"].num_steps.sum()),
        "ratio": 2 * int(steps.sum()) / forward,
        "step_ratio": 2 * int(steps.max()) / forward,
        "error": float(np.linalg.norm(found - exact) / inherent),
        "converged": bool(result.converged.all()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them."""
    args = timing.arguments(__doc__, 1, argv)
    dense = lambda matrix: matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    with jax.enable_x64(True):
        problems = list(svds_products.problems(args.quick))
        rows = [
            measure(p.name, dense(p.matrix), tol)
            for p in (problems[:1] if args.quick else problems)
            for tol in TOLERANCES
        ]
    timing.record("adjoint_triplets", rows, args)


if __name__ == "__main__":
    main()
