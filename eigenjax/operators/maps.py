"""Kinds of rectangular linear maps.

A map is a registered pytree like `LinearOperator`: its arrays are leaves and its functions static. The adjoint of a
plain function is the transpose that JAX derives, between two conjugations:

    A^H u = conj(A^T conj(u))
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, check_vector, conjugated
from eigenjax.operators.functions.closure import TracedFunction
from eigenjax.operators.host import HostProduct
from eigenjax.operators.sparse.padded import SparseMatrix
from eigenjax.operators.summary import structure_summary, summary
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


class RectangularOperator:
    """Linear map A between two spaces of pytrees; subclasses define `domain`, `codomain` and `mv`.

    To write a map, register a frozen dataclass with `jax.tree_util.register_dataclass`.
    """

    @property
    def domain(self) -> PyTree:
        """Structure of the input vectors v, as a pytree of `jax.ShapeDtypeStruct`."""
        raise NotImplementedError

    @property
    def codomain(self) -> PyTree:
        """Structure of the output vectors A v, as a pytree of `jax.ShapeDtypeStruct`."""
        raise NotImplementedError

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v."""
        raise NotImplementedError

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H u, by the transpose of `mv` unless a subclass overrides it."""
        transposed = jax.linear_transpose(self.mv, self.domain)
        return conjugated(transposed(conjugated(vector))[0])

    @property
    def H(self) -> "RectangularOperator":  # noqa: N802
        """Adjoint A^H."""
        return self.transposed()

    @property
    def T(self) -> "RectangularOperator":  # noqa: N802
        """Transpose A^T, without a conjugation."""
        return ConjugatedMap(self.transposed())

    def __matmul__(self, vector: PyTree) -> PyTree:
        """Compute A v for one vector."""
        check_vector(vector, self.domain)
        return self.mv(vector)

    def __repr__(self) -> str:
        """Describe the class, the size and the parts, without any array values."""
        sides = lambda: {"domain": structure_summary(self.domain), "codomain": structure_summary(self.codomain)}
        return summary(self, lambda: {"shape": self.shape, **sides()})

    def transposed(self) -> "RectangularOperator":
        """Return A^H, which equals A^T for a real map."""
        return AdjointMap(self)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (p, n): the number of entries of an output vector and of an input vector."""
        return tree.size(self.codomain), tree.size(self.domain)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MatrixMap(RectangularOperator):
    """Dense (p, n) array, or a sparse matrix that JAX can multiply, acting on flat vectors."""

    matrix: Any

    @property
    def domain(self) -> PyTree:
        """Structure of the input: one flat leaf of n numbers."""
        return jax.ShapeDtypeStruct(self.matrix.shape[-1:], self.matrix.dtype)

    @property
    def codomain(self) -> PyTree:
        """Structure of the output: one flat leaf of p numbers."""
        return jax.ShapeDtypeStruct(self.matrix.shape[-2:-1], self.matrix.dtype)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v; a dense product uses the full precision of the dtype on every device."""
        if isinstance(self.matrix, jax.Array):
            return jnp.matmul(self.matrix, vector, precision=jax.lax.Precision.HIGHEST)
        return self.matrix @ vector

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H u without a transposed copy of a dense matrix."""
        if isinstance(self.matrix, jax.Array):
            return jnp.conj(jnp.matmul(jnp.conj(vector), self.matrix, precision=jax.lax.Precision.HIGHEST))
        if isinstance(self.matrix, SparseMatrix):
            return jnp.conj(self.matrix.transposed_product(jnp.conj(vector)))
        return super().adjoint_mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FunctionMap(RectangularOperator):
    """Plain function v -> A v with an optional u -> A^H u; the arrays they close over are leaves."""

    constants: list[jax.Array]
    adjoint_constants: list[jax.Array]
    function: TracedFunction = dataclasses.field(metadata={"static": True})
    adjoint: TracedFunction | None = dataclasses.field(metadata={"static": True})
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def domain(self) -> PyTree:
        """Structure of the example vector used for tracing."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    @property
    def codomain(self) -> PyTree:
        """Structure of the traced function's result."""
        return tree.structure_of(self.function.result_structure)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v with the traced function."""
        return self.function(self.constants, vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H u with the given adjoint, or with the transpose of the traced function."""
        return self.adjoint(self.adjoint_constants, vector) if self.adjoint else super().adjoint_mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SquareMap(RectangularOperator):
    """Square map given by a `LinearOperator`, symmetric or not."""

    operator: LinearOperator

    @property
    def domain(self) -> PyTree:
        """Structure of the operator's vectors."""
        return self.operator.structure

    @property
    def codomain(self) -> PyTree:
        """Structure of the operator's vectors, equal to the domain."""
        return self.operator.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v."""
        return self.operator.mv(vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H u."""
        return self.operator.adjoint_mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HostMap(RectangularOperator):
    """Map given by a SciPy LinearOperator, whose matvecs run on the host."""

    product: HostProduct = dataclasses.field(metadata={"static": True})

    @property
    def domain(self) -> PyTree:
        """Structure of the input: one flat leaf of n numbers."""
        return self.product.domain

    @property
    def codomain(self) -> PyTree:
        """Structure of the output: one flat leaf of p numbers."""
        return self.product.codomain

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v by a callback to the host."""
        return self.product.matvec(vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H u by a callback to the operator's `rmatvec` on the host."""
        return self.product.rmatvec(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AdjointMap(RectangularOperator):
    """Adjoint A^H of a map."""

    inner: RectangularOperator

    @property
    def domain(self) -> PyTree:
        """Structure of the vectors A v."""
        return self.inner.codomain

    @property
    def codomain(self) -> PyTree:
        """Structure of the vectors v that A takes."""
        return self.inner.domain

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A^H u."""
        return self.inner.adjoint_mv(vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A v."""
        return self.inner.mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConjugatedMap(RectangularOperator):
    """Entrywise complex conjugate of A."""

    inner: RectangularOperator

    @property
    def domain(self) -> PyTree:
        """Structure of the input vectors of A."""
        return self.inner.domain

    @property
    def codomain(self) -> PyTree:
        """Structure of the output vectors of A."""
        return self.inner.codomain

    def mv(self, vector: PyTree) -> PyTree:
        """Compute conj(A conj(v))."""
        return conjugated(self.inner.mv(conjugated(vector)))

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^T u."""
        return conjugated(self.inner.adjoint_mv(conjugated(vector)))
