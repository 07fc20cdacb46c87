"""Harmonic Ritz pairs of a general operator, for the eigenvalues nearest to a shift.

With G = H - target and the factor R of the tall matrix [G; b^H] = Q R, the harmonic Ritz values theta of A V = V H +
d b^H are those of (A - target)^-1 on the space (A - target) V (Morgan 1991):

    N = R^-H G^H R^-1,    N y = nu y,    theta = target + 1 / nu,    c = R^-1 y.

All invariant subspaces of N, times R^-1, couple to one direction d + V x. So a restart that keeps one of them continues
with that direction (Morgan and Zeng 2006), and the Schur form of N serves in place of that of H.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.triangular import triangular_eigenvectors
from eigenjax.krylov.rayleigh_ritz import clamped_inverse
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul, positive_or_one, safe_divide

# A coupling below this times eps ||A|| is rounding, and determines no direction.
_ROUNDING = 16.0


class Shift(NamedTuple):
    """Shift of an interior problem."""

    sigma: jax.Array  # () the wanted eigenvalues are the nearest to it
    target: jax.Array  # () near sigma, but not an eigenvalue


class Harmonic(NamedTuple):
    """Problem N y = nu y of the harmonic Ritz pairs, of the valid rows first."""

    matrix: jax.Array  # (m, m) N; zero in rows that are not valid
    inverse: jax.Array  # (m, m) R^-1
    factor: jax.Array  # (m, m) R
    scale: jax.Array  # () power of two that all but N are divided by, and N is multiplied by


def harmonic_problem(matrix: jax.Array, coupling: jax.Array, valid: jax.Array, target: jax.Array) -> Harmonic:
    """Build the problem of the harmonic Ritz pairs.

    Args:
        matrix: (m, m) H, the valid rows first, the others zero.
        coupling: (m,) b^H, in the same order.
        valid: (m,) bool.
        target: () number that is no eigenvalue of A; real if H is.
    """
    shifted = matrix - jnp.diag(jnp.where(valid, target.astype(matrix.dtype), 0))
    row = jnp.where(valid, coupling, 0)[None]
    finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
    shifted, row = finite(shifted), finite(row)
    largest = positive_or_one(jnp.maximum(jnp.max(jnp.abs(shifted)), jnp.max(jnp.abs(row))))
    scale = jnp.ldexp(jnp.ones_like(largest), -jnp.frexp(largest)[1])
    shifted, row = (x * scale.astype(x.dtype) for x in (shifted, row))
    beyond = jnp.diag(jnp.where(valid, 0, 1).astype(matrix.dtype))
    factor = jnp.linalg.qr(jnp.concatenate([shifted + beyond, row]), mode="r")
    inverse = clamped_inverse(factor)
    reciprocal = matmul(jnp.conj(inverse).T, jnp.conj(shifted).T, inverse)
    return Harmonic(reciprocal, inverse, factor, scale)


def harmonic_values(problem: Harmonic, reciprocals: jax.Array, shift: Shift) -> tuple[jax.Array, jax.Array]:
    """Return the harmonic Ritz values target + 1 / nu, and their distances from sigma; inf for nu = 0."""
    sizes = jnp.abs(reciprocals)
    offsets = safe_divide(1, reciprocals * problem.scale.astype(reciprocals.dtype), where=sizes > 0, otherwise=jnp.inf)
    values = shift.target.astype(reciprocals.dtype) + offsets
    distances = jnp.abs(values - shift.sigma.astype(values.dtype))
    return values, jnp.where(sizes > 0, distances, jnp.inf)


def ritz_vectors(problem: Harmonic, matrix: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the Rayleigh quotients c^H H c, and the unit vectors c = R^-1 y in columns."""
    columns = matmul(problem.inverse.astype(vectors.dtype), vectors)
    columns = columns / jax.vmap(tree.norm, in_axes=1)(columns).astype(columns.dtype)[None, :]
    images = matmul(matrix.astype(columns.dtype), columns)
    return jnp.sum(jnp.conj(columns) * images, axis=0), columns


def harmonic_basis(problem: Harmonic, vectors: jax.Array) -> jax.Array:
    """Orthonormalize R^-1 times Schur vectors of N, in the same order."""
    return jnp.linalg.qr(matmul(problem.inverse.astype(vectors.dtype), vectors))[0]


def harmonic_conditions(
    problem: Harmonic, unitary: jax.Array, triangular: jax.Array, least_gap: jax.Array
) -> jax.Array:
    """Compute (m,) the conditions of the harmonic Ritz values, with vectors c = R^-1 y and R^H z.

    Args:
        problem: the problem.
        unitary: (m, m) of the Schur form of N.
        triangular: (m, m) of the Schur form of N.
        least_gap: () smaller differences of the nu are replaced by it.
    """
    right = triangular_eigenvectors(triangular, least_gap)
    left = triangular_eigenvectors(jnp.conj(triangular).T[::-1, ::-1], least_gap)[::-1, ::-1]
    overlaps = jnp.abs(jnp.diag(right)) * jnp.abs(jnp.diag(left))
    of_dtype = lambda x: x.astype(unitary.dtype)
    columns = matmul(of_dtype(problem.inverse), unitary, right)
    rows = matmul(of_dtype(jnp.conj(problem.factor).T), unitary, left)
    lengths = jax.vmap(tree.norm, in_axes=1)
    return safe_divide(lengths(columns) * lengths(rows), overlaps, otherwise=jnp.inf)


def continuation(outside: jax.Array, coupling: jax.Array, operator_norm: jax.Array) -> jax.Array:
    """Return x, (m,), of the direction d + V x that the kept subspace couples to: outside ~ x coupling.

    Args:
        outside: (m, p) H C - C (C^H H C), of rank one up to rounding for kept harmonic Ritz vectors.
        coupling: (p,) b^H C.
        operator_norm: () an estimate of ||A||.
    """
    size = tree.norm(coupling)
    matters = size > _ROUNDING * jnp.finfo(size.dtype).eps * operator_norm
    row = safe_divide(jnp.conj(coupling), size.astype(coupling.dtype), where=matters, otherwise=0)
    along = jnp.sum(outside * row[None, :], axis=1)
    return safe_divide(along, size.astype(along.dtype), where=matters, otherwise=0)
