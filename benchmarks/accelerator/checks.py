"""Comparison of one number with its bound, and the matrices and comparisons on the host that the cases share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Check(NamedTuple):
    """Error with its bound."""

    name: str
    error: float
    bound: float

    @property
    def is_right(self) -> bool:
        """Return True if the error is within its bound; False for NaN."""
        return bool(self.error <= self.bound)


Case = Callable[[], list[Check]]


def symmetric(eigenvalues: Sequence[float], dtype: str = "float64", seed: int = 0) -> np.ndarray:
    """Create a matrix of this dtype with the given eigenvalues in a random basis, exactly symmetric or Hermitian."""
    rng, n = np.random.default_rng(seed), len(eigenvalues)
    sample = rng.normal(size=(n, n))
    if np.issubdtype(np.dtype(dtype), np.complexfloating):
        sample = sample + 1j * rng.normal(size=(n, n))
    basis, _ = np.linalg.qr(sample)
    matrix = ((basis * np.asarray(eigenvalues)) @ basis.conj().T).astype(dtype)
    return (matrix + matrix.conj().T) / 2


def outliers(n: int, count: int = 8) -> np.ndarray:
    """Draw a model of a network's spectrum: some eigenvalues from 3 to 10, the others in (-0.5, 1)."""
    return np.concatenate([np.linspace(10, 3, count), np.random.default_rng(1).uniform(-0.5, 1, n - count)])


def pair_checks(
    label: str, matrix: np.ndarray, result: Any, wanted: np.ndarray, *, tol: float, unit: float
) -> list[Check]:
    """Check the values, true residuals and orthonormality of a symmetric solver's result.

    Args:
        label: prefix of the names.
        matrix: float64 or complex128, on the host.
        result: an EigenResult with (k, n) eigenvectors.
        wanted: (k,) exact eigenvalues in the order of the result.
        tol: tolerance of the solve.
        unit: eps of the working precision; errors may be a few dozen times this, relative to ||A||.
    """
    vectors, values = host(result.eigenvectors), host(result.eigenvalues)
    norm = float(np.abs(np.linalg.eigvalsh(matrix)).max())
    residuals = np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1)
    gram = vectors.conj() @ vectors.T
    error = np.abs(residuals - host(result.residuals)).max() / norm
    return [
        Check(f"{label}: status", float(result.status), 0),
        Check(f"{label}: eigenvalues, over the norm", float(np.abs(values - wanted).max() / norm), 64 * unit + tol**2),
        Check(f"{label}: true residuals, over the norm", float(residuals.max() / norm), 1.01 * tol + 64 * unit),
        Check(f"{label}: residuals told less true ones, over the norm", float(error), 64 * unit),
        Check(f"{label}: orthonormality", float(np.abs(gram - np.eye(len(gram))).max()), 20 * unit),
    ]


def host(x: Any) -> np.ndarray:
    """Convert an array of any dtype to double precision on the host."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def directional(function: Callable[[np.ndarray], float], at: np.ndarray, along: np.ndarray, step: float) -> float:
    """Compute a fourth-order central difference."""
    moved = lambda share: function(at + share * step * along)
    return (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step)


def direction(shape: tuple[int, ...], *, is_symmetric: bool = True, seed: int = 5) -> np.ndarray:
    """Draw a direction of unit norm."""
    sample = np.random.default_rng(seed).normal(size=shape)
    if is_symmetric:
        sample = sample + np.swapaxes(sample, -1, -2)
    return sample / np.linalg.norm(sample)


def relative(found: Any, wanted: Any) -> float:
    """Compute the norm of the difference over the norm of the reference."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
