"""Krylov space of any operator, by the Arnoldi method.

From w = beta v_1, m steps give an orthonormal basis V_m and a Hessenberg matrix H with

    A V_m = V_m H + h v_(m+1) e_m^T
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import breakdown_length, normalize, orthogonalize
from eigenjax.vectors.tree import PyTree


class KrylovSpace(NamedTuple):
    """Orthonormal basis and projected operator; rows and columns after a breakdown are zero."""

    basis: PyTree  # (m, ...) V
    matrix: jax.Array  # (m, m) H
    coupling: jax.Array  # () h, zero if the space is invariant
    length: jax.Array  # () beta, the norm of the start vector


def krylov_space(op: LinearOperator, start: PyTree, krylov_dim: int) -> KrylovSpace:
    """Build a Krylov space from a start vector in the working dtypes; cost: m matvecs, m + 3 vectors."""
    length = tree.norm(start)
    basis = tree.set_row(tree.zero_basis(start, krylov_dim), 0, normalize(start, length))
    dtype = tree.accumulation_dtype(start)

    def column(j, carry):
        basis, matrix, largest, _ = carry
        image = matvec(op, tree.row(basis, j))
        largest = jnp.maximum(largest, tree.norm(image))
        rest = orthogonalize(basis, image)
        is_nothing = rest.norm <= breakdown_length(largest)
        unit = normalize(rest.vector, rest.norm)
        unit = tree.where(is_nothing, jax.tree.map(jnp.zeros_like, unit), unit)
        coupling = jnp.where(is_nothing, 0, rest.norm)
        # The last vector, with index m, is outside of the basis, and its norm is the coupling.
        is_last = j == krylov_dim - 1
        basis = tree.set_row(basis, j + 1, tree.where(is_last, tree.row(basis, j), unit))
        matrix = matrix.at[:, j].set(rest.coefficients.astype(dtype))
        matrix = matrix.at[jnp.where(is_last, krylov_dim, j + 1), j].set(coupling.astype(dtype), mode="drop")
        return basis, matrix, largest, coupling

    zero = jnp.zeros((), length.dtype)
    first = (basis, jnp.zeros((krylov_dim, krylov_dim), dtype), zero, zero)
    basis, matrix, _, coupling = jax.lax.fori_loop(0, krylov_dim, column, first)
    return KrylovSpace(basis, matrix, coupling, length)
