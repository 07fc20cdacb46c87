"""Claim: `eigsh` marks nothing wrong as converged, on a thousand random spectra.

Five pairs of matrices of 60 to 100 dimensions in random bases: clustered, repeated, graded over twelve decades, of low
rank, tiny, huge and uniform spectra. In float32 and float64, for LA and LM, with `verify` and without, vmapped, with
default options. Compared with dense float64 `eigh`:

- every pair marked converged has a true residual of at most tol ||A|| and rounding, the vectors are orthonormal, and
  no eigenvalue is returned twice;
- with `verify`, if all pairs are marked converged they are the wanted ones.

The exit status is 1 if any of this fails. The following is counted only: pairs that did not converge within the
default budget (at least 99 in 100 should), and pairs missed without `verify`.

    python -m benchmarks.eigen.random_spectra
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import eigsh

PAIRS = 5
SIZES = (60, 80, 100)
LANES = 24  # of every family, size and precision: 7 x 3 x 2 x 24 = 1008 spectra
DTYPES = ("float32", "float64")
ENDS = ("LA", "LM")

Draw = Callable[[np.random.Generator, int], np.ndarray]


class Batch(NamedTuple):
    """Matrices of one family, size and precision, and their eigenvalues after rounding to that precision."""

    matrices: np.ndarray  # (lanes, n, n) in the working precision
    eigenvalues: np.ndarray  # (lanes, n) float64
    exact: np.ndarray  # (lanes, n, n) float64, the same numbers


def clustered(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw a few centers, with eigenvalues 1e-7 to 1e-2 apart around each."""
    centres = rng.normal(size=rng.integers(2, 8))
    return rng.choice(centres, n) + 10.0 ** rng.uniform(-7, -2) * rng.normal(size=n)


