"""Claim: on small dense matrices `eigsh`, `eigs` and `svds` cost little more than a decomposition by JAX.

Not met yet by first calls, which take 3 to 10 times as long.

Random matrices, float32, under jit. Single ones of n = 50 to 300, k = 6: the first call in a fresh process, and later
calls beside a dense decomposition of JAX and beside SciPy's solver of the same name. Batches, k = 3, under vmap: value
and gradient of a loss of eigenvalues and eigenvectors, beside those of JAX's decomposition.

    python -m benchmarks.eigen.small_matrices
"""

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

import eigenjax
from benchmarks.support import timing

SIZES, QUICK_SIZES = (50, 100, 200, 300), (10,)
BATCHES, QUICK_BATCHES = ((4096, 32), (512, 64), (64, 256)), ((4, 8),)
K, K_BATCHED = 6, 3

Function = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def _eig(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = jax.lax.linalg.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True)
    return values, vectors


def _svd(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, values, _ = jnp.linalg.svd(a, full_matrices=False)
    return values, left


# The solver, JAX's decomposition as (values, vectors in columns), SciPy's solver, and its name for the wanted pairs.
SOLVERS: dict[str, tuple[Callable[..., Any], Function, Callable[..., Any]]] = {
    "eigsh": (eigenjax.eigsh, jnp.linalg.eigh, functools.partial(scipy.sparse.linalg.eigsh, which="LA")),
    "eigs": (eigenjax.eigs, _eig, scipy.sparse.linalg.eigs),
    "svds": (eigenjax.svds, _svd, scipy.sparse.linalg.svds),
}


def matrices(name: str, count: int, size: int) -> np.ndarray:
    """Draw random matrices, symmetric ones for `eigsh`."""
    a = np.random.default_rng(size).standard_normal((count, size, size)).astype(np.float32)
    return (a + a.transpose(0, 2, 1)) / 2 if name == "eigsh" else a


def first_seconds(job: str, size: int) -> float:
    """Measure the first call of "solver program" in this process, after the device is initialized."""
    name, program = job.split()
    ours, theirs, _ = SOLVERS[name]
    function = jax.jit((lambda a: ours(a, K)[:2]) if program == "eigenjax" else theirs)
    matrix = jnp.asarray(matrices(name, 1, size)[0])
    jax.block_until_ready(jax.jit(lambda x: x + 1)(matrix))
    start = time.perf_counter()
    jax.block_until_ready(function(matrix))
    return time.perf_counter() - start


def in_fresh_processes(job: str, size: int, repeats: int) -> float:
    """Measure the median of first calls, each in a new process."""
    command = [sys.executable, "-m", "benchmarks.eigen.small_matrices", "--job", job, "--size", str(size)]
    run = lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return statistics.median(float(run().splitlines()[-1]) for _ in range(repeats))


def single(name: str, size: int, repeats: int, processes: int) -> dict[str, Any]:
    """Compare first and later calls on one matrix."""
    ours, theirs, scipys = SOLVERS[name]
    matrix = matrices(name, 1, size)[0]
    array, wide = jnp.asarray(matrix), matrix.astype(float)
    solve, decompose = jax.jit(lambda a: ours(a, K)), jax.jit(theirs)
    tol = float(np.finfo(np.float32).eps) ** 0.5
    programs = {
        "eigenjax": lambda: solve(array),
        "jax": lambda: decompose(array),
        "scipy": lambda: scipys(matrix, K, tol=tol),
    }
    timings = timing.interleaved(programs, repeats)
    first = {program: in_fresh_processes(f"{name} {program}", size, processes) for program in ("eigenjax", "jax")}
    truth = {
        "eigsh": lambda: np.linalg.eigvalsh(wide)[::-1],
        "eigs": lambda: np.sort(np.abs(np.linalg.eigvals(wide)))[::-1],
        "svds": lambda: np.linalg.svd(wide, compute_uv=False),
    }[name]()[:K]
    values = solve(array)
    found = values.values if name == "svds" else values.eigenvalues
    found = np.abs(found) if name == "eigs" else np.asarray(found)
    return {
        "solver": name,
        "problem": f"{size} x {size}",
        "first_s": first["eigenjax"],
        "first_over_jax": first["eigenjax"] / first["jax"],
        "median_s": timings["eigenjax"].median,
        "over_jax": timing.ratio(timings["eigenjax"], timings["jax"]),
        "over_scipy": timing.ratio(timings["eigenjax"], timings["scipy"]),
        "error": float(np.max(np.abs(found - truth)) / truth[0]),
    }


def batched(name: str, count: int, size: int, repeats: int, *, gradient: bool) -> dict[str, Any]:
    """Compare value, or value and gradient, of a loss over a batch."""
    ours, theirs, _ = SOLVERS[name]

    def of_ours(a: jax.Array) -> jax.Array:
        result = ours(a, K_BATCHED)
        left = name == "svds"
        return _loss(result.values if left else result.eigenvalues, result.left if left else result.eigenvectors)

    def of_theirs(a: jax.Array) -> jax.Array:
        values, vectors = theirs(a)
        keys = -values if name == "eigsh" else -jnp.abs(values)
        order = jnp.argsort(jax.lax.stop_gradient(keys))[:K_BATCHED]
        return _loss(values[order], vectors[:, order].T)

    stack = jnp.asarray(matrices(name, count, size))
    wrap = jax.value_and_grad if gradient else lambda loss: loss
    programs = {"eigenjax": jax.jit(jax.vmap(wrap(of_ours))), "jax": jax.jit(jax.vmap(wrap(of_theirs)))}
    timings = timing.interleaved({key: lambda f=f: f(stack) for key, f in programs.items()}, repeats)
    values = {key: np.asarray(f(stack)[0] if gradient else f(stack)) for key, f in programs.items()}
    return {
        "solver": name,
        "problem": f"{count} x {size}^2, {'value and gradient' if gradient else 'value'}",
        "first_s": None,
        "first_over_jax": None,
        "median_s": timings["eigenjax"].median,
        "over_jax": timing.ratio(timings["eigenjax"], timings["jax"]),
        "over_scipy": None,
        # The eigenvalues of largest modulus of a real matrix may be cut between two conjugates: a median.
        "error": float(np.median(np.abs(values["eigenjax"] - values["jax"]))),
    }


def _loss(values: jax.Array, vectors: jax.Array) -> jax.Array:
    weights = jnp.cos(jnp.arange(vectors.size, dtype=jnp.float32)).reshape(vectors.shape)
    squares = jnp.real(vectors) ** 2 + jnp.imag(vectors) ** 2
    return jnp.sum(weights * squares) + jnp.sum(jnp.sin(jnp.real(values)))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all problems and record the table."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--job")
    parser.add_argument("--size", type=int)
    own, rest = parser.parse_known_args(argv)
    if own.job:
        print(first_seconds(own.job, own.size))
        return
    args = timing.arguments(__doc__, 9, rest)
    sizes, batches = (QUICK_SIZES, QUICK_BATCHES) if args.quick else (SIZES, BATCHES)
    processes = 1 if args.quick else 3
    rows = [single(name, size, args.repeats, processes) for name in SOLVERS for size in sizes]
    for name in SOLVERS:
        for count, size in batches:
            rows += [batched(name, count, size, args.repeats, gradient=gradient) for gradient in (False, True)]
    timing.record("small_matrices", rows, args)


if __name__ == "__main__":
    main()
