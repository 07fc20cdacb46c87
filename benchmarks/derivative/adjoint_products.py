"""Claim: the reverse pass of k eigenvectors costs about as much as the forward solve, in a quarter of its steps.

`adjoint` counts the matvecs of the linear systems for all k cotangents, without those of systems that have already
converged; `forward` those of the forward solve. `steps` counts the reverse pass's steps, of k matvecs side by side; a
forward step takes one matvec. The tolerance is the solver's default: the accuracy of the pairs. The cotangents are
random, or those of the smooth loss sum v^4. `plain` is without the recycled Ritz pairs of the forward solve
(`implicit.systems.deflation`). `error` compares the sum of the solutions z_i x_i^H with tight solves, relative to the
error caused by the errors of the pairs.

    python -m benchmarks.derivative.adjoint_products
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from benchmarks.support import spectra, timing
from eigenjax import as_operator
from eigenjax.implicit.systems import complement
from eigenjax.implicit.systems.pairs import Pairs, pairs_of
from eigenjax.solvers.symmetric.eigsh import eigsh

PAIRS = 10
TOLERANCES = (1e-4, 1e-8)
# Tolerance of the reference solves.
_TIGHT = 1e-11


def problems(quick: bool) -> Iterator[tuple[str, Any, str]]:
    """Yield name, matrix and `which` of each problem."""
    laplacian, _ = spectra.grid_laplacian((8, 9) if quick else (60, 70))
    laplacian = sparse.BCOO.from_scipy_sparse(laplacian.tocoo())
    yield "2-D Laplacian", laplacian, "SA"
    yield "2-D Laplacian", laplacian, "LM"
    yield "ten outliers", jnp.asarray(spectra.diagonal(spectra.outliers(100 if quick else 2000))[0].toarray()), "LA"
    if not quick:
        yield "digits network", jnp.asarray(spectra.digits_hessian(False)), "LA"


@functools.partial(jax.jit, static_argnames=("which", "tol"))
def solve(matrix: Any, noise: jax.Array, which: str, tol: float) -> dict[str, Any]:
    """Run the forward solve, and solve the systems of both losses with and without recycled Ritz pairs."""
    op = as_operator(matrix)
    result, recycled = eigsh(op, PAIRS, which=which, tol=tol, verify=False)
    pairs = pairs_of(op, result, which)
    rows = {}
    for loss, rhs in (("random", noise), ("sum v^4", 4 * result.eigenvectors**3)):
        go = functools.partial(complement.iterate, pairs, rhs, max_iter=None, definite=which in complement.OUTERMOST)
        plain, found = go(recycled=None, adjoint_tol=None), go(recycled=recycled, adjoint_tol=None)
        exact = go(recycled=recycled, adjoint_tol=_TIGHT)
        rows[loss] = {
            "adjoint": jnp.sum(found.num_matvecs),
            "steps": jnp.max(found.num_matvecs),
            "plain": jnp.sum(plain.num_matvecs),
            "error": jnp.linalg.norm(found.solution - exact.solution) / inherent(pairs, exact.solution),
        }
    return {"forward": result.num_matvecs, "converged": jnp.all(result.converged), "losses": rows}


def inherent(pairs: Pairs, solutions: jax.Array) -> jax.Array:
    """Estimate the error of sum_i z_i x_i^H caused by the pairs' errors, each its residual over the gap."""
    assert pairs.gaps is not None
    shares = jnp.minimum(1, pairs.residuals / pairs.gaps)
    return jnp.linalg.norm(shares * jnp.linalg.norm(solutions, axis=1))


def measure(name: str, matrix: Any, which: str, tol: float) -> list[dict[str, Any]]:
    """Return one row for each loss."""
    noise = np.random.default_rng(0).standard_normal((PAIRS, matrix.shape[0]))
    found = jax.device_get(solve(matrix, jnp.asarray(noise), which, tol))
    forward = int(found["forward"])
    return [
        {
            "problem": name,
            "which": which,
            "tol": tol,
            "loss": loss,
            "forward": forward,
            **{name: int(row[name]) for name in ("adjoint", "steps", "plain")},
            "ratio": int(row["adjoint"]) / forward,
            "step_ratio": int(row["steps"]) / forward,
            "error": float(row["error"]),
            "converged": bool(found["converged"]),
        }
        for loss, row in found["losses"].items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them."""
    args = timing.arguments(__doc__, 1, argv)
    with jax.enable_x64(True):
        rows = [
            row
            for name, matrix, which in problems(args.quick)
            for tol in TOLERANCES
            for row in measure(name, matrix, which, tol)
        ]
    timing.record("adjoint_products", rows, args)


if __name__ == "__main__":
    main()
