"""Block of an operator on some leaves of its vectors.

With P the embedding of these leaves, the block is P^T A P: a vector is padded with zeros, and the other entries of the
result are dropped. A curvature operator with varying and constant parameters makes the other parameters constant
instead, which avoids work on the zeros.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, ScaledOperator, ShiftedOperator, SumOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.parts.precondition import DiagonalOperator, PreconditionedOperator, diagonal_operator
from eigenjax.operators.parts.selection import Select, chosen, merge, split
from eigenjax.vectors import placement
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RestrictedOperator(LinearOperator):
    """Block P^T A P for the selected leaves; the other leaves of its vectors are None."""

    inner: LinearOperator
    mask: tuple[bool, ...] = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A, with None in place of the leaves left out."""
        return split(self.inner.structure, self.mask)[0]

    def mv(self, vector: PyTree) -> PyTree:
        """Compute P^T A P v: pad the vector with zeros, multiply by A and select the leaves."""
        outside = split(self.inner.structure, self.mask)[1]
        return split(self.inner.mv(merge(vector, jax.tree.map(zeros, outside))), self.mask)[0]


@explained
def restrict(op: Any, select: Select, *, like: PyTree = None) -> LinearOperator:
    """Return the block of an operator on the selected leaves.

        B = P^T A P,    for a Hessian the second derivative in these parameters, the others constant

    Args:
        op: A; an operator, matrix or callable, anything that `as_operator` accepts.
        select: the leaves of the vectors to select. A function `select(path, leaf) -> bool` of JAX's key path; a string
            that the leaf's whole path must match, such as "*/kernel" (* stands for any characters); a compiled regular
            expression, searched for in the path; or a list of these.
        like: for a bare callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The block, on vectors that have None in place of the other leaves. Its eigenvalues lie between the extreme ones
        of A (Cauchy interlacing); couplings to the other leaves are left out.

    Raises:
        ValueError: if nothing is selected, or a pattern matches nothing; lists the leaves.
        TypeError: if `select` is none of these types, or `op` needs `like`.

    Cost: for curvature operators, their sums, multiples and shifts, one matvec in the selected parameters; for any
    other operator one matvec of the whole A.

    Example:
        >>> import eigenjax
        >>> loss = lambda p: p["a"] ** 2 * p["b"]
        >>> block = restrict(eigenjax.hessian(loss, {"a": jnp.ones(()), "b": jnp.ones(())}), "a")
        >>> print(block.structure["b"], eigenjax.to_dense(block))
        None [[2.]]
    """
    op = as_operator(op, like=like)
    mask = chosen(op.structure, select)
    if not any(mask):
        raise ValueError("select: no leaf of the operator's vectors is selected")
    return block(op, mask)


def block(op: LinearOperator, mask: Sequence[bool]) -> LinearOperator:
    """Return the block on the leaves whose flag is True, in the order of the leaves."""
    return op if all(mask) else _block(op, tuple(mask))


@functools.singledispatch
def _block(op: LinearOperator, mask: tuple[bool, ...]) -> LinearOperator:
    fields = {field.name for field in dataclasses.fields(op)} if dataclasses.is_dataclass(op) else set()
    if not {"varying", "constant"} <= fields:
        return RestrictedOperator(op, mask)
    varying, fixed = split(op.varying, mask)  # type: ignore[attr-defined]
    return dataclasses.replace(op, varying=varying, constant=merge(fixed, op.constant))  # type: ignore[attr-defined, type-var]


@_block.register
def _(op: SumOperator, mask: tuple[bool, ...]) -> LinearOperator:
    return _block(op.left, mask) + _block(op.right, mask)


@_block.register
def _(op: ScaledOperator, mask: tuple[bool, ...]) -> LinearOperator:
    return dataclasses.replace(op, inner=_block(op.inner, mask))


@_block.register
def _(op: ShiftedOperator, mask: tuple[bool, ...]) -> LinearOperator:
    return dataclasses.replace(op, inner=_block(op.inner, mask))


@_block.register
def _(op: PreconditionedOperator, mask: tuple[bool, ...]) -> LinearOperator:
    return PreconditionedOperator(_block(op.inner, mask), split(op.diagonal, mask)[0])


@_block.register
def _(op: DiagonalOperator, mask: tuple[bool, ...]) -> LinearOperator:
    return diagonal_operator(split(op.diagonal, mask)[0], like=split(op.structure, mask)[0])


@_block.register
def _(op: RestrictedOperator, mask: tuple[bool, ...]) -> LinearOperator:
    # Block of a block: `mask` has one flag for each leaf that op.mask selects.
    remaining = iter(mask)
    return _block(op.inner, tuple(before and next(remaining) for before in op.mask))


def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Return zeros of a leaf, with its sharding on a mesh with Explicit axes."""
    zero = jnp.zeros((), leaf.dtype)
    return jax.lax.broadcast_in_dim(zero, leaf.shape, (), out_sharding=placement.explicit_sharding(leaf))
