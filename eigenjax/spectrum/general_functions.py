"""Functions of a small matrix without symmetry, and of the projection of an operator on a Krylov space.

    f(H) e_1 = X diag(f(theta)) X^-1 e_1

with eigenvalues theta and eigenvectors X of H, from its Schur form. Near a matrix without a basis of eigenvectors X is
ill-conditioned, and the error grows with its condition number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.krylov_space import KrylovSpace
from eigenjax.krylov.general.schur import Schur, schur
from eigenjax.krylov.general.triangular import triangular_eigenvectors
from eigenjax.spectrum.probing.quadrature import checked_values
from eigenjax.vectors.arithmetic import matmul

# Entries of T below this times eps are rounding: the eigenvalues are not coupled.
_UNCOUPLED = 16.0


class Eigendecomposition(NamedTuple):
    """Eigendecomposition H = X diag(theta) X^-1 of a small matrix."""

    values: jax.Array  # (m,) theta
    vectors: jax.Array  # (m, m) X
    weights: jax.Array  # (m,) X^-1 e_1
    condition: jax.Array  # () condition number of X


def general_column(
    decompositions: tuple[Eigendecomposition, ...], f: Callable
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute f(H) e_1 (m,), complex, its change by the separation of close eigenvalues, and a factor of its rounding.

    The mean over the two decompositions lacks the error of first order of the separation, half of their difference.
    The factor is the largest |f| times the condition number of X.

    >>> column, _, _ = general_column(eigendecompositions(jnp.array([[0.0, -1.0], [1.0, 0.0]])), jnp.exp)
    >>> print(column.real.round(4))
    [0.5403 0.8415]
    """
    columns, sizes = zip(*[_column(found, f) for found in decompositions], strict=True)
    half = (columns[0] - columns[1]) / 2
    return (columns[0] + columns[1]) / 2, jnp.linalg.norm(half), jnp.maximum(*sizes)


def eigendecompositions(matrix: jax.Array) -> tuple[Eigendecomposition, Eigendecomposition]:
    """Decompose two matrices near H: close eigenvalues that H couples are moved apart, once in each direction."""
    form = schur(matrix)
    moves = _moves(form.triangular)
    return _decomposition(form, moves), _decomposition(form, -moves)


def _moves(triangular: jax.Array) -> jax.Array:
    """Return by how much to move the eigenvalues, so that close ones that T couples differ by eps^(1/2)."""
    values, index = jnp.diag(triangular), jnp.arange(triangular.shape[0], dtype=jnp.int32)
    largest = jnp.max(jnp.abs(triangular))
    eps = jnp.finfo(largest.dtype).eps
    gap = jnp.sqrt(eps) * largest
    is_close = jnp.abs(values[:, None] - values[None]) < gap
    coupled = jnp.abs(triangular) > _UNCOUPLED * eps * largest
    before = is_close & coupled & (index[:, None] < index[None])
    return 2 * gap * jnp.sum(before, axis=0).astype(gap.dtype)


def _decomposition(form: Schur, moves: jax.Array) -> Eigendecomposition:
    triangular = form.triangular + jnp.diag(moves.astype(form.triangular.dtype))
    values, vectors = jnp.diag(triangular), triangular_eigenvectors(triangular)
    inverse = jax.scipy.linalg.solve_triangular(vectors, jnp.eye(len(values), dtype=vectors.dtype))
    condition = jnp.linalg.norm(vectors) * jnp.linalg.norm(inverse)
    weights = matmul(inverse, jnp.conj(form.unitary[0]))
    return Eigendecomposition(values, matmul(form.unitary, vectors), weights, condition)


def _column(found: Eigendecomposition, f: Callable) -> tuple[jax.Array, jax.Array]:
    images = checked_values(f, found.values)
    return matmul(found.vectors, images * found.weights), jnp.max(jnp.abs(images)) * found.condition


def without_gaps(space: KrylovSpace) -> jax.Array:
    """Return H with h_11 on the diagonal after a breakdown: f is then evaluated inside of the field of values only."""
    is_zero = jnp.append(False, jnp.diagonal(space.matrix, -1) == 0)
    return space.matrix + jnp.diag(jnp.where(jnp.cumsum(is_zero) > 0, space.matrix[0, 0], 0))
