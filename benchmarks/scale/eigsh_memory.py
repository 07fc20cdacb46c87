"""Claim: `eigsh` holds as many vectors as its docstring says at any size, and fewer with the options that reduce them.

Temporary memory beside arguments and results, in vectors, next to the number that the docstring states. The operator is
diagonal of 10^7 dimensions in float32, k = 10, and all storages of the basis are compared. For the first cases also the
increase of the process's resident memory during the solve, as the operating system reports it.

    python -m benchmarks.scale.eigsh_memory
"""

import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from benchmarks.support import timing
from eigenjax import eigsh

K = 10
# (krylov_dim, basis, basis_dtype), and the documented number of vectors in terms of m = krylov_dim and k.
KINDS = (
    (30, "device", None, lambda m, k: m + max(k, m / 5) + 4),
    (30, "device", "bfloat16", lambda m, k: 0.9 * m + 2 * k + 5),
    (60, "device", "bfloat16", lambda m, k: 0.9 * m + 2 * k + 5),
    (30, "offload", None, lambda m, k: m + max(k, 2 * m / 5) + 6),
    (120, "recompute", None, lambda _, k: 2 * k + 6),
)


def program(krylov_dim: int, basis: str, basis_dtype: str | None) -> Callable:
    """Create a solve as a function of the diagonal."""
    options = {"krylov_dim": krylov_dim, "basis": basis} | ({} if basis_dtype is None else {"basis_dtype": basis_dtype})
    # Two restart cycles: the memory does not depend on their number.
    return jax.jit(
        lambda diagonal: eigsh(
            lambda v: diagonal * v, K, v0=diagonal, max_matvecs=2 * krylov_dim, verify=False, **options
        )
    )


def temporary_vectors(n: int, krylov_dim: int, basis: str, basis_dtype: str | None) -> float:
    """Return the temporary memory beside arguments and results, in vectors of n float32."""
    shape = jax.ShapeDtypeStruct((n,), jnp.float32)
    compiled = program(krylov_dim, basis, basis_dtype).lower(shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * n)


def resident_vectors(n: int, krylov_dim: int, basis: str, basis_dtype: str | None) -> float:
    """Measure the increase of a new process's peak memory in a solve, in vectors of n float32."""
    dtype = "-" if basis_dtype is None else basis_dtype
    command = [sys.executable, "-m", "benchmarks.scale.eigsh_memory", "--solve", str(n), str(krylov_dim), basis, dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def solve(n: int, krylov_dim: int, basis: str, basis_dtype: str | None) -> None:
    """Run a solve and print the increase of the peak memory in vectors."""
    compiled = program(krylov_dim, basis, basis_dtype).lower(jax.ShapeDtypeStruct((n,), jnp.float32)).compile()
    diagonal = jax.block_until_ready(jnp.linspace(0, 1, n) ** 3)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    jax.block_until_ready(compiled(diagonal))
    print((peak() - before) / (4 * n))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure memory and record it."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--solve"]:
        solve(int(argv[1]), int(argv[2]), argv[3], None if argv[4] == "-" else argv[4])
        return
    args = timing.arguments(__doc__, 1, argv)
    n = 10**5 if args.quick else 10**7
    rows = []
    for krylov_dim, basis, basis_dtype, promised in KINDS:
        found = temporary_vectors(n, krylov_dim, basis, basis_dtype)
        rows.append(
            {
                "n": n,
                "k": K,
                "krylov_dim": krylov_dim,
                "basis": basis,
                "basis_dtype": str(basis_dtype),
                "promised": float(promised(krylov_dim, K)),
                "temporary_vectors": found,
                "resident_vectors": 0.0 if args.quick else resident_vectors(n, krylov_dim, basis, basis_dtype),
            }
        )
    timing.record("eigsh_memory", rows, args)


if __name__ == "__main__":
    main()
