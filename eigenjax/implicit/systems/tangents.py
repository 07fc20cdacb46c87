"""Derivatives with respect to an operator: dA X for a tangent, and the cotangent of A, without forming dA or W X^H."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import MatrixOperator
from eigenjax.operators.packed import PackedMap, PackedOperator, without_packing
from eigenjax.vectors import placement
from eigenjax.vectors.tree import PyTree


def is_zero(leaf: Any) -> bool:
    """Return True if a tangent or cotangent is a symbolic zero, known when the program is built."""
    return isinstance(leaf, SymbolicZero)


def all_zero(leaves: PyTree) -> bool:
    """Return True if all leaves are symbolic zeros."""
    return all(is_zero(leaf) for leaf in jax.tree.leaves(leaves, is_leaf=is_zero))


def image_tangent(op: LinearOperator, op_dot: Any, vectors: PyTree) -> PyTree | None:
    """Compute the k vectors dA x_i for a tangent of the operator; None if it is zero. Cost: k matvecs, linearized."""
    return tangent_along(lambda op: _images(symmetrized(op), vectors), op, op_dot)


def tangent_along(function: Callable[[Any], PyTree], op: Any, op_dot: Any) -> PyTree | None:
    """Compute the derivative of a function of an operator along a tangent of the operator; None if that is zero."""
    leaves, treedef = jax.tree.flatten(op)
    tangents = jax.tree.leaves(op_dot, is_leaf=is_zero)
    moving = [i for i, tangent in enumerate(tangents) if not is_zero(tangent) and _is_inexact(leaves[i])]
    if not moving:
        return None

    def of_moving(*moved):
        all_leaves = list(leaves)
        for i, leaf in zip(moving, moved, strict=True):
            all_leaves[i] = leaf
        return function(jax.tree.unflatten(treedef, all_leaves))

    _, tangent = jax.jvp(of_moving, tuple(leaves[i] for i in moving), tuple(tangents[i] for i in moving))
    return tangent


def no_tangent(x: jax.Array) -> Any:
    """Return the zero tangent of an array of any dtype."""
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else np.zeros(x.shape, jax.dtypes.float0)


def pull_back(multiply: Callable[[Any, PyTree], PyTree], op: Any, vectors: PyTree, weights: PyTree) -> Any:
    """Compute the cotangent of the operator: pull the weights of the images A x_i back to its leaves.

    Cost: k matvecs and their transpose.

    Args:
        multiply: (A, x) -> A x.
        op: A, an operator or a rectangular map.
        vectors: the k vectors x_i.
        weights: the k cotangents of A x_i.
    """
    if isinstance(op, PackedOperator | PackedMap):
        # Packing is linear and its transpose is known: many leaves take less to compile without it.
        return dataclasses.replace(op, inner=pull_back(multiply, *without_packing(op, vectors, weights)))
    return jax.vjp(lambda op: jax.vmap(functools.partial(multiply, op))(vectors), op)[1](weights)[0]


def symmetric_cotangent(op: LinearOperator, vectors: PyTree, weights: PyTree) -> LinearOperator:
    """Compute the cotangent of a symmetric operator from the k weights w_i of A x_i; `pull_back` states the cost.

    A matrix is a symmetric operator: its cotangent is the Hermitian part, as in jnp.linalg.eigh.
    """
    op_bar = pull_back(matvec, op, vectors, weights)
    # A loss that gathers its parameters (FSDP) would leave whole cotangents on every device.
    place = lambda x, like: placement.placed_like(x, like) if _is_inexact(like) else x
    return symmetrized(jax.tree.map(place, op_bar, op))


def _images(op: LinearOperator, vectors: PyTree) -> PyTree:
    return jax.vmap(functools.partial(matvec, op))(vectors)


def symmetrized(op: LinearOperator) -> LinearOperator:
    """Replace every matrix in an operator or a cotangent by its Hermitian part: it varies in symmetric directions."""
    return jax.tree.map(_hermitian_part, op, is_leaf=lambda part: isinstance(part, MatrixOperator))


def _hermitian_part(part: Any) -> Any:
    if isinstance(part, MatrixOperator) and isinstance(part.matrix, jax.Array):
        return MatrixOperator((part.matrix + jnp.conj(part.matrix).T) / 2)
    return part


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