def repeated(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw eigenvalues with only a few different values."""
    return rng.choice(rng.normal(size=rng.integers(2, 12)), n)


def graded(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw eigenvalues from 1 to 1e-12, of either sign or positive."""
    return np.logspace(0, -12, n) * (rng.choice([-1, 1], n) if rng.integers(2) else 1)


def low_rank(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw three to n / 3 nonzero eigenvalues."""
    rank = rng.integers(3, n // 3)
    return np.r_[rng.normal(size=rank), np.zeros(n - rank)]


def uniform(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw eigenvalues between -1 and 1, or between 0 and 1."""
    return rng.uniform(-rng.integers(2), 1, n)


def scaled(low: float, high: float) -> dict[str, Draw]:
    """Return two families, tiny and huge: the other spectra multiplied by `low` and by `high`."""
    draw = lambda size: lambda rng, n: size * [clustered, repeated, low_rank, uniform][rng.integers(4)](rng, n)
    return {"tiny": draw(low), "huge": draw(high)}


def families(dtype: str) -> dict[str, Draw]:
    """Return the families of spectra by name."""
    plain = (clustered, repeated, graded, low_rank, uniform)
    return {draw.__name__: draw for draw in plain} | scaled(1e-20 if dtype == "float32" else 1e-30, 1e18)


def batch(draw: Draw, n: int, dtype: str, lanes: int, seed: int) -> Batch:
    """Draw matrices with random spectra in random bases."""
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.normal(size=(lanes, n, n)))[0]
    spectra = np.stack([draw(rng, n) for _ in range(lanes)])
    matrices = (bases * spectra[:, None, :]) @ bases.transpose(0, 2, 1)
    matrices = ((matrices + matrices.transpose(0, 2, 1)) / 2).astype(dtype)
    exact = matrices.astype(np.float64)
    return Batch(matrices, np.linalg.eigvalsh(exact), exact)


@functools.partial(jax.jit, static_argnames=("which", "verify"))
def solve(matrices: jax.Array, *, which: str, verify: bool) -> Any:
    """Solve a batch with default options, each matrix with its own key."""
    keys = jax.random.split(jax.random.key(1), matrices.shape[0])
    return jax.vmap(lambda a, key: eigsh(a, PAIRS, which=which, verify=verify, key=key, dense=False))(matrices, keys)


def judge(problems: Batch, result: Any, which: str, verify: bool) -> dict[str, int]:
    """Count correct and wrong results over the matrices of a batch."""
    result = jax.device_get(result)
    eps = float(np.finfo(problems.matrices.dtype).eps)
    tol, rounding = eps**0.5, 4 * problems.matrices.shape[-1] ** 0.5 * eps
    counts = dict.fromkeys(("asked", "converged", "residual", "orthonormal", "twice", "missed", "products"), 0)
    for lane, eigenvalues in enumerate(problems.eigenvalues):
        norm = np.abs(eigenvalues).max()
        slack = (tol + rounding) * norm
        flags = result.converged[lane]
        values = result.eigenvalues[lane].astype(np.float64)
        vectors = result.eigenvectors[lane].astype(np.float64)
        residuals = np.linalg.norm(vectors @ problems.exact[lane] - values[:, None] * vectors, axis=1)
        converged = vectors[flags]
        counts["asked"] += PAIRS
        counts["converged"] += int(flags.sum())
        counts["residual"] += int(np.sum(residuals[flags] > slack))
        counts["orthonormal"] += int(
            np.abs(converged @ converged.T - np.eye(len(converged))).max(initial=0.0) > 2 * rounding
        )
        counts["twice"] += unmatched(values[flags], eigenvalues, 2 * slack)
        counts["missed"] += int(flags.all() and not is_wanted(values, eigenvalues, which, slack))
        counts["products"] += int(result.num_matvecs[lane])
    counts["wrong"] = sum(counts[name] for name in ("residual", "orthonormal", "twice")) + verify * counts["missed"]
    return counts


def unmatched(values: np.ndarray, eigenvalues: np.ndarray, slack: float) -> int:
    """Count the values without a separate eigenvalue within slack."""
    position, alone = 0, 0
    for value in np.sort(values):
        position += int(np.searchsorted(eigenvalues[position:], value - slack))
        if position < len(eigenvalues) and eigenvalues[position] <= value + slack:
            position += 1
        else:
            alone += 1
    return alone


def is_wanted(values: np.ndarray, eigenvalues: np.ndarray, which: str, slack: float) -> bool:
    """Return True if the values are the most wanted ones, each to within slack; for LM, in magnitude."""
    order = (lambda x: np.sort(x)[::-1]) if which == "LA" else (lambda x: np.sort(np.abs(x))[::-1])
    return bool(np.all(np.abs(order(values) - order(eigenvalues)[:PAIRS]) <= slack))


def count(sizes: Sequence[int], lanes: int) -> list[dict[str, Any]]:
    """Return one row for each family, precision, `which` and choice of verify."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for dtype in DTYPES:
        with jax.enable_x64(dtype == "float64"):
            for n in sizes:
                drawn = {
                    name: batch(draw, n, dtype, lanes, seed)
                    for seed, (name, draw) in enumerate(families(dtype).items(), 1000 * n)
                }
                for which in ENDS:
                    for verify in (False, True):
                        for name, problems in drawn.items():
                            result = solve(jnp.asarray(problems.matrices), which=which, verify=verify)
                            counts = judge(problems, result, which, verify)
                            key = (name, dtype, which, verify)
                            row = rows.setdefault(key, _empty(*key, counts))
                            row["spectra"] += lanes
                            for column, number in counts.items():
                                row[column] += number
                        print(f"{dtype} n={n} {which} verify={verify}", flush=True)
    return [rows[key] for key in sorted(rows)]


def _empty(name: str, dtype: str, which: str, verify: bool, counts: dict[str, int]) -> dict[str, Any]:
    head = {"family": name, "dtype": dtype, "which": which, "verify": verify, "spectra": 0}
    return head | dict.fromkeys(counts, 0)


def main(argv: Sequence[str] | None = None) -> None:
    """Count and record results; exit with status 1 if a claim fails."""
    args = timing.arguments(__doc__, 1, argv)
    rows = count(SIZES[:1], 2) if args.quick else count(SIZES, LANES)
    timing.record("random_spectra", rows, args)
    asked, converged, wrong = (sum(row[column] for row in rows) for column in ("asked", "converged", "wrong"))
    spectra = sum(row["spectra"] for row in rows if row["which"] == "LA" and not row["verify"])
    missed = sum(row["missed"] for row in rows if not row["verify"])
    print(f"{spectra} spectra, {asked} pairs asked for, {converged} converged ({100 * converged / asked:.2f}%)")
    print(f"solves in which a pair was missed without verify: {missed}; claims broken: {wrong}")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
