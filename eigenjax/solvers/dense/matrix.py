"""Entries of an operator: those of a matrix as they are, those of other operators by one matvec for each column."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.complexified import is_real
from eigenjax.operators.convert import MatrixOperator
from eigenjax.operators.inspection import columns_of
from eigenjax.operators.maps import MatrixMap, RectangularOperator, SquareMap
from eigenjax.operators.rectangular import adjoint_matvec
from eigenjax.operators.rectangular import matvec as apply
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide


class Entries(NamedTuple):
    """Matrix of an operator."""

    matrix: jax.Array  # (n, n), or (p, n), in the dtype in which scalars are accumulated
    num_matvecs: int  # number of matvecs that it took


def is_matrix(op: LinearOperator | RectangularOperator) -> bool:
    """Return whether the entries of an operator are known: it is a dense or sparse matrix."""
    return _stored(op) is not None


def entries(op: LinearOperator) -> Entries:
    """Compute the entries of a square operator, at n matvecs if it is no matrix."""
    dtype = _dtype(op.structure)
    stored = _stored(op)
    if stored is not None:
        return Entries(_dense(stored, dtype), 0)
    return Entries(columns_of(functools.partial(matvec, op), op.structure, dtype).T, op.size)


def rectangular_entries(op: RectangularOperator) -> Entries:
    """Compute the entries of a rectangular operator, at min(p, n) matvecs with A or A^H if it is no matrix."""
    dtype = _dtype((op.codomain, op.domain))
    stored = _stored(op)
    if stored is not None:
        return Entries(_dense(stored, dtype), 0)
    p, n = op.shape
    if n <= p:
        return Entries(columns_of(functools.partial(apply, op), op.domain, dtype).T, n)
    return Entries(jnp.conj(columns_of(functools.partial(adjoint_matvec, op), op.codomain, dtype)), p)


def largest_entry(x: jax.Array) -> jax.Array:
    """Return the largest modulus of an entry, (); NaN if one is NaN."""
    return jnp.max(jnp.abs(x))


def column_norms(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Compute the norms of the columns of a matrix.

    Args:
        x: (n, k).
        scale: () size of its entries; they are divided by it, so that squares neither overflow nor underflow.
    """
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    squares = functools.reduce(jnp.add, [jnp.square(safe_divide(part, scale, otherwise=0)) for part in parts])
    return scale * jnp.sqrt(jnp.sum(squares, axis=0))


def _stored(op: LinearOperator | RectangularOperator) -> Any:
    """Return the dense or sparse matrix that an operator holds, or None."""
    if isinstance(op, SquareMap):
        return _stored(op.operator)
    return op.matrix if isinstance(op, MatrixOperator | MatrixMap) else None


def _dense(matrix: Any, dtype: jnp.dtype) -> jax.Array:
    return (matrix if isinstance(matrix, jax.Array) else matrix.todense()).astype(dtype)


def _dtype(structure: Any) -> jnp.dtype:
    is_real(structure)  # refuses real and complex leaves at once
    return tree.accumulation_dtype(structure)
