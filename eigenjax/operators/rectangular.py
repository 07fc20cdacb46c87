"""Rectangular linear maps: A between vectors of two structures, and its adjoint."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.convert import describe_all, own_structure, refuse_stream
from eigenjax.operators.functions.closure import TracedFunction, hoist
from eigenjax.operators.functions.convolutions import fast_in_loops
from eigenjax.operators.host import HostProduct, is_scipy_operator
from eigenjax.operators.maps import FunctionMap, HostMap, MatrixMap, RectangularOperator, SquareMap
from eigenjax.operators.matrices import as_matrix, is_matrix
from eigenjax.vectors import tree
from eigenjax.vectors.placement import refuse_float64_on_tpu
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dilation(LinearOperator):
    """Hermitian operator [[0, A], [A^H, 0]] on pairs (u, v); its eigenvalues are plus and minus the singular values.

    The residual of a triplet (u, s, v) is that of both equations: (||A v - s u||^2 + ||A^H u - s v||^2)^(1/2).
    """

    inner: RectangularOperator

    @property
    def structure(self) -> PyTree:
        """Structure of the pairs (u, v): an output vector of A and an input vector of A."""
        return self.inner.codomain, self.inner.domain

    def mv(self, vector: PyTree) -> PyTree:
        """Compute (A v, A^H u)."""
        u, v = vector
        return tree.cast_like((matvec(self.inner, v), adjoint_matvec(self.inner, u)), self.structure)


@jax.jit
def matvec(op: RectangularOperator, vector: PyTree) -> PyTree:
    """Compute A v for a vector in the working dtypes; all solvers call this function, so that A is traced once."""
    image = fast_in_loops(op.mv)(tree.cast_like(vector, op.domain))
    return tree.cast_like(image, tree.working_structure(op.codomain))


@jax.jit
def adjoint_matvec(op: RectangularOperator, vector: PyTree) -> PyTree:
    """Compute A^H u for a vector in the working dtypes; all solvers call this function, so that A^H is traced once."""
    image = fast_in_loops(op.adjoint_mv)(tree.cast_like(vector, op.codomain))
    return tree.cast_like(image, tree.working_structure(op.domain))


def as_rectangular(a: Any, like: PyTree = None, adjoint: Callable | None = None) -> RectangularOperator:
    """Convert a matrix, operator or callable to a `RectangularOperator`.

    Args:
        a: a `RectangularOperator` (returned unchanged), a `LinearOperator`, a (p, n) array or nested lists (integers
            become floats), or a sparse matrix of `jax.experimental.sparse` or of SciPy. Also an object with a method
            `.mv` such as a lineax operator, a callable v -> A v, or a SciPy `LinearOperator` with `rmatvec`. A
            callable may close over arrays and tracers: they become leaves, and gradients flow to them.
        like: for a callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        adjoint: for a callable, u -> A^H u; None derives it by `jax.linear_transpose`.

    Returns:
        The map.

    Raises:
        TypeError: if `a` is none of these, or needs `like`; if JAX cannot transpose it and there is no `adjoint`; if
            only the input or only the output vectors are complex.
        ValueError: if a matrix is not two-dimensional, or the result of `adjoint` differs in shape from the input of A.

    Cost: a callable is traced once; nothing is computed.

    Example:
        >>> differences = as_rectangular(lambda v: v[1:] - v[:-1], like=jax.ShapeDtypeStruct((4,), jnp.float32))
        >>> print(differences.shape, differences.adjoint_mv(jnp.ones(3)))
        (3, 4) [-1.  0.  0.  1.]
    """
    op = _converted(a, like, adjoint)
    refuse_float64_on_tpu((op.codomain, op.domain))
    return op


def _converted(a: Any, like: PyTree, adjoint: Callable | None) -> RectangularOperator:
    is_known = isinstance(a, LinearOperator | RectangularOperator) or is_matrix(a) or is_scipy_operator(a)
    is_function = not is_known and (callable(a) or hasattr(a, "mv"))
    if adjoint is not None and not is_function:
        raise TypeError(
            f"adjoint= goes with a callable v -> A v; {type(a).__name__} has an adjoint of its own, so leave it out"
        )
    refuse_stream(a)
    if isinstance(a, RectangularOperator):
        return a
    if isinstance(a, LinearOperator):
        return _checked(SquareMap(a))
    if is_matrix(a):
        return _from_matrix(as_matrix(a))
    if is_scipy_operator(a):
        return HostMap(HostProduct(a))
    if not is_function:
        raise TypeError(
            "expected a (p, n) array, a sparse matrix of jax.experimental.sparse or SciPy, an operator or a callable "
            f"v -> A v, and got {type(a).__name__}"
        )
    mv: Any = getattr(a, "mv", a)
    if hasattr(a, "mv") and like is None:
        like = own_structure(a)
    if like is None:
        raise TypeError(
            "the operator is a callable, which says nothing of its vectors: pass v0= to the solver (or like=), a "
            "pytree of arrays shaped as they are"
        )
    return _from_function(mv, describe_all(like), adjoint)


def _from_matrix(matrix: Any) -> MatrixMap:
    shape = tuple(matrix.shape)
    if len(shape) > 2:
        raise ValueError(f"the operator is a batch of matrices, shape {shape}: use jax.vmap over the leading axes")
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
    """Return the map after checking that it has an adjoint."""
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
