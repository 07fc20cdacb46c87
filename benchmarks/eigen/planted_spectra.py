"""Claim: with default options `eigsh` misses no copy of a repeated eigenvalue, and its error bounds hold.

A thousand matrices of 120 dimensions, in random bases unless they are graphs. They have eigenvalues of multiplicity 2
to 6 inside the wanted set and across its edge, clusters of width 1e-6, or low rank; the graphs have 2 to 12 components,
or are grids, rings and tori. In float32 and float64, for LA, SA, LM, BE and interior eigenvalues, with 2, 5 and 12
pairs. Results with status CONVERGED are compared with dense float64 `eigh`:

- the eigenvalues are the wanted ones with their multiplicities, to within tol ||A|| and rounding;
- with and without the missed-pair search, every value lies within its `error_bounds` of an eigenvalue of the matrix.

The exit status is 1 if any of this fails. Solves that did not converge, or could not be verified, are counted.

    python -m benchmarks.eigen.planted_spectra
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import Status, eigsh

N = 120
LANES = 5  # of each of seven families, five ends and three numbers of pairs, in two precisions: 1050
PAIRS = (2, 5, 12)
ENDS = ("LA", "SA", "LM", "BE", "sigma")
DTYPES = ("float32", "float64")
# Rounding error of eigvalsh relative to the norm.
_TRUTH = 20 * np.finfo(float).eps


def rotated(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Create a matrix with the given eigenvalues in a random basis."""
    basis = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return (basis * values) @ basis.T


def with_copies(rng: np.random.Generator, k: int) -> np.ndarray:
    """Draw groups of 1 to 6 copies from the largest down, over a bulk, some of them across the edge of the k wanted."""
    groups, total = [], 0
    while total < k + 3:
        groups.append(int(rng.integers(1, 7)))
        total += groups[-1]
    places = np.sort(rng.uniform(1.2, 4.0, len(groups)))[::-1]
    return rotated(np.r_[np.repeat(places, groups), rng.uniform(-1, 1, N - total)], rng)


def both_ends(rng: np.random.Generator, _k: int) -> np.ndarray:
    """Draw copies at both ends, and of equal magnitude."""
    places = np.repeat(rng.uniform(1.2, 4.0, 5), rng.integers(2, 7, 5))
    values = np.r_[places, -places[rng.permutation(len(places))]][: N // 2]
    return rotated(np.r_[values, rng.uniform(-1, 1, N - len(values))], rng)


def clustered(rng: np.random.Generator, _k: int) -> np.ndarray:
    """Draw groups of 2 to 6 eigenvalues within 1e-6."""
    sizes = rng.integers(2, 7, 6)
    groups = np.repeat(np.linspace(2, 4, 6), sizes) + 1e-6 * rng.uniform(-0.5, 0.5, sizes.sum())
    return rotated(np.r_[groups, -groups[::2], rng.uniform(-1, 1, N - len(groups) - len(groups[::2]))], rng)


def low_rank(rng: np.random.Generator, _k: int) -> np.ndarray:
    """Draw three to twenty nonzero eigenvalues; the others are zero."""
    rank = int(rng.integers(3, 21))
    return rotated(np.r_[rng.normal(size=rank), np.zeros(N - rank)], rng)


def components(rng: np.random.Generator, _k: int) -> np.ndarray:
    """Create the Laplacian of a graph of 2 to 12 components, each with an eigenvalue zero."""
    count = int(rng.integers(2, 13))
    label = np.sort(np.r_[np.repeat(np.arange(count), 8), rng.integers(count, size=N - 8 * count)])
    edges = np.triu(rng.uniform(size=(N, N)) < 0.5, 1) & (label[:, None] == label[None, :])
    adjacency = (edges | edges.T).astype(float)
    return np.diag(adjacency.sum(axis=1)) - adjacency


def lattice(rng: np.random.Generator, _k: int) -> np.ndarray:
    """Create the Laplacian of a grid, a ring or a torus."""
    line = lambda n: 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    ring = lambda n: 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)
    square = lambda part: np.kron(part(10), np.eye(10)) + np.kron(np.eye(10), part(10))
    oblong = lambda part: np.kron(part(10), np.eye(12)) + np.kron(np.eye(10), part(12))
    whole = [ring(N), oblong(ring), oblong(line)]
    small = [square(line), square(ring)]
    chosen = int(rng.integers(5))
    if chosen < 3:
        return whole[chosen]
    # The remaining dimensions are a cluster in the middle of the spectrum.
    full = 4.03 * np.eye(N)
    full[:100, :100] = small[chosen - 3]
    return full


def scaled(rng: np.random.Generator, k: int) -> np.ndarray:
    """Draw from any other family and scale the matrix."""
    return 10.0 ** rng.uniform(-12, 12) * (with_copies, both_ends, low_rank, lattice)[rng.integers(4)](rng, k)


FAMILIES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    draw.__name__: draw for draw in (with_copies, both_ends, clustered, low_rank, components, lattice, scaled)
}


