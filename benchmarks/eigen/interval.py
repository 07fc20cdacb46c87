"""Claim: all eigenvalues of an interval take at most half of the matvecs of `eigsh(sigma=)` repeated along it.

Fifty eigenvalues inside a 2-D Laplacian on 100 x 100 points, nearly all double, and inside a random matrix of size
2,000 (Gaussian orthogonal ensemble), in float64 with default options. Both matrices are diagonal here: a Lanczos
method from random vectors takes the same matvecs for all matrices with the same eigenvalues. `eigsh` is the number of
matvecs with `interval=`, with places for a tenth more pairs. `sigma` is that of `eigsh(sigma=)` at five shifts, each
for a fifth of the pairs and four more. `missed` and `sigma_missed` are the numbers of eigenvalues inside that are not
among the results, copies counted. `error` is the largest error of an eigenvalue over the largest eigenvalue.

    python -m benchmarks.eigen.interval [--quick]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import as_operator, eigsh

SHIFTS, MORE = 5, 4
# Matvecs allowed at a shift: the default, 10,000, ends before the pairs have converged.
MAX_MATVECS = 100_000
# Points along an axis of the Laplacian, size of the random matrix, and eigenvalues inside.
SIZES, QUICK = (100, 2000, 50), (20, 200, 15)
# Two eigenvalues closer than this are copies: an end of the interval lies in a wider gap.
_COPIES = 1e-6


def laplacian(points: int) -> np.ndarray:
    """Compute the eigenvalues of a grid Laplacian."""
    line = 2 - 2 * np.cos(np.pi * np.arange(1, points + 1) / (points + 1))
    return np.sort((line[:, None] + line[None, :]).ravel())


def random_matrix(n: int) -> np.ndarray:
    """Compute the eigenvalues of a random symmetric matrix, between about -1 and 1 times the square root of two."""
    entries = np.random.default_rng(0).standard_normal((n, n))
    return np.linalg.eigvalsh((entries + entries.T) / np.sqrt(2 * n))


def compare(name: str, values: np.ndarray, first: int, count: int) -> dict[str, Any]:
    """Compare both ways of computing the `count` eigenvalues from index `first` on, or a few more."""
    low, high = _end(values, first), _end(values, first + count)
    inside = values[(values > low) & (values < high)]
    op = as_operator(jax.tree_util.Partial(jnp.multiply, jnp.asarray(values)), like=jnp.asarray(values))
    result = jax.jit(lambda op: eigsh(op, len(inside) + len(inside) // 10, interval=(low, high)))(op)
    found = np.asarray(result.eigenvalues)[np.asarray(result.converged)]
    matvecs, nearest = 0, []
    near = jax.jit(lambda op, shift: eigsh(op, -(-len(inside) // SHIFTS) + MORE, sigma=shift, max_matvecs=MAX_MATVECS))
    for shift in low + (high - low) * (np.arange(SHIFTS) + 0.5) / SHIFTS:
        part = near(op, shift)
        matvecs += int(part.num_matvecs)
        nearest.append(np.asarray(part.eigenvalues)[np.asarray(part.converged)])
    return {
        "matrix": name,
        "n": len(values),
        "inside": len(inside),
        "eigsh": int(result.num_matvecs),
        "sigma": matvecs,
        "ratio": int(result.num_matvecs) / matvecs,
        "missed": _missed(found, inside),
        "sigma_missed": sum(_missed_once(nearest, value, inside) for value in np.unique(inside.round(9))),
        "error": float(np.max(np.min(np.abs(found[:, None] - inside[None, :]), axis=1)) / np.abs(values).max()),
        "converged": bool(result.status == 0),
    }


def _end(values: np.ndarray, index: int) -> float:
    """Return the middle of the first gap from an index on."""
    while values[index] - values[index - 1] < _COPIES:
        index += 1
    return float((values[index] + values[index - 1]) / 2)


def _missed(found: np.ndarray, inside: np.ndarray) -> int:
    """Count the copies inside that are not found."""
    count = lambda values, value: int(np.sum(np.abs(values - value) < _COPIES))
    return sum(max(count(inside, value) - count(found, value), 0) for value in np.unique(inside.round(9)))


def _missed_once(nearest: list[np.ndarray], value: float, inside: np.ndarray) -> int:
    """Count the copies of a value that no single shift found: shifts overlap, and one may see all copies."""
    here = inside[np.abs(inside - value) < _COPIES]
    return min(_missed(found, here) for found in nearest)


def rows(sizes: tuple[int, int, int]) -> Iterator[dict[str, Any]]:
    """Compare on both matrices."""
    points, n, count = sizes
    yield compare("random", random_matrix(n), 9 * n // 20, count)
    yield compare("laplacian", laplacian(points), points**2 // 4, count)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare both ways and record it."""
    args = timing.arguments(__doc__, 1, argv)
    with jax.enable_x64(True):
        found = [*rows(QUICK if args.quick else SIZES)]
    timing.record("interval", found, args)


if __name__ == "__main__":
    main()
