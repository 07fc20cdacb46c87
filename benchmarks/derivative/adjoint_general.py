"""Claim: the linear systems of the reverse pass of `eigs` converge wherever the eigenpairs are well conditioned.

`adjoint` counts the matvecs with A^H of the systems for all k cotangents, `forward` those of the forward solve; the
matrices are real, and a complex vector takes two. The cotangents are random, or those of the loss sum w |v|^2 with one
w for all pairs, which are conjugate for conjugate pairs. The tolerance is the solver's default: the accuracy of the
pairs. `converged` counts the systems solved to their target by the recomputed residual, `condition` is the largest
condition 1 / |u^H v| of the wanted eigenvalues, from a dense decomposition.

The matrices: convection-diffusion on two grids; Grcar, of size 100; a random dense one; the Brusselator wave model in
one dimension (Bai, Day, Demmel and Dongarra 1997). Small ones would be decomposed by default; here all use the Krylov
method.

    python -m benchmarks.derivative.adjoint_general
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
from jax.experimental import sparse

from benchmarks.eigen.eigs_products import convection_diffusion, grcar, keys
from benchmarks.support import timing
from eigenjax import adjoint_info, eigs

PAIRS, TOL = 6, 1e-6


def problems(quick: bool) -> Iterator[tuple[str, Any, str]]:
    """Yield name, matrix and `which` of each problem."""
    sides = (6,) if quick else (30, 60)
    for side in sides:
        yield f"convection-diffusion {side} x {side}", convection_diffusion(side, 0.4), "LR"
    if not quick:
        yield "convection-diffusion 30 x 30", convection_diffusion(30, 0.4), "SR"
        yield "Grcar", grcar(100), "LM"
        yield "random dense", scipy.sparse.csr_array(np.random.default_rng(0).normal(size=(300, 300))), "LM"
        yield "Brusselator", brusselator(400), "LR"


def brusselator(nodes: int) -> Any:
    """Create the Jacobian of the Brusselator wave model at its equilibrium, at the onset of oscillations."""
    a, b, first, second, length = 2.0, 5.45, 0.008, 0.004, 0.51302
    ones = np.ones(nodes)
    laplacian = scipy.sparse.diags_array([ones[1:], -2 * ones, ones[1:]], offsets=[-1, 0, 1])
    laplacian = laplacian * ((nodes + 1) / length) ** 2
    identity = scipy.sparse.eye_array(nodes)
    upper = [first * laplacian + (b - 1) * identity, a * a * identity]
    return scipy.sparse.block_array([upper, [-b * identity, second * laplacian - a * a * identity]])


@functools.partial(jax.jit, static_argnames="which")
def solve(matrix: Any, cotangents: jax.Array, weights: jax.Array, which: str) -> dict[str, Any]:
    """Run the forward solve, and solve the systems of both losses."""
    result = eigs(matrix, PAIRS, which=which, tol=TOL, verify=False, dense=False)
    loss = lambda v: jnp.sum(weights * jnp.abs(v) ** 2)
    given = {"random": cotangents, "sum w |v|^2": jax.grad(loss)(result.eigenvectors)}
    return {"result": result, "losses": {name: adjoint_info(matrix, result, bars) for name, bars in given.items()}}


def measure(name: str, matrix: Any, which: str) -> list[dict[str, Any]]:
    """Return one row for each loss."""
    rng, n = np.random.default_rng(0), matrix.shape[0]
    cotangents = jnp.asarray(rng.normal(size=(PAIRS, n)) + 1j * rng.normal(size=(PAIRS, n)))
    sparse_matrix = sparse.BCOO.from_scipy_sparse(matrix.tocoo())
    done = jax.device_get(solve(sparse_matrix, cotangents, jnp.asarray(rng.normal(size=n)), which))
    forward, condition = int(done["result"].num_matvecs), largest_condition(matrix.toarray(), which)
    return [
        {
            "problem": name,
            "which": which,
            "n": n,
            "loss": loss,
            "forward": forward,
            "adjoint": int(info.num_matvecs),
            "ratio": int(info.num_matvecs) / forward,
            "converged": int(np.sum(info.converged)),
            "condition": condition,
        }
        for loss, info in done["losses"].items()
    ]


def largest_condition(matrix: np.ndarray, which: str) -> float:
    """Compute the largest condition of the wanted eigenvalues."""
    values, left, right = scipy.linalg.eig(matrix, left=True, right=True)
    wanted = np.argsort(keys(values, which), kind="stable")[:PAIRS]
    overlaps = np.abs(np.sum(left.conj() * right, axis=0))[wanted]
    return float(1 / max(overlaps.min(), np.finfo(float).tiny))


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them."""
    args = timing.arguments(__doc__, 1, argv)
    with jax.enable_x64(True):
        rows = [row for problem in problems(args.quick) for row in measure(*problem)]
    timing.record("adjoint_general", rows, args)


if __name__ == "__main__":
    main()
