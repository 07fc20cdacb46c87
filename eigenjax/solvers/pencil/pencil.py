"""Pencil A x = lambda B x of two operators, with what is known of its inverse."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.arguments import brief
from eigenjax.calls import prefixed
from eigenjax.operators.base import LinearOperator, check_vector, matvec
from eigenjax.operators.complexified import ComplexifiedOperator, complex_structure
from eigenjax.operators.convert import MatrixOperator, operator_of
from eigenjax.operators.packed import PackedOperator, packed_operator
from eigenjax.vectors.tree import PyTree

_ROLES = {"b": "B", "inverse": "(A - sigma B)^-1"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pencil:
    """Pencil A x = lambda B x."""

    a: LinearOperator
    b: LinearOperator | None  # positive definite; None is the identity
    inverse: LinearOperator | None  # (A - s B)^-1; None if it is not known
    shift: jax.Array | None = None  # () s, with an inverse

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors x."""
        return self.a.structure

    @property
    def size(self) -> int:
        """Number n of entries of a vector."""
        return self.a.size


def pencil_of(a: LinearOperator, b: Any, inverse: Any) -> Pencil:
    """Build a pencil; b and inverse may be anything that `as_operator` takes.

    Raises:
        TypeError: if one of them is no operator.
        ValueError: if it does not act on the vectors of A.
    """
    return Pencil(a, partner(a, b, "b"), partner(a, inverse, "inverse"))


def packed_pencil(pencil: Pencil, *others: PyTree) -> Pencil:
    """Return the pencil on packed vectors, or unchanged like an operator by `packed_operator`."""
    a = packed_operator(pencil.a, pencil.b, pencil.inverse, *others)
    if not isinstance(a, PackedOperator):
        return pencil
    wrap = lambda op: None if op is None else PackedOperator(op, a.packing)
    return Pencil(a, wrap(pencil.b), wrap(pencil.inverse), pencil.shift)


def times_b(pencil: Pencil, vector: PyTree) -> PyTree:
    """Compute B x."""
    return vector if pencil.b is None else matvec(pencil.b, vector)


def all_times_a(pencil: Pencil, vectors: PyTree) -> PyTree:
    """Compute A x_i for k vectors, one after another in the memory of one."""
    return jax.lax.map(functools.partial(matvec, pencil.a), vectors)


def all_times_b(pencil: Pencil, vectors: PyTree) -> PyTree:
    """Compute B x_i for k vectors, one after another in the memory of one."""
    return vectors if pencil.b is None else jax.lax.map(functools.partial(matvec, pencil.b), vectors)


def partner(a: LinearOperator, given: Any, name: str) -> LinearOperator | None:
    """Convert b or inverse to an operator on the vectors of A; None stays None.

    Raises:
        TypeError: if it is no operator, or complex where A is real.
        ValueError: if it does not act on the vectors of A.
    """
    if given is None:
        return None
    with prefixed(f"{name}={brief(given)}: give {_ROLES[name]} as an operator, a matrix or a callable"):
        op = operator_of(given, a.structure)
    if isinstance(op, MatrixOperator) and isinstance(a.dtype, np.dtype) and op.dtype != a.dtype:
        # A real matrix may stand beside a complex one, and one of integers beside either.
        if jnp.iscomplexobj(op.matrix) and not jnp.issubdtype(a.dtype, jnp.complexfloating):
            raise TypeError(f"{name} is complex and the operator real: make the operator complex too")
        is_narrower = jnp.finfo(op.dtype).bits <= jnp.finfo(a.dtype).bits
        op = MatrixOperator(op.matrix.astype(a.dtype)) if is_narrower and isinstance(op.matrix, jax.Array) else op
    if op.structure != a.structure and complex_structure(op.structure) == a.structure:
        op = ComplexifiedOperator(op)
    check_vector(op.structure, a.structure, name=name)
    return op
