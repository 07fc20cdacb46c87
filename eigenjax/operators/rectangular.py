"""Rectangular linear maps: A from vectors of one structure to vectors of another, and its adjoint.

A map is a registered pytree, as the operators of `base` are: its arrays are leaves and its functions static. The
adjoint of a plain function is its transpose, which JAX derives, between two conjugations:

    A^H u = conj(A^T conj(u))
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax import tree
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.closure import TracedFunction, hoist
from eigenjax.operators.convert import describe_all, floating, is_jax_sparse, matrix_of, refuse_stream
from eigenjax.operators.convolutions import fast_in_loops
from eigenjax.tree import PyTree


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
        return _conjugated(transposed(_conjugated(vector))[0])

    def transposed(self) -> "RectangularOperator":
        """A^H, which is A^T of a real map."""
        return AdjointMap(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, n): how many numbers the vectors hold that A gives, and those that it takes."""
        return tree.size(self.codomain), tree.size(self.domain)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
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
@dataclasses.dataclass(frozen=True, eq=False)
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
@dataclasses.dataclass(frozen=True, eq=False)
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
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
@dataclasses.dataclass(frozen=True, eq=False)
class Dilation(LinearOperator):
    """The Hermitian [[0, A], [A^H, 0]] on pairs (u, v), whose eigenvalues are plus and minus the singular values.

    For a triplet (u, s, v) its residual is that of both equations: (||A v - s u||^2 + ||A^H u - s v||^2)^(1/2).
    """

    inner: RectangularOperator

    @property
    def structure(self) -> PyTree:
        """Pairs of a vector that A gives and one that it takes."""
        return self.inner.codomain, self.inner.domain

    def mv(self, vector: PyTree) -> PyTree:
        """(A v, A^H u)."""
        u, v = vector
        return tree.cast_like((matvec(self.inner, v), adjoint_matvec(self.inner, u)), self.structure)


@jax.jit
def matvec(op: RectangularOperator, vector: PyTree) -> PyTree:
    """A v for a vector held in the working dtypes; all products go through here, so that they are traced once."""
    image = fast_in_loops(op.mv)(tree.cast_like(vector, op.domain))
    return tree.cast_like(image, tree.working_structure(op.codomain))


@jax.jit
def adjoint_matvec(op: RectangularOperator, vector: PyTree) -> PyTree:
    """A^H u, likewise."""
    image = fast_in_loops(op.adjoint_mv)(tree.cast_like(vector, op.codomain))
    return tree.cast_like(image, tree.working_structure(op.domain))


def as_rectangular(a: Any, like: PyTree = None, adjoint: Callable | None = None) -> RectangularOperator:
    """Whatever stands for a linear map, as a `RectangularOperator`.

    Args:
        a: a `RectangularOperator` (returned as it is), a `LinearOperator`, a (p, n) array, a sparse matrix of
            `jax.experimental.sparse`, or a callable v -> A v. A callable may close over arrays and tracers: they
            become leaves, and gradients flow to them.
        like: for a callable, the vectors it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        adjoint: for a callable, u -> A^H u; None derives it by `jax.linear_transpose`.

    Returns:
        The map.

    Raises:
        TypeError: if `a` is none of these, or needs `like`; if JAX cannot transpose it and there is no `adjoint`; if
            the vectors on one side only are complex.
        ValueError: if a matrix is not two-dimensional, or the adjoint's result is not shaped like the vectors of A.

    Cost: a callable is traced once; nothing is computed.

    Example:
        >>> differences = as_rectangular(lambda v: v[1:] - v[:-1], like=jax.ShapeDtypeStruct((4,), jnp.float32))
        >>> print(differences.shape, differences.adjoint_mv(jnp.ones(3)))
        (3, 4) [-1.  0.  0.  1.]
    """
    is_function = callable(a) and not isinstance(a, LinearOperator | RectangularOperator)
    if adjoint is not None and not is_function:
        raise TypeError(
            f"adjoint= goes with a callable v -> A v; {type(a).__name__} has an adjoint of its own, so leave it out"
        )
    refuse_stream(a)
    if isinstance(a, RectangularOperator):
        return a
    if isinstance(a, LinearOperator):
        return _checked(SquareMap(a))
    if isinstance(a, jax.Array | np.ndarray | list | tuple) or is_jax_sparse(a):
        return _from_matrix(a if is_jax_sparse(a) else floating(matrix_of(a)))
    if not is_function:
        raise TypeError(
            "expected a (p, n) array, a sparse matrix of jax.experimental.sparse, an operator or a callable v -> A v, "
            f"and got {type(a).__name__}"
        )
    if like is None:
        raise TypeError(
            "a callable says nothing of the vectors that it takes: pass v0= to the solver (or like=), a pytree of "
            "arrays shaped as they are"
        )
    return _from_function(a, describe_all(like), adjoint)


def _from_matrix(matrix: Any) -> MatrixMap:
    shape = tuple(matrix.shape)
    if len(shape) > 2:
        raise ValueError(f"a batch of matrices, shape {shape}: use jax.vmap over the leading axes")
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"expected a matrix (p, n) that is not empty, and got the shape {shape}: give an operator of two axes"
        )
    return MatrixMap(matrix)


def _from_function(function: Callable, domain: PyTree, adjoint: Callable | None) -> RectangularOperator:
    traced, constants = _shared(function, domain)
    traced_adjoint, adjoint_constants = None, []
    if adjoint is not None:
        traced_adjoint, adjoint_constants = _shared(adjoint, traced.result_structure)
        check_vector(traced_adjoint.result_structure, domain, name="the result of adjoint")
    leaves, treedef = jax.tree.flatten(domain)
    return _checked(FunctionMap(constants, adjoint_constants, traced, traced_adjoint, tuple(leaves), treedef))


def _shared(function: Callable, example: PyTree) -> tuple[TracedFunction, list[jax.Array]]:
    traced, constants = hoist(function, example)
    return traced.shared(), constants


def _checked(op: RectangularOperator) -> RectangularOperator:
    """The map, if it has an adjoint."""
    is_complex = [jnp.issubdtype(tree.accumulation_dtype(x), jnp.complexfloating) for x in (op.domain, op.codomain)]
    if is_complex[0] != is_complex[1]:
        raise TypeError(
            "A takes real vectors and gives complex ones, or the reverse: such a map has no adjoint over the complex "
            "numbers; make both complex, or split real and imaginary parts into two real leaves"
        )
    try:
        jax.eval_shape(op.adjoint_mv, op.codomain)
    except NotImplementedError as error:
        raise TypeError(
            f"the adjoint cannot be derived ({error}): the callable is not linear, or JAX does not know the transpose "
            "of an operation in it; pass adjoint=, the function u -> A^H u"
        ) from error
    return op


def _conjugated(vector: PyTree) -> PyTree:
    return jax.tree.map(jnp.conj, vector)
