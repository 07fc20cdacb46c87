"""Deflation of known eigenpairs, so that the estimators act on the complement alone."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, check_vector, matvec
from eigenjax.operators.packed import packed, packing_used
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import project_out_of_vector
from eigenjax.vectors.tree import PyTree


class DeflatedPairs(NamedTuple):
    """Known eigenpairs of an operator; all entries of pairs that have not converged are zero."""

    values: jax.Array  # (k,) eigenvalues, or zero
    vectors: PyTree  # (k, ...) orthonormal rows, or zero
    mass: jax.Array  # (k,) 1 for each converged pair, else 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComplementOperator(LinearOperator):
    """Deflated operator P A P + c (I - P), with P = I - X^H X for orthonormal rows X; rows of zeros have no effect.

    In a Krylov space, the rounding errors along X grow like a polynomial evaluated at c. With c inside the remaining
    spectrum they stay at rounding level, and their Ritz values lie in the domain of f. With c = 0, outside the spectrum
    of a definite operator, neither holds.
    """

    inner: LinearOperator  # A
    deflated: PyTree  # (k, ...) X, orthonormal rows or zero
    inside: jax.Array  # () c, a value inside the remaining spectrum

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Return P A P v + c (v - P v)."""
        outside = self.to_multiply(vector)
        return tree.cast_like(self.image_of(vector, matvec(self.inner, outside)), self.structure)

    def to_multiply(self, vector: PyTree) -> PyTree:
        """Return P v, the vector that A is applied to, in the working dtypes."""
        structure = tree.working_structure(self.structure)
        return project_out_of_vector(self.deflated, tree.cast_like(vector, structure))

    def image_of(self, vector: PyTree, product: PyTree) -> PyTree:
        """Return the image of v, given the product A P v, in the working dtypes."""
        outside = self.to_multiply(vector)
        image = project_out_of_vector(self.deflated, product)
        along = tree.add_scaled(tree.cast_like(vector, tree.working_structure(self.structure)), -1.0, outside)
        return tree.add_scaled(image, self.inside, along)


def deflated_pairs(op: LinearOperator, deflate: Any) -> DeflatedPairs | None:
    """Return the converged pairs of a result; None stays None.

    Raises:
        TypeError: if `deflate` is not an `EigenResult`.
        ValueError: if its vectors do not have the structure of the operator's.
    """
    check_result(deflate)
    if deflate is None:
        return None
    packing = packing_used(op)
    structure = tree.working_structure(op.structure if packing is None else packing.vector_structure)
    check_vector(jax.tree.map(lambda x: x[0], deflate.eigenvectors), structure, name="a vector of deflate")
    keep = lambda x: jnp.where(deflate.converged.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))
    values = keep(deflate.eigenvalues)
    vectors = jax.tree.map(keep, packed(deflate.eigenvectors, packing))
    return DeflatedPairs(values, vectors, deflate.converged.astype(values.dtype))


def check_result(deflate: Any) -> None:
    """Raise a TypeError unless `deflate` is an `EigenResult` or None."""
    if deflate is not None and not isinstance(deflate, EigenResult):
        raise TypeError(f"deflate: got {type(deflate).__name__}; give what eigsh returns, an EigenResult")
