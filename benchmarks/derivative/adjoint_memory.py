"""Claim: the reverse pass of k eigenvectors holds at most 3 k + 8 vectors beside the stored ones, if vectors are large.

Temporary memory of the backward pass alone, beside its arguments and results, in vectors, for a diagonal operator in
float32. Large means that k vectors need more than 32 MiB. With smaller vectors all linear systems are solved side by
side, in fewer steps.

    python -m benchmarks.derivative.adjoint_memory
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmarks.support import timing
from eigenjax import eigsh

SIZES = (10**5, 10**7)
PAIRS = (5, 10, 20)


def temporary_vectors(n: int, k: int, which: str) -> float:
    """Measure the temporary memory of the compiled backward pass, in vectors.

    Its arguments are the values stored by the forward pass and the cotangents of the eigenvectors.
    """
    options = {"krylov_dim": k + 20, "which": which, "verify": False}
    solve = lambda diagonal: eigsh(lambda v: diagonal * v, k, v0=diagonal, **options).eigenvectors
    diagonal, cotangents = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n,), (k, n)))
    backward = jax.eval_shape(lambda diagonal: jax.vjp(solve, diagonal)[1], diagonal)
    compiled = jax.jit(lambda backward, cotangents: backward(cotangents)).lower(backward, cotangents).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * n)


def main(argv: Sequence[str] | None = None) -> None:
    """Compile the programs and record their memory."""
    args = timing.arguments(__doc__, 1, argv)
    rows = [
        {"n": n, "k": k, "which": which, "promised": 3.0 * k + 8, "temporary_vectors": temporary_vectors(n, k, which)}
        for n in (SIZES[:1] if args.quick else SIZES)
        for k in (PAIRS[:1] if args.quick else PAIRS)
        for which in ("LA", "LM")
    ]
    timing.record("adjoint_memory", rows, args)


if __name__ == "__main__":
    main()
