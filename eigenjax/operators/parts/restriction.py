"""The block of an operator on a part of its vectors.

With P the coordinates of the part, the block is P^T A P: a vector is padded with zeros, and what A makes outside the
part is dropped. An operator that knows its varying parameters from its constant ones makes the others constants
instead, and is not asked for products with zeros.
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
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RestrictedOperator(LinearOperator):
    """P^T A P for the leaves kept; the others of its vectors are None."""

    inner: LinearOperator
    kept: tuple[bool, ...] = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """That of A, with None in place of what is left out."""
        return split(self.inner.structure, self.kept)[0]

    def mv(self, vector: PyTree) -> PyTree:
        """A product with the vector padded, of which a part is kept."""
        outside = split(self.inner.structure, self.kept)[1]
        return split(self.inner.mv(merge(vector, jax.tree.map(zeros, outside))), self.kept)[0]


@explained
def restrict(op: Any, select: Select, *, like: PyTree = None) -> LinearOperator:
    """The block of an operator on the leaves selected.

        B = P^T A P,    for a Hessian the second derivative in these parameters, the others constant

    Args:
        op: A, whatever `as_operator` takes.
        select: which leaves of its vectors: a function `select(path, leaf) -> bool`, a string such as "*/kernel",
            a compiled regular expression or a list of these, as of `hessian(select=)`.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The block, on vectors that have None in place of the others. Its eigenvalues lie between the extreme ones of
        A (Cauchy); couplings to the other leaves are left out.

    Raises:
        ValueError: if nothing is selected, or a pattern matches nothing; lists the leaves.
        TypeError: if `select` is nothing that selects, or `op` needs more than itself to be an operator.

    Cost: of curvature, and of sums, multiples and shifts of it, a product is one in the parameters selected; of any
    other operator it is a product with all of A.

    Example:
        >>> import eigenjax
        >>> loss = lambda p: p["a"] ** 2 * p["b"]
        >>> block = restrict(eigenjax.hessian(loss, {"a": jnp.ones(()), "b": jnp.ones(())}), "a")
        >>> print(block.structure["b"], eigenjax.to_dense(block))
        None [[2.]]
    """
    op = as_operator(op, like=like)
    kept = chosen(op.structure, select)
    if not any(kept):
        raise ValueError("select: no leaf of the operator's vectors is selected")
    return block(op, kept)


def block(op: LinearOperator, kept: Sequence[bool]) -> LinearOperator:
    """The block on the leaves for which the truth value holds, in order."""
    return op if all(kept) else _block(op, tuple(kept))


@functools.singledispatch
def _block(op: LinearOperator, kept: tuple[bool, ...]) -> LinearOperator:
    fields = {field.name for field in dataclasses.fields(op)} if dataclasses.is_dataclass(op) else set()
    if not {"varying", "constant"} <= fields:
        return RestrictedOperator(op, kept)
    varying, fixed = split(op.varying, kept)  # type: ignore[attr-defined]
    return dataclasses.replace(op, varying=varying, constant=merge(fixed, op.constant))  # type: ignore[attr-defined, type-var]


@_block.register
def _(op: SumOperator, kept: tuple[bool, ...]) -> LinearOperator:
    return _block(op.left, kept) + _block(op.right, kept)


@_block.register
def _(op: ScaledOperator, kept: tuple[bool, ...]) -> LinearOperator:
    return dataclasses.replace(op, inner=_block(op.inner, kept))


@_block.register
def _(op: ShiftedOperator, kept: tuple[bool, ...]) -> LinearOperator:
    return dataclasses.replace(op, inner=_block(op.inner, kept))


@_block.register
def _(op: PreconditionedOperator, kept: tuple[bool, ...]) -> LinearOperator:
    return PreconditionedOperator(_block(op.inner, kept), split(op.diagonal, kept)[0])


@_block.register
def _(op: DiagonalOperator, kept: tuple[bool, ...]) -> LinearOperator:
    return diagonal_operator(split(op.diagonal, kept)[0], like=split(op.structure, kept)[0])


@_block.register
def _(op: RestrictedOperator, kept: tuple[bool, ...]) -> LinearOperator:
    # A block of a block: of the leaves kept before, those that are kept still.
    remaining = iter(kept)
    return _block(op.inner, tuple(before and next(remaining) for before in op.kept))


def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Zeros of a leaf, sharded as it is on a mesh with Explicit axes."""
    zero = jnp.zeros((), leaf.dtype)
    return jax.lax.broadcast_in_dim(zero, leaf.shape, (), out_sharding=tree.explicit_sharding(leaf))
