"""Diagonal operators, and operators with a diagonal preconditioner.

With D positive and diagonal, x = D^(-1/2) y turns a loss in x into one in y, of the curvature D^(-1/2) A D^(-1/2). Its
eigenvalues are those of D^-1 A, the matrix that decides whether steps of -eta D^-1 grad are stable. For Adam,
D = sqrt(nu) + eps; steps are stable up to eigenvalues of about 2 / eta, and more with momentum (Cohen et al. 2022).
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
    """Diagonal operator v -> d * v, leaf by leaf; a leaf of d has the shape of the leaf of v or is a scalar."""

    diagonal: PyTree
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors, as given at construction."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute d * v entry by entry."""
        return jax.tree.map(jnp.multiply, self.diagonal, vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PreconditionedOperator(LinearOperator):
    """Preconditioned operator D^(-1/2) A D^(-1/2)."""

    inner: LinearOperator
    diagonal: PyTree  # D, in working dtypes

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute D^(-1/2) A D^(-1/2) v; the scalings run in the dtype of D."""
        return self._divided(self.inner.mv(self._divided(vector)))

    def _divided(self, vector: PyTree) -> PyTree:
        # rsqrt is NaN for a negative entry and infinite for zero; the solver then reports Status.NONFINITE.
        return jax.tree.map(lambda d, x: (jax.lax.rsqrt(d) * x.astype(d.dtype)).astype(x.dtype), self.diagonal, vector)


@explained
def precondition(op: Any, diagonal: PyTree, *, like: PyTree = None) -> LinearOperator:
    """Return the operator D^(-1/2) A D^(-1/2), whose eigenvalues are those of D^-1 A.

    Args:
        op: A, symmetric; an operator, matrix or callable, anything that `as_operator` accepts.
        diagonal: D > 0, real numbers in a pytree like the vectors of A. Leaves of parameters that A leaves out
            (`select=`) are ignored, so that the diagonal of a whole model serves for each part of it.
        like: for a bare callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        An operator on the same vectors. An eigenvector y of it corresponds to x = D^(-1/2) y with A x = lambda D x.
        Gradients flow to both A and D.

    Raises:
        ValueError: if the diagonal lacks a leaf or a shape differs; names the leaf.
        TypeError: if it is complex or holds integers.

    The sign of D is not checked, because its numbers are not available under jit. An entry that is zero, negative or
    NaN makes the matvec NaN, and the status of a solver `Status.NONFINITE`.

    Cost: one matvec of A, and one pass over D before and after. Memory: D in addition to A.

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
    """Return the operator v -> d * v, for weight decay, damping or a mask.

        (A + D) v = A v + d * v,    as in   hessian(...) + decay * diagonal_operator(mask, like=params)

    Args:
        diagonal: d, a pytree like the vectors. With `like`, each leaf may also be a number or a boolean for all its
            entries (a mask of optax). A single number applies to all leaves.
        like: the structure of the vectors, a pytree of arrays or of `jax.ShapeDtypeStruct`, such as `op.structure`;
            None takes the structure of the diagonal. Leaves of the diagonal that `like` lacks are ignored.

    Returns:
        The operator, in the dtypes of `like`. Cost: one pass over the vector.

    Raises:
        ValueError: if the diagonal lacks a leaf, or a shape does not broadcast to that of the vectors.
        TypeError: if the vectors are not real or complex floating-point numbers, or a real vector has a complex
            diagonal.

    Example:
        >>> import eigenjax
        >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(1)}
        >>> decay = 0.5 * diagonal_operator({"kernel": True, "bias": False}, like=params)
        >>> print(decay(params)["kernel"], decay(params)["bias"])
        [0.5 0.5] [0.]
    """
    structure = describe_all(diagonal if like is None else like)
    if jax.tree_util.all_leaves([diagonal]) and jnp.ndim(diagonal) == 0:
        scalar = diagonal
        diagonal = jax.tree.map(lambda _: scalar, structure)
    diagonal = part_of(diagonal, structure, "diagonal")
    entries = jax.tree_util.tree_map_with_path(_entries, structure, diagonal)
    leaves, treedef = jax.tree.flatten(structure)
    return DiagonalOperator(entries, tuple(leaves), treedef)


def part_of(whole: PyTree, structure: PyTree, name: str) -> PyTree:
    """Return the leaves of a pytree that the vectors have; raise an error that names missing leaves."""
    try:
        part = part_like(whole, structure)
    except ValueError:
        part = whole
    if jax.tree.structure(part) != jax.tree.structure(structure):
        check_vector(part, structure, name=name)
    return part


def _entries(path: Any, leaf: jax.ShapeDtypeStruct, value: Any) -> jax.Array:
    value = jnp.asarray(value)
    leaf_name = f"diagonal{jax.tree_util.keystr(path)}"
    if value.shape not in ((), leaf.shape):
        raise ValueError(f"{leaf_name} has shape {value.shape}, but the operator needs {leaf.shape}, or one number")
    if jnp.iscomplexobj(value) and not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise TypeError(f"{leaf_name} is complex ({value.dtype}), but the vectors are real ({leaf.dtype})")
    return value.astype(leaf.dtype)
