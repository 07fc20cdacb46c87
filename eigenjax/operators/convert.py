"""Operators from matrices, sparse matrices, objects with `.mv`, and plain functions."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax import arguments, tree
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.closure import TracedFunction, hoist
from eigenjax.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MatrixOperator(LinearOperator):
    """A dense (n, n) array, or a sparse one that jax can multiply: v -> A @ v on flat vectors."""

    matrix: Any

    @property
    def structure(self) -> PyTree:
        """One flat leaf of n numbers."""
        return jax.ShapeDtypeStruct(self.matrix.shape[-1:], self.matrix.dtype)

    def mv(self, vector: PyTree) -> PyTree:
        """A v; a dense product in the full precision of the dtype on every device."""
        if isinstance(self.matrix, jax.Array):
            return jnp.matmul(self.matrix, vector, precision=jax.lax.Precision.HIGHEST)
        return self.matrix @ vector


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FunctionOperator(LinearOperator):
    """A plain function v -> A v; the arrays that it closed over are leaves."""

    constants: list[jax.Array]
    function: TracedFunction = dataclasses.field(metadata={"static": True})
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """That of the example it was traced with."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    def mv(self, vector: PyTree) -> PyTree:
        """The function, as it was traced."""
        return self.function(self.constants, vector)


def as_operator(a: Any, like: PyTree = None) -> LinearOperator:
    """Whatever stands for a square linear map, as a `LinearOperator`.

    Args:
        a: a `LinearOperator` (returned as it is), an (n, n) array (integers become floats), a sparse matrix of
            `jax.experimental.sparse`, an object with a method `.mv`, or a callable v -> A v. A callable may close
            over arrays and tracers: they become leaves, and gradients flow to them.
        like: for a callable or an object with `.mv`, the vectors it takes: a pytree of arrays or of
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
    if isinstance(a, LinearOperator):
        return a
    refuse_stream(a)
    if isinstance(a, jax.Array | np.ndarray | list | tuple):
        return _from_matrix(floating(matrix_of(a)))
    if hasattr(a, "mv"):
        structure = describe_all(like if like is not None else _own_structure(a))
        return _from_function(a.mv, structure)
    if is_jax_sparse(a):
        return _from_matrix(a)
    if callable(a):
        if like is None:
            raise TypeError(
                "a callable operator says nothing of its vectors: pass like= (or v0= to a solver), a pytree of arrays "
                "or of jax.ShapeDtypeStruct"
            )
        return _from_function(a, describe_all(like))
    raise TypeError(
        f"expected an operator, an (n, n) array, a sparse matrix of jax.experimental.sparse, an object with .mv or "
        f"a callable, and got {type(a).__name__}"
    )


def refuse_stream(a: Any) -> None:
    """Raise the TypeError that an object brings along which is an operator on the host only."""
    refusal = getattr(a, "no_operator", None)
    if isinstance(refusal, str):
        raise TypeError(refusal)


def matrix_of(a: Any) -> jax.Array:
    """An array, or a sequence of numbers as one; a TypeError where it holds anything else."""
    try:
        return jnp.asarray(a)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected an operator, an (n, n) array or a callable, and got {arguments.shown(a)}, which is no array of "
            "numbers"
        ) from error


def _from_matrix(matrix: Any) -> MatrixOperator:
    shape = tuple(matrix.shape)
    if len(shape) > 2:
        raise ValueError(f"a batch of matrices, shape {shape}: use jax.vmap over the leading axes")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"expected the square matrix (n, n) of an operator, and got the shape {shape}: svds takes rectangular ones"
        )
    return MatrixOperator(matrix)


def _from_function(function: Callable, structure: PyTree) -> FunctionOperator:
    traced, constants = hoist(function, structure)
    _check_real(traced.result_structure, structure)
    check_vector(traced.result_structure, structure, name="the callable's result")
    leaves, treedef = jax.tree.flatten(structure)
    return FunctionOperator(constants, traced.shared(), tuple(leaves), treedef)


def _check_real(result: PyTree, structure: PyTree) -> None:
    """Raise an error where real vectors are made complex."""
    is_complex = [any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(x)) for x in (result, structure)]
    if is_complex == [True, False]:
        raise TypeError(
            "the callable gives complex numbers for real vectors: give a complex v0 (or like=), such as "
            "v0.astype(jnp.complex64)"
        )


def floating(matrix: jax.Array) -> jax.Array:
    """The matrix, of integers or truth values in the default floating dtype."""
    return matrix if jnp.issubdtype(matrix.dtype, jnp.inexact) else matrix.astype(float)


def describe_all(like: PyTree) -> PyTree:
    """The structure of an example vector, of arrays or of shapes; a leaf that is no number raises an error."""
    arrays = jax.tree.map(lambda x: x if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x), like)
    for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"like{jax.tree_util.keystr(path)} has dtype {leaf.dtype}: vectors hold floating-point or complex "
                "numbers; give shapes as jax.ShapeDtypeStruct(shape, dtype)"
            )
    return tree.structure_of(arrays)


def _own_structure(a: Any) -> PyTree:
    if hasattr(a, "in_structure"):  # lineax's name for it
        return a.in_structure()
    if hasattr(a, "shape") and hasattr(a, "dtype"):
        return jax.ShapeDtypeStruct(tuple(a.shape)[-1:], a.dtype)
    raise TypeError(f"{type(a).__name__} has .mv but says nothing of its vectors: pass like=, a pytree of arrays")


def is_jax_sparse(a: Any) -> bool:
    """Whether it is a sparse matrix of `jax.experimental.sparse`."""
    # Whoever holds a sparse matrix has imported the module; nobody else should wait for it.
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(a, sparse.JAXSparse)