@functools.partial(jax.jit, static_argnames=("k", "end", "verify"))
def solve(matrices: jax.Array, sigmas: jax.Array, *, k: int, end: str, verify: bool) -> Any:
    """Solve a batch of problems, each with its own key."""

    def one(matrix, sigma, key):
        options = {"sigma": sigma} if end == "sigma" else {"which": end}
        return eigsh(matrix, k, key=key, verify=verify, dense=False, **options)

    return jax.vmap(one)(matrices, sigmas, jax.random.split(jax.random.key(2), matrices.shape[0]))


def wanted(eigenvalues: np.ndarray, end: str, sigma: float, k: int) -> np.ndarray:
    """Return the k wanted eigenvalues, ascending (for LM and sigma, the distances in ascending order)."""
    ascending = np.sort(eigenvalues)
    if end == "LM":
        return np.sort(np.abs(ascending))[-k:]
    if end == "sigma":
        return np.sort(np.abs(ascending - sigma))[:k]
    low = {"LA": 0, "SA": k, "BE": k // 2}[end]
    return np.r_[ascending[:low], ascending[len(ascending) - (k - low) :]]


def counts(matrices: np.ndarray, result: Any, end: str, sigmas: np.ndarray, k: int) -> dict[str, Any]:
    """Count correct and wrong results in a batch."""
    eps = float(np.finfo(matrices.dtype).eps)
    row = dict.fromkeys(("solves", "converged", "missed", "pairs", "outside", "matvecs"), 0)
    for lane, matrix in enumerate(matrices.astype(np.float64)):
        eigenvalues = np.linalg.eigvalsh(matrix)
        norm = float(np.abs(eigenvalues).max())
        values = np.asarray(result.eigenvalues[lane], np.float64)
        truth = wanted(eigenvalues, end, sigmas[lane], k)
        reached = wanted(values, end, sigmas[lane], k)
        slack = (eps**0.5 + 4 * N**0.5 * eps) * norm
        is_converged = int(result.status[lane]) == Status.CONVERGED
        distances = np.abs(values[:, None] - eigenvalues[None, :]).min(axis=1)
        bounds = np.asarray(result.error_bounds[lane], np.float64)
        row["solves"] += 1
        row["converged"] += is_converged
        row["missed"] += int(is_converged and np.abs(reached - truth).max() > slack)
        row["pairs"] += k
        row["outside"] += int(np.sum(~(distances <= bounds + _TRUTH * norm)))
        row["matvecs"] += int(result.num_matvecs[lane])
    return row


def batch(k: int, lanes: int, dtype: str, seed: int) -> dict[str, np.ndarray]:
    """Draw matrices of every family."""
    rng = np.random.default_rng(seed)
    draw = lambda family: np.stack([family(rng, k) for _ in range(lanes)])
    symmetric = lambda x: ((x + x.transpose(0, 2, 1)) / 2).astype(dtype)
    return {name: symmetric(draw(family)) for name, family in FAMILIES.items()}


def count(lanes: int, pairs: Sequence[int], ends: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each family, precision and `which`."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for dtype in DTYPES:
        with jax.enable_x64(dtype == "float64"):
            for end in ends:
                for k in pairs:
                    drawn = batch(k, lanes, dtype, 1000 * k + 10 * ENDS.index(end))
                    stacked = np.concatenate(list(drawn.values()))
                    sigmas = np.array([_inside(matrix) for matrix in stacked], dtype)
                    results = {}
                    for verify in (True, False):
                        found = solve(jnp.asarray(stacked), jnp.asarray(sigmas), k=k, end=end, verify=verify)
                        results[verify] = jax.device_get(found)
                    for i, (name, matrices) in enumerate(drawn.items()):
                        part = slice(i * lanes, (i + 1) * lanes)
                        cut = lambda result, part=part: jax.tree.map(lambda x: x[part], result)
                        found = counts(matrices, cut(results[True]), end, sigmas[part], k)
                        plain = counts(matrices, cut(results[False]), end, sigmas[part], k)
                        row = rows.setdefault((name, dtype, end), {"family": name, "dtype": dtype, "which": end})
                        found |= {f"{column}_without": plain[column] for column in ("missed", "matvecs")}
                        found |= {column: found[column] + plain[column] for column in ("pairs", "outside")}
                        for column, number in found.items():
                            row[column] = row.get(column, 0) + number
                    print(f"{dtype} {end} k={k}", flush=True)
    return [rows[key] for key in sorted(rows)]


def _inside(matrix: np.ndarray) -> float:
    """Draw a shift between the second and the third quartile of the spectrum."""
    values = np.linalg.eigvalsh(matrix.astype(np.float64))
    return float(0.3 * values[len(values) // 3] + 0.7 * values[len(values) // 3 + 1])


def main(argv: Sequence[str] | None = None) -> None:
    """Count and record results; exit with status 1 if a claim fails."""
    args = timing.arguments(__doc__, 1, argv)
    rows = count(1, PAIRS[:1], ENDS[:1]) if args.quick else count(LANES, PAIRS, ENDS)
    timing.record("planted_spectra", rows, args)
    names = ("solves", "converged", "missed", "missed_without", "pairs", "outside", "matvecs", "matvecs_without")
    total = {name: sum(row[name] for row in rows) for name in names}
    print(total)
    if total["missed"] or total["outside"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
