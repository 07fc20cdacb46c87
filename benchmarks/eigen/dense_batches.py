"""Claim: value and gradient of dense `eigh` and `eig` cost no more than JAX's own, whose gradients are not finite.

Batches of small random matrices, float32, under jit: 4096 of 16 x 16, 1024 of 32 x 32. The loss uses eigenvalues and
eigenvectors; JAX's `eig` gets `enable_eigvec_derivs`. `agree` is the largest difference of the two gradients over the
largest entry, for distinct eigenvalues; the median over the matrices. `finite` counts the finite gradients of matrices
with repeated eigenvalues.

    python -m benchmarks.eigen.dense_batches
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eigenjax
from benchmarks.support import timing

BATCHES = ((4096, 16), (1024, 32))
QUICK_BATCHES = ((8, 4),)

Function = Callable[[jax.Array], Sequence[jax.Array]]
SOLVERS: dict[str, tuple[Function, Function]] = {
    "eigh": (eigenjax.eigh, jnp.linalg.eigh),
    "eig": (
        eigenjax.eig,
        lambda a: jax.lax.linalg.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True),
    ),
}


def value_and_gradient(solve: Function) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Build value and gradient of a loss that is independent of the eigenvectors' signs and phases."""

    def loss(matrices: jax.Array) -> jax.Array:
        values, vectors = solve(matrices)
        weights = jnp.cos(jnp.arange(matrices.shape[-1] ** 2, dtype=matrices.dtype)).reshape(matrices.shape[-2:])
        squares = jnp.real(vectors) ** 2 + jnp.imag(vectors) ** 2
        return jnp.sum(weights * squares) + jnp.sum(jnp.real(jnp.sin(values)))

    return jax.jit(jax.value_and_grad(loss))


def repeated(count: int, size: int, rng: np.random.Generator) -> jax.Array:
    """Draw symmetric matrices whose only eigenvalues are 1 and 2, in random bases."""
    rotations, _ = np.linalg.qr(rng.normal(size=(count, size, size)))
    values = rng.choice([1.0, 2.0], size=(count, 1, size))
    return jnp.asarray((rotations * values) @ rotations.transpose(0, 2, 1), jnp.float32)


def compare(name: str, count: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """Return one row for each of the two functions."""
    rng = np.random.default_rng(0)
    matrices, degenerate = jnp.asarray(rng.normal(size=(count, size, size)), jnp.float32), repeated(count, size, rng)
    ours, theirs = map(value_and_gradient, SOLVERS[name])
    programs = {"eigenjax": ours, "jax": theirs}
    gradients = {key: np.asarray(program(matrices)[1]) for key, program in programs.items()}
    scale = np.max(np.abs(gradients["jax"]), axis=(1, 2))
    differences = np.max(np.abs(gradients["eigenjax"] - gradients["jax"]), axis=(1, 2)) / scale
    calls = {key: lambda program=program: program(matrices) for key, program in programs.items()}
    timings = timing.interleaved(calls, repeats)
    return [
        {
            "function": name,
            "batch": f"{count} x {size} x {size}",
            "program": key,
            "median_s": timings[key].median,
            "ratio": timing.ratio(timings[key], timings["jax"]),
            "agree": float(np.median(differences)),
            "finite": int(np.sum(np.all(np.isfinite(program(degenerate)[1]), axis=(1, 2)))),
        }
        for key, program in programs.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Time both functions on each batch and record the table."""
    args = timing.arguments(__doc__, 15, argv)
    batches = QUICK_BATCHES if args.quick else BATCHES
    rows = [row for name in SOLVERS for count, size in batches for row in compare(name, count, size, args.repeats)]
    timing.record("dense_batches", rows, args)


if __name__ == "__main__":
    main()
