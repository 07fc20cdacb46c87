"""Claim: the matvecs spent give true residuals, compared with ARPACK at an equal basis size, on four kinds of spectrum.

ARPACK is `scipy.sparse.linalg.eigsh` around a jitted matvec, restarted until it converges. `lanczos` is one Krylov
space of the same size without restarts. It cannot converge if the wanted eigenvalues are close (the Laplacian); its
`converged` reports this and must agree with `found`. Power iteration may spend 100 matvecs per pair. All compute the
largest magnitudes in float32 to residuals of 1e-4 ||A||. Residuals are recomputed from the vectors returned.

    python -m benchmarks.eigen.products
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from benchmarks.support import timing
from benchmarks.support.counted_operator import CountedOperator
from eigenjax import LinearOperator, as_operator, deflated_power_iteration, hessian, lanczos
from eigenjax.report.inputs.digits import digits_problem

TOL = 1e-4


class Pairs(NamedTuple):
    """Pairs of flat vectors returned by an algorithm, and the number that it reports as converged."""

    values: np.ndarray  # (k,)
    vectors: np.ndarray  # (k, n)
    products: int
    claimed: int  # number of pairs reported as converged


def outliers(n: int) -> LinearOperator:
    """Create ten eigenvalues from 10 to 100 over a bulk in (-0.1, 1), a model of a network's Hessian."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    eigenvalues = np.concatenate([np.linspace(10, 100, 10), rng.uniform(-0.1, 1, n - 10)])
    matrix = (basis * eigenvalues) @ basis.T
    return as_operator(jnp.asarray((matrix + matrix.T) / 2, jnp.float32))


def wishart(n: int) -> LinearOperator:
    """Create X X^T / n of an n x n matrix of normal numbers: no outliers, an edge at 4."""
    sample = np.random.default_rng(1).normal(size=(n, n))
    return as_operator(jnp.asarray(sample @ sample.T / n, jnp.float32))


def laplacian(width: int, height: int) -> LinearOperator:
    """Create the five-point Laplacian of a grid with zero boundary and unequal sides: no eigenvalue is double."""
    second_difference = lambda n: 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    matrix = np.kron(second_difference(width), np.eye(height)) + np.kron(np.eye(width), second_difference(height))
    return as_operator(jnp.asarray(matrix, jnp.float32))


def digits(steps: int, examples: int) -> LinearOperator:
    """Create the Hessian of a network trained on digits, over some of them."""
    problem = digits_problem(jax.random.key(0), num_steps=steps)
    return hessian(problem.loss, problem.params, jax.tree.map(lambda x: x[:examples], problem.data))


@jax.jit
def product(op: LinearOperator, flat: jax.Array) -> jax.Array:
    """Compute a matvec on flat vectors, for packages without pytrees."""
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), op.structure))
    return ravel_pytree(op(unravel(flat)))[0]


def arpack(op: LinearOperator, k: int, basis_size: int) -> Pairs:
    """Run SciPy's ARPACK around the same jitted matvec, and count matvecs."""
    multiply = lambda v: np.asarray(product(op, jnp.asarray(v)))
    linear = CountedOperator((op.size, op.size), multiply, dtype=np.float32)
    start = np.random.default_rng(2).normal(size=op.size).astype(np.float32)
    try:
        values, vectors = scipy.sparse.linalg.eigsh(linear, k, ncv=basis_size, tol=TOL, v0=start, maxiter=200)
    except scipy.sparse.linalg.ArpackNoConvergence as partial:
        values, vectors = partial.eigenvalues, partial.eigenvectors
    return Pairs(values, vectors.T, linear.products, len(values))


def flat_pairs(result: Any) -> Pairs:
    """Flatten the eigenvectors of an EigenResult."""
    vectors = jax.vmap(lambda v: ravel_pytree(v)[0])(result.eigenvectors)
    return Pairs(
        np.asarray(result.eigenvalues), np.asarray(vectors), int(result.num_matvecs), int(result.converged.sum())
    )


def solvers(op: LinearOperator, k: int) -> dict[str, Callable[[], Pairs]]:
    """Return the four solvers, with the default basis size of both SciPy and eigenjax."""
    basis_size = min(op.size, max(2 * k + 1, 20))
    power = functools.partial(deflated_power_iteration, op, k, max_iter=100, tol=TOL)
    return {
        f"ARPACK, ncv={basis_size}": lambda: arpack(op, k, basis_size),
        f"lanczos, krylov_dim={basis_size}": lambda: flat_pairs(lanczos(op, k, krylov_dim=basis_size, tol=TOL)),
        "power iteration": lambda: flat_pairs(power(momentum=0.0)),
        "power iteration, momentum=0.9": lambda: flat_pairs(power(momentum=0.9)),
    }


def compare(name: str, op: LinearOperator, k: int, repeats: int) -> list[dict[str, Any]]:
    """Return one row for each algorithm on one problem."""
    programs = solvers(op, k)
    timings = timing.interleaved(programs, repeats)
    found = {algorithm: program() for algorithm, program in programs.items()}
    # Ritz values are at most ||A||: the largest of all algorithms approximates it with sufficient accuracy.
    norm = max(float(np.abs(pairs.values).max(initial=0.0)) for pairs in found.values())
    rows = []
    for algorithm, pairs in found.items():
        residuals = residual_norms(op, pairs) / norm
        rows.append(
            {
                "problem": f"{name}, n={op.size}, k={k}",
                "algorithm": algorithm,
                "products": pairs.products,
                "worst_residual": float(residuals.max(initial=0.0)),
                "found": int(np.sum(residuals <= TOL)),
                "converged": f"{pairs.claimed} of {k}",
                "seconds": timings[algorithm].median,
            }
        )
    return rows


def residual_norms(op: LinearOperator, pairs: Pairs) -> np.ndarray:
    """Compute ||A v - lambda v|| of every pair, with one matvec each."""
    images = np.asarray([product(op, jnp.asarray(v)) for v in pairs.vectors]).reshape(pairs.vectors.shape)
    return np.linalg.norm(images - pairs.values[:, None] * pairs.vectors, axis=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and residuals and record them."""
    args = timing.arguments(__doc__, 3, argv)
    problems = {
        "10 outliers": outliers(60 if args.quick else 1000),
        "grid Laplacian": laplacian(10, 6) if args.quick else laplacian(40, 25),
        "Wishart": wishart(60 if args.quick else 1000),
        "digits Hessian": digits(*((2, 32) if args.quick else (40, 512))),
    }
    counts = (1,) if args.quick else (1, 5, 10)
    rows = [row for name, op in problems.items() for k in counts for row in compare(name, op, k, args.repeats)]
    timing.record("products", rows, args)
    print("found: pairs whose recomputed residual is at most 1e-4 ||A||; converged: what the algorithm says of itself.")
    print("lanczos is not restarted: where found falls short of k, a larger krylov_dim is what it needs.")


if __name__ == "__main__":
    main()
