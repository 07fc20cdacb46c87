"""Operators that are self-adjoint in an inner product of their own, and the random vectors of all operators."""

import jax

from eigenjax.operators.base import LinearOperator
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_vector
from eigenjax.vectors.tree import PyTree


class MetricOperator(LinearOperator):
    """Operator that is self-adjoint in an inner product u^H B v; its vectors are `MetricVector`s.

    Subclasses define `structure`, `mv`, `refresh` and `random_start`.
    """

    # Matvecs that a random start vector takes.
    start_matvecs = 0

    @property
    def size(self) -> int:
        """Number n of entries of a vector, without those of B v."""
        return tree.size(self.structure.v)

    def refresh(self, vector: tree.MetricVector) -> tree.MetricVector:
        """Compute B v anew."""
        raise NotImplementedError

    def random_start(self, seed: jax.Array) -> tree.MetricVector:
        """Draw a pseudo-random vector v, and compute B v."""
        raise NotImplementedError


def random_start(op: LinearOperator, seed: jax.Array) -> PyTree:
    """Draw a pseudo-random vector of an operator, in working dtypes."""
    if isinstance(op, MetricOperator):
        return op.random_start(seed)
    return arbitrary_vector(seed, tree.working_structure(op.structure))


def refreshed(op: LinearOperator, rows: PyTree) -> PyTree:
    """Compute B v anew for several vectors of a `MetricOperator`; the vectors of others are returned unchanged."""
    return jax.vmap(op.refresh)(rows) if isinstance(op, MetricOperator) else rows
