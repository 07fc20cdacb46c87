"""Eigenpairs that are known: taken out of an operator, so that what is left is estimated alone."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, check_vector, matvec
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


class KnownPairs(NamedTuple):
    """Eigenpairs of an operator; those that have not converged are zero throughout."""

    values: jax.Array  # (k,)
    vectors: PyTree  # (k, ...) orthonormal rows, or zero
    mass: jax.Array  # (k,) 1 for each pair, 0 for those that have not converged


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComplementOperator(LinearOperator):
    """P A P + c (I - P) with P = I - X^H X for orthonormal rows X; rows of zeros take nothing out.

    What rounding leaves of X in a Krylov space grows like a polynomial at c. With c inside the spectrum of the rest it
    stays rounding, and Ritz values that come of it are no worse arguments of a function than the others; with c = 0, of
    a definite operator outside of the spectrum, they would be.
    """

    inner: LinearOperator
    known: PyTree
    inside: jax.Array  # () c

    @property
    def structure(self) -> PyTree:
        """That of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """P A P v + c (v - P v)."""
        structure = tree.working_structure(self.structure)
        outside = complement(self.known, tree.cast_like(vector, structure))
        image = complement(self.known, matvec(self.inner, outside))
        along = tree.add_scaled(tree.cast_like(vector, structure), -1.0, outside)
        return tree.cast_like(tree.add_scaled(image, self.inside, along), self.structure)


def complement(known: PyTree, vector: PyTree) -> PyTree:
    """What is left of a vector beside orthonormal rows."""
    return tree.add_scaled(vector, -1.0, tree.combine(tree.project(known, vector), known))


def known_pairs(op: LinearOperator, deflate: Any) -> KnownPairs | None:
    """The pairs of a result that have converged; None stays None.

    Raises:
        TypeError: if it is no `EigenResult`.
        ValueError: if its vectors are not those of the operator.
    """
    check_result(deflate)
    if deflate is None:
        return None
    structure = tree.working_structure(op.structure)
    check_vector(jax.tree.map(lambda x: x[0], deflate.eigenvectors), structure, name="a vector of deflate")
    keep = lambda x: jnp.where(deflate.converged.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))
    values = keep(deflate.eigenvalues)
    return KnownPairs(values, jax.tree.map(keep, deflate.eigenvectors), deflate.converged.astype(values.dtype))


def check_result(deflate: Any) -> None:
    """Raise a TypeError unless it is an `EigenResult`, or None."""
    if deflate is not None and not isinstance(deflate, EigenResult):
        raise TypeError(f"deflate: got {type(deflate).__name__}; give what eigsh returns, an EigenResult")
