"""The kinds of rectangular linear maps.

A map is a registered pytree, as the operators of `base` are: its arrays are leaves and its functions static. The
adjoint of a plain function is its transpose, which JAX derives, between two conjugations:

    A^H u = conj(A^T conj(u))
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, check_vector, conjugated
from eigenjax.operators.functions.closure import TracedFunction
from eigenjax.operators.host import HostProduct
from eigenjax.operators.summary import structure_summary, summary
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


class RectangularOperator:
    """A linear map A between two spaces of pytrees; subclasses give what raises an error here.

    To write one: a frozen dataclass registered with `jax.tree_util.register_dataclass`.
    """

    @property
    def domain(self) -> PyTree:
        """The vectors that A takes, as a pytree of `jax.ShapeDtypeStruct`."""
        raise NotImplementedError

    @property
    def codomain(self) -> PyTree:
        """The vectors that A gives."""
        raise NotImplementedError

    def mv(self, vector: PyTree) -> PyTree:
        """A v."""
        raise NotImplementedError

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """A^H u; the transpose of `mv`, unless a subclass knows better."""
        transposed = jax.linear_transpose(self.mv, self.domain)
        return conjugated(transposed(conjugated(vector))[0])

    @property
    def H(self) -> "RectangularOperator":  # noqa: N802
        """A^H, the adjoint."""
        return self.transposed()

    @property
    def T(self) -> "RectangularOperator":  # noqa: N802
        """A^T, the transpose, without a conjugation."""
        return ConjugatedMap(self.transposed())

    def __matmul__(self, vector: PyTree) -> PyTree:
        """A v, of one vector."""
        check_vector(vector, self.domain)
        return self.mv(vector)

    def __repr__(self) -> str:
        """The class, the size and what it is made of, never the numbers."""
        sides = lambda: {"domain": structure_summary(self.domain), "codomain": structure_summary(self.codomain)}
        return summary(self, lambda: {"shape": self.shape, **sides()})

    def transposed(self) -> "RectangularOperator":
        """A^H, which is A^T of a real map."""
        return AdjointMap(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, n): how many numbers the vectors hold that A gives, and those that it takes."""
        return tree.size(self.codomain), tree.size(self.domain)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MatrixMap(RectangularOperator):
    """A dense (p, n) array, or a sparse one that jax can multiply, on flat vectors."""

    matrix: Any

    @property
    def domain(self) -> PyTree:
        """One flat leaf of n numbers."""
        return jax.ShapeDtypeStruct(self.matrix.shape[-1:], self.matrix.dtype)

    @property
    def codomain(self) -> PyTree:
        """One flat leaf of p numbers."""
        return jax.ShapeDtypeStruct(self.matrix.shape[-2:-1], self.matrix.dtype)

    def mv(self, vector: PyTree) -> PyTree:
        """A v; a dense product in the full precision of the dtype on every device."""
        if isinstance(self.matrix, jax.Array):
            return jnp.matmul(self.matrix, vector, precision=jax.lax.Precision.HIGHEST)
        return self.matrix @ vector

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """A^H u, without a transposed copy."""
        if isinstance(self.matrix, jax.Array):
            return jnp.conj(jnp.matmul(jnp.conj(vector), self.matrix, precision=jax.lax.Precision.HIGHEST))
        return super().adjoint_mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FunctionMap(RectangularOperator):
    """A plain function v -> A v and, if it was given, u -> A^H u; the arrays that they closed over are leaves."""

    constants: list[jax.Array]
    adjoint_constants: list[jax.Array]
    function: TracedFunction = dataclasses.field(metadata={"static": True})
    adjoint: TracedFunction | None = dataclasses.field(metadata={"static": True})
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def domain(self) -> PyTree:
        """That of the example it was traced with."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    @property
    def codomain(self) -> PyTree:
        """That of what it gave."""
        return tree.structure_of(self.function.result_structure)

    def mv(self, vector: PyTree) -> PyTree:
        """The function, as it was traced."""
        return self.function(self.constants, vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """The adjoint given, or the transpose of the trace."""
        return self.adjoint(self.adjoint_constants, vector) if self.adjoint else super().adjoint_mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SquareMap(RectangularOperator):
    """A `LinearOperator`, symmetric or not."""

    operator: LinearOperator

    @property
    def domain(self) -> PyTree:
        """That of the operator."""
        return self.operator.structure

    @property
    def codomain(self) -> PyTree:
        """The same."""
        return self.operator.structure

    def mv(self, vector: PyTree) -> PyTree:
        """A v."""
        return self.operator.mv(vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """A^H u."""
        return self.operator.adjoint_mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HostMap(RectangularOperator):
    """A SciPy LinearOperator, multiplied on the host."""

    product: HostProduct = dataclasses.field(metadata={"static": True})

    @property
    def domain(self) -> PyTree:
        """One flat leaf of n numbers."""
        return self.product.domain

    @property
    def codomain(self) -> PyTree:
        """One flat leaf of p numbers."""
        return self.product.codomain

    def mv(self, vector: PyTree) -> PyTree:
        """A v, by a call from the program to the host."""
        return self.product.matvec(vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """A^H u, likewise, by the operator's `rmatvec`."""
        return self.product.rmatvec(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AdjointMap(RectangularOperator):
    """A^H."""

    inner: RectangularOperator

    @property
    def domain(self) -> PyTree:
        """What A gives."""
        return self.inner.codomain

    @property
    def codomain(self) -> PyTree:
        """What A takes."""
        return self.inner.domain

    def mv(self, vector: PyTree) -> PyTree:
        """A^H u."""
        return self.inner.adjoint_mv(vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """A v."""
        return self.inner.mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConjugatedMap(RectangularOperator):
    """The entrywise conjugate of A."""

    inner: RectangularOperator

    @property
    def domain(self) -> PyTree:
        """That of A."""
        return self.inner.domain

    @property
    def codomain(self) -> PyTree:
        """That of A."""
        return self.inner.codomain

    def mv(self, vector: PyTree) -> PyTree:
        """The conjugate of A times the conjugate of v."""
        return conjugated(self.inner.mv(conjugated(vector)))

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """A^T u."""
        return conjugated(self.inner.adjoint_mv(conjugated(vector)))
