"""Conversion of matrices, sparse matrices, objects with `.mv` and plain functions to operators."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.batching import as_arrays
from eigenjax.operators.functions.closure import TracedFunction, hoist
from eigenjax.operators.host import HostProduct, is_scipy_operator
from eigenjax.operators.matrices import as_matrix, is_matrix
from eigenjax.operators.sparse.padded import SparseMatrix
from eigenjax.vectors import tree
from eigenjax.vectors.placement import refuse_float64_on_tpu
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MatrixOperator(LinearOperator):
    """Dense (n, n) array, or a sparse matrix that JAX can multiply: v -> A @ v on flat vectors."""

    matrix: Any

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors: one flat leaf of n numbers."""
        return jax.ShapeDtypeStruct(self.matrix.shape[-1:], self.matrix.dtype)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v; a dense product uses the full precision of the dtype on every device."""
        if isinstance(self.matrix, jax.Array):
            return jnp.matmul(self.matrix, vector, precision=jax.lax.Precision.HIGHEST)
        return self.matrix @ vector

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H v; a large sparse matrix has its own product with A^T."""
        if isinstance(self.matrix, SparseMatrix):
            return jnp.conj(self.matrix.transposed_product(jnp.conj(vector)))
        return super().adjoint_mv(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FunctionOperator(LinearOperator):
    """Plain function v -> A v; the arrays that it closes over are leaves."""

    constants: list[jax.Array]
    function: TracedFunction = dataclasses.field(metadata={"static": True})
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the example vector used for tracing."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v with the traced function."""
        return self.function(self.constants, vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HostOperator(LinearOperator):
    """Square SciPy LinearOperator, whose matvecs run on the host."""

    product: HostProduct = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors: one flat leaf of n numbers."""
        return self.product.domain

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v by a callback to the host."""
        return self.product.matvec(vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H v by a callback to the operator's `rmatvec` on the host."""
        return self.product.rmatvec(vector)


@explained
def as_operator(a: Any, like: PyTree = None) -> LinearOperator:
    """Convert a square matrix, operator or callable to a `LinearOperator`.

    Args:
        a: a `LinearOperator` (returned unchanged), an (n, n) array or nested lists (integers become floats), or a
            sparse matrix of `jax.experimental.sparse` or SciPy. Also an object with `.mv` such as a lineax operator,
            a callable v -> A v such as an equinox module, or a SciPy `LinearOperator`. A callable is traced
            at once, so later changes of the values it reads have no effect. Arrays and tracers that it closes over
            become leaves, and gradients flow to them. A SciPy LinearOperator multiplies on the host, one vector after
            another, without derivatives. A sparse matrix of n > 500 is converted to padded rows, whose products are
            faster than SciPy's. That takes one or two seconds for 10^6 entries, so convert once if you solve often.
            It needs concrete indices: pass the operator through jit, not the matrix.
        like: for a callable or an object with `.mv`, the structure of its input: a pytree of arrays or of
            `jax.ShapeDtypeStruct`. Not needed otherwise.

    Returns:
        The operator.

    Raises:
        TypeError: if `a` is none of these, or needs `like`; if a result's dtype differs from its argument's.
        ValueError: if a matrix is not square, or a result is not shaped like its argument.

    Cost: a callable is traced once; nothing is computed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> op = as_operator(lambda v: 2 * v, like=jax.ShapeDtypeStruct((3,), jnp.float32))
        >>> print(op(jnp.ones(3)), op.size, op.dtype)
        [2. 2. 2.] 3 float32
    """
    return operator_of(a, like)


def operator_of(a: Any, like: PyTree) -> LinearOperator:
    """Convert a matrix, operator or callable to a `LinearOperator`, without the name of a function in its errors."""
    op = _converted(a, like)
    refuse_float64_on_tpu(op.structure)
    return op


def _converted(a: Any, like: PyTree) -> LinearOperator:
    if isinstance(a, LinearOperator):
        return a
    refuse_stream(a)
    if is_matrix(a):
        return _from_matrix(as_matrix(a))
    if is_scipy_operator(a):
        return _from_host(HostProduct(a))
    if hasattr(a, "domain") and hasattr(a, "codomain"):
        raise TypeError(f"{type(a).__name__} is a rectangular map: use svds, or an operator from vectors to their like")
    if hasattr(a, "mv"):
        structure = describe_all(like if like is not None else own_structure(a))
        return _from_function(a.mv, structure)
    if callable(a):
        if like is None:
            raise TypeError(
                "a callable operator says nothing of its vectors: pass like= (or v0= to a solver), a pytree of arrays "
                "or of jax.ShapeDtypeStruct"
            )
        return _from_function(a, describe_all(like))
    raise TypeError(
        "expected an operator, an (n, n) array, a sparse matrix of jax.experimental.sparse or SciPy, an object with "
        f".mv or a callable, and got {type(a).__name__}"
    )


def refuse_stream(a: Any) -> None:
    """Raise a TypeError with the object's `no_operator` message, if it has one: it is an operator on the host only."""
    refusal = getattr(a, "no_operator", None)
    if isinstance(refusal, str):
        raise TypeError(refusal)


def _from_matrix(matrix: Any) -> MatrixOperator:
    shape = tuple(matrix.shape)
    if len(shape) > 2:
        raise ValueError(f"the operator is a batch of matrices, shape {shape}: use jax.vmap over the leading axes")
    if len(shape) != 2 or shape[0] != shape[1] or 0 in shape:
        raise ValueError(
            f"the operator must be a square matrix (n, n) with n > 0, and got the shape {shape}: svds takes "
            "rectangular ones"
        )
    return MatrixOperator(matrix)


def _from_host(product: HostProduct) -> HostOperator:
    rows, columns = product.operator.shape
    if rows != columns:
        raise ValueError(f"the operator must be square (n, n), and got the shape {(rows, columns)}: svds takes it")
    return HostOperator(product)


def _from_function(function: Callable, structure: PyTree) -> FunctionOperator:
    traced, constants = hoist(function, structure)
    _check_real(traced.result_structure, structure)
    check_vector(traced.result_structure, structure, name="the callable's result")
    leaves, treedef = jax.tree.flatten(structure)
    return FunctionOperator(constants, traced.shared(), tuple(leaves), treedef)


def _check_real(result: PyTree, structure: PyTree) -> None:
    """Raise a TypeError if the callable maps real vectors to complex ones."""
    if _is_complex(result) and not _is_complex(structure):
        raise TypeError(
            "the callable gives complex numbers for real vectors: pass a complex v0 (or like=), such as "
            "v0.astype(jnp.complex64)"
        )


def _is_complex(structure: PyTree) -> bool:
    return any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(structure))


def describe_all(like: PyTree) -> PyTree:
    """Return the structure of an example vector; raise a TypeError unless all leaves are floating-point or complex."""
    arrays = as_arrays(like, "like")
    for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"like{jax.tree_util.keystr(path)} has dtype {leaf.dtype}: vectors hold floating-point or complex "
                "numbers; give shapes as jax.ShapeDtypeStruct(shape, dtype)"
            )
    return tree.structure_of(arrays)


def own_structure(a: Any) -> PyTree:
    """Return the input structure that an object with `.mv` declares."""
    if hasattr(a, "in_structure"):  # the name of the input structure in lineax
        return a.in_structure()
    if hasattr(a, "shape") and hasattr(a, "dtype"):
        return jax.ShapeDtypeStruct(tuple(a.shape)[-1:], a.dtype)
    raise TypeError(f"{type(a).__name__} has .mv but says nothing of its vectors: pass like=, a pytree of arrays")
