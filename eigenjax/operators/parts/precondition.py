"""Diagonal operators, and an operator seen in the coordinates that a diagonal preconditioner makes.

With D positive and diagonal, x = D^(-1/2) y turns a loss in x into one in y, of the curvature D^(-1/2) A D^(-1/2). Its
eigenvalues are those of D^-1 A, the matrix that decides whether steps of -eta D^-1 grad are stable: for Adam with
D = sqrt(nu) + eps, up to eigenvalues of about 2 / eta and more with momentum (Cohen et al. 2022).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.batching import as_arrays
from eigenjax.operators.convert import as_operator, describe_all
from eigenjax.operators.parts.selection import part_like
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DiagonalOperator(LinearOperator):
    """V -> d * v, leaf by leaf; a leaf of d is shaped like that of v, or one number for all of its entries."""

    diagonal: PyTree
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """That of the vectors it was made for."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    def mv(self, vector: PyTree) -> PyTree:
        """The product, entry by entry."""
        return jax.tree.map(jnp.multiply, self.diagonal, vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PreconditionedOperator(LinearOperator):
    """D^(-1/2) A D^(-1/2)."""

    inner: LinearOperator
    diagonal: PyTree  # D, in working dtypes

    @property
    def structure(self) -> PyTree:
        """That of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """A v between two divisions by the square root of D, in its dtype."""
        return self._divided(self.inner.mv(self._divided(vector)))

    def _divided(self, vector: PyTree) -> PyTree:
        # The square root of a negative number is NaN, and one over zero infinite: the solver says so.
        return jax.tree.map(lambda d, x: (jax.lax.rsqrt(d) * x.astype(d.dtype)).astype(x.dtype), self.diagonal, vector)


@explained
def precondition(op: Any, diagonal: PyTree, *, like: PyTree = None) -> LinearOperator:
    """The operator D^(-1/2) A D^(-1/2), whose eigenvalues are those of D^-1 A.

    Args:
        op: A, symmetric, whatever `as_operator` takes.
        diagonal: D > 0, real numbers in a pytree like the vectors of A. What belongs to parameters that A leaves out
            (`select=`) is ignored, so that the diagonal of a whole model serves for each part of it.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        An operator on the same vectors; an eigenvector y of it stands for x = D^(-1/2) y with A x = lambda D x.
        Gradients flow to both.

    Raises:
        ValueError: if the diagonal lacks a leaf or a shape differs; names the leaf.
        TypeError: if it is complex or holds integers.

    That D is positive is not checked, because under jit its numbers are not known: an entry that is zero, negative or
    NaN makes the product NaN, and a solver's status `Status.NONFINITE`.

    Cost: a product with A, and one pass over D before and after. Memory: D once more than A.

    Example:
        >>> import eigenjax
        >>> op = eigenjax.as_operator(jnp.array([[4.0, 1.0], [1.0, 9.0]]))
        >>> print(eigenjax.to_dense(precondition(op, jnp.array([4.0, 1.0]))))
        [[1.  0.5]
         [0.5 9. ]]

    Source: Cohen et al. (2022), Adaptive gradient methods at the edge of stability.
    """
    op = as_operator(op, like=like)
    structure = op.structure
    diagonal = as_arrays(part_of(diagonal, structure, "diagonal"), "diagonal")
    real = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, tree.real_dtype(tree.accumulation_dtype(x))), structure)
    for path, leaf in jax.tree_util.tree_flatten_with_path(diagonal)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"diagonal{jax.tree_util.keystr(path)} has dtype {leaf.dtype}: give positive real numbers")
    diagonal = tree.cast_like(diagonal, real)
    check_vector(diagonal, real, name="diagonal")
    return PreconditionedOperator(op, diagonal)


@explained
def diagonal_operator(diagonal: PyTree, like: PyTree = None) -> LinearOperator:
    """The operator v -> d * v, for weight decay, damping or a mask.

        (A + D) v = A v + d * v,    as in   hessian(...) + decay * diagonal_operator(mask, like=params)

    Args:
        diagonal: d, a pytree like the vectors; with `like` each leaf may also be a number or a truth value for all
            entries of its leaf (a mask of optax), and one number alone stands for all leaves.
        like: the vectors, a pytree of arrays or of `jax.ShapeDtypeStruct`, such as `op.structure`; None takes them
            to be shaped as the diagonal is. What belongs to leaves that it lacks is ignored.

    Returns:
        The operator, in the dtypes of `like`. Cost: one pass over the vector.

    Raises:
        ValueError: if the diagonal lacks a leaf, or a shape does not broadcast to that of the vectors.
        TypeError: if the vectors are not of real or complex numbers, or a real vector has a complex diagonal.

    Example:
        >>> import eigenjax
        >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(1)}
        >>> decay = 0.5 * diagonal_operator({"kernel": True, "bias": False}, like=params)
        >>> print(decay(params)["kernel"], decay(params)["bias"])
        [0.5 0.5] [0.]
    """
    structure = describe_all(diagonal if like is None else like)
    if jax.tree_util.all_leaves([diagonal]) and jnp.ndim(diagonal) == 0:
        number = diagonal
        diagonal = jax.tree.map(lambda _: number, structure)
    diagonal = part_of(diagonal, structure, "diagonal")
    entries = jax.tree_util.tree_map_with_path(_entries, structure, diagonal)
    leaves, treedef = jax.tree.flatten(structure)
    return DiagonalOperator(entries, tuple(leaves), treedef)


def part_of(whole: PyTree, structure: PyTree, name: str) -> PyTree:
    """The leaves of a pytree that the vectors have, or an error that names those that it lacks."""
    try:
        part = part_like(whole, structure)
    except ValueError:
        part = whole
    if jax.tree.structure(part) != jax.tree.structure(structure):
        check_vector(part, structure, name=name)
    return part


def _entries(path: Any, leaf: jax.ShapeDtypeStruct, value: Any) -> jax.Array:
    value = jnp.asarray(value)
    where = f"diagonal{jax.tree_util.keystr(path)}"
    if value.shape not in ((), leaf.shape):
        raise ValueError(f"{where} has shape {value.shape}, but the operator needs {leaf.shape}, or one number")
    if jnp.iscomplexobj(value) and not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise TypeError(f"{where} is complex ({value.dtype}), but the vectors are real ({leaf.dtype})")
    return value.astype(leaf.dtype)
