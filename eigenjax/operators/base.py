"""Linear operators: registered pytrees that can be called.

Calling `op(v)` computes A v. The arrays of an operator (parameters, data, a matrix) are leaves, its functions static.
An operator therefore crosses `jit` without a retrace, and its arrays never become constants of a program. It can be
vmapped over, and derivatives are taken with respect to it: the cotangent of an operator is a pytree of its structure.

To write an operator, register a frozen dataclass with `jax.tree_util.register_dataclass` and give it `structure` and
`mv`.
"""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import on_device
from eigenjax.operators.functions.convolutions import fast_in_loops
from eigenjax.operators.summary import structure_summary, summary
from eigenjax.vectors import tree
from eigenjax.vectors.placement import in_rows
from eigenjax.vectors.tree import PyTree


class LinearOperator:
    """Square linear map A on pytrees; subclasses define `structure` and `mv`.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import as_operator
        >>> op = as_operator(jnp.diag(jnp.array([1.0, 2.0])))
        >>> print((2.0 * op.shift(1.0))(jnp.ones(2)))
        [0. 2.]
    """

    # With None, NumPy scalars defer `scalar * op` to __rmul__ below.
    __array_ufunc__ = None

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors, as a pytree of `jax.ShapeDtypeStruct`."""
        raise NotImplementedError

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v without checking the vector; `op(v)` checks it first."""
        raise NotImplementedError

    def __call__(self, vector: PyTree) -> PyTree:
        """Compute A v.

        Args:
            vector: pytree with the operator's structure, shapes and dtypes.

        Raises:
            ValueError: if the structure or a shape differs; names the leaf.
            TypeError: if a dtype differs; names the leaf.
        """
        check_vector(vector, self.structure)
        return self.mv(vector)

    @property
    def size(self) -> int:
        """Number n of entries of a vector: A is n x n."""
        return tree.size(self.structure)

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the leaves if they all agree, else the dtype in which scalars are accumulated."""
        return tree.common_dtype(self.structure)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, n), with n the number of entries of a vector."""
        return self.size, self.size

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H v, by the transpose of `mv` unless a subclass overrides it."""
        transposed = jax.linear_transpose(self.mv, self.structure)
        return conjugated(transposed(conjugated(vector))[0])

    @property
    def T(self) -> "LinearOperator":  # noqa: N802
        """Transpose A^T, without a conjugation."""
        return TransposedOperator(self, conjugate=False)

    @property
    def H(self) -> "LinearOperator":  # noqa: N802
        """Adjoint A^H."""
        return TransposedOperator(self, conjugate=True)

    def __matmul__(self, vector: PyTree) -> PyTree:
        """Compute A v for one vector."""
        return self(vector)

    def __repr__(self) -> str:
        """Describe the class, the size and the parts, without any array values."""
        facts = lambda: {"shape": self.shape, "dtype": self.dtype, "vectors": structure_summary(self.structure)}
        return summary(self, facts)

    def shift(self, sigma: Any) -> "LinearOperator":
        """Return A - sigma I: the same eigenvectors, with every eigenvalue reduced by sigma."""
        return ShiftedOperator(self, jnp.asarray(on_device(sigma)))

    def __add__(self, other: Any) -> "LinearOperator":
        return SumOperator(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: Any) -> "LinearOperator":
        return SumOperator(self, -other) if isinstance(other, LinearOperator) else NotImplemented

    def __mul__(self, factor: Any) -> "LinearOperator":
        return ScaledOperator(self, jnp.asarray(on_device(factor))) if jnp.ndim(factor) == 0 else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> "LinearOperator":
        return -1.0 * self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SumOperator(LinearOperator):
    """Sum A + B of two operators."""

    left: LinearOperator
    right: LinearOperator

    def __post_init__(self):
        check_vector(self.left.structure, self.right.structure, name="the left operand of + or -")

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors, which A and B share."""
        return self.left.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v + B v."""
        return jax.tree.map(operator.add, self.left.mv(vector), self.right.mv(vector))

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H v + B^H v."""
        return jax.tree.map(operator.add, self.left.adjoint_mv(vector), self.right.adjoint_mv(vector))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScaledOperator(LinearOperator):
    """Product of a scalar factor and A."""

    inner: LinearOperator
    factor: jax.Array

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute factor * A v."""
        return tree.scale(self.factor, self.inner.mv(vector))

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute conj(factor) * A^H v."""
        return tree.scale(jnp.conj(self.factor), self.inner.adjoint_mv(vector))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ShiftedOperator(LinearOperator):
    """Shifted operator A - sigma I."""

    inner: LinearOperator
    sigma: jax.Array

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v - sigma v."""
        return tree.add_scaled(self.inner.mv(vector), -self.sigma, vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^H v - conj(sigma) v."""
        return tree.add_scaled(self.inner.adjoint_mv(vector), -jnp.conj(self.sigma), vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransposedOperator(LinearOperator):
    """Adjoint A^H, or transpose A^T."""

    inner: LinearOperator
    conjugate: bool = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A^H v, or A^T v = conj(A^H conj(v))."""
        if self.conjugate:
            return self.inner.adjoint_mv(vector)
        return conjugated(self.inner.adjoint_mv(conjugated(vector)))

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A v, the adjoint of A^H, or conj(A conj(v)), the adjoint of A^T."""
        return self.inner.mv(vector) if self.conjugate else conjugated(self.inner.mv(conjugated(vector)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StructuralOperator(LinearOperator):
    """Structure of an operator, without its matvec, for programs whose matvecs are computed elsewhere."""

    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})
    unit: float = dataclasses.field(metadata={"static": True}, default=0.0)  # machine epsilon of its matvecs

    @property
    def structure(self) -> PyTree:
        """Structure of a vector."""
        return jax.tree.unflatten(self.treedef, self.leaves)


def structural_operator(structure: PyTree, unit: float = 0.0) -> StructuralOperator:
    """Return the operator without a matvec whose vectors have this structure, and matvecs this machine epsilon.

    >>> structural_operator(jax.ShapeDtypeStruct((3,), jnp.float32)).shape
    (3, 3)
    """
    leaves, treedef = jax.tree.flatten(structure)
    return StructuralOperator(tuple(leaves), treedef, unit)


def conjugated(vector: PyTree) -> PyTree:
    """Return the complex conjugate of every leaf."""
    return jax.tree.map(jnp.conj, vector)


@jax.jit
def matvec(op: LinearOperator, vector: PyTree) -> PyTree:
    """Compute A v for a vector in the working dtypes; only the matvec runs in the dtypes of the operator.

    All solvers compute their matvecs through this function. Because it is jitted, the trace is cached: the operator's
    Python code runs once per operator type and shape, however many matvecs a solver contains.
    """
    structure = op.structure
    image = fast_in_loops(op)(tree.cast_like(vector, structure))
    return in_rows(tree.cast_like(image, tree.working_structure(structure)))


def check_vector(vector: PyTree, structure: PyTree, name: str = "the vector") -> None:
    """Raise an error that names the first leaf in which a vector differs from a structure."""
    expected = jax.tree_util.tree_flatten_with_path(structure)[0]
    if jax.tree.structure(vector) != jax.tree.structure(structure):
        paths = {jax.tree_util.keystr(path) or "the root" for path, _ in expected}
        given = {
            jax.tree_util.keystr(path) or "the root" for path, _ in jax.tree_util.tree_flatten_with_path(vector)[0]
        }
        missing, extra = (
            ", ".join(sorted(paths - given)) or "none",
            ", ".join(sorted(given - paths)) or "none",
        )
        raise ValueError(
            f"{name} has the structure {jax.tree.structure(vector)}, but the operator acts on "
            f"{jax.tree.structure(structure)} (leaves missing: {missing}; leaves too many: {extra}). "
            "Build vectors with jax.tree.map over op.structure"
        )
    for (path, leaf), value in zip(expected, jax.tree.leaves(vector), strict=True):
        leaf_name = f"leaf {jax.tree_util.keystr(path)}" if path else "the array"
        if jnp.shape(value) != leaf.shape:
            raise ValueError(f"{name}: {leaf_name} has shape {jnp.shape(value)}, but the operator needs {leaf.shape}")
        if value.dtype != leaf.dtype:
            raise TypeError(
                f"{name}: {leaf_name} has dtype {value.dtype}, but the operator needs {leaf.dtype}: "
                f"cast it with .astype({leaf.dtype})"
            )
