"""Operators without the part of known vectors.

With rows Y that are orthonormal in the inner product of B (the identity, if there is none),

    P = I - Y Y^H B,    A' = P^H A P + s B Y Y^H B

has A' x = lambda B x for every x with Y^H B x = 0 and P^H A x = lambda B x, and A' y = s B y for the known vectors: a
solver finds the pairs of A on the complement of Y, if the shift s is at the end of the spectrum that is not wanted.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_number
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, check_vector, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# The second normalization by Cholesky factors makes rows orthonormal to rounding, for a condition up to eps^(-1/2).
_PASSES = 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DeflatedOperator(LinearOperator):
    """Deflated operator P^H A P + s B Y Y^H B."""

    inner: LinearOperator  # A
    known: PyTree  # (p, ...) Y, orthonormal in the inner product of B
    images: PyTree  # (p, ...) B Y
    value: jax.Array  # () s, the eigenvalue of the known vectors

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute P^H A P v + s B Y Y^H B v."""
        return self._apply(self.inner, self.value, vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute the product with the adjoint, P^H A^H P v + conj(s) B Y Y^H B v."""
        return self._apply(self.inner.H, jnp.conj(self.value), vector)

    def _apply(self, inner: LinearOperator, shift: jax.Array, vector: PyTree) -> PyTree:
        vector = tree.cast_like(vector, tree.working_structure(self.structure))
        along = tree.project(self.images, vector)
        image = matvec(inner, tree.add_scaled(vector, -1.0, tree.combine(along, self.known)))
        # Both parts in the span of B Y in one combination.
        change = jnp.asarray(shift, along.dtype) * along - tree.project(self.known, image)
        return tree.cast_like(tree.add_scaled(image, 1.0, tree.combine(change, self.images)), self.structure)


@explained
def deflate(op: Any, vectors: PyTree, *, shift: Any, b: Any = None, like: PyTree = None) -> LinearOperator:
    """Return the operator on the complement of known vectors, which get the eigenvalue `shift`.

        A' = P^H A P + s B Y Y^H B,    P = I - Y Y^H B

    The eigenvectors found are orthogonal to the known vectors, whether these are eigenvectors (then the others are
    found) or any other constraint, such as a mean of zero.

    Args:
        op: A, symmetric or Hermitian; an operator, matrix or callable, anything that `as_operator` accepts.
        vectors: Y, p linearly independent vectors as rows: a pytree with a leading axis p on every leaf, such as the
            `eigenvectors` of a result. They need not be orthonormal.
        shift: s, the eigenvalue that the known vectors get. Choose it at the other end of the spectrum: 0 for
            which="LM", at most the smallest eigenvalue for "LA", at least the largest one for "SA".
        b: positive definite operator of the problem A x = lambda B x, the one given to the solver; orthogonality is
            that of its inner product.
        like: for a bare callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        An operator on the same vectors. Gradients flow to A, B, Y and s.

    Raises:
        ValueError: if a leaf of the vectors lacks, or has another shape than the operator's with a leading axis.
        TypeError: if a dtype differs, or the shift is not a number.

    Dependent vectors make the matvec NaN, and the status of a solver `Status.NONFINITE`.

    Cost: a matvec takes one of A; p products with B at construction. Memory: p vectors, 2 p with b.

    Example:
        >>> import jax.numpy as jnp, eigenjax
        >>> rest = deflate(jnp.diag(jnp.arange(1.0, 6.0)), jnp.eye(5)[:2], shift=10.0)
        >>> print(eigenjax.eigsh(rest, k=2, which="SA").eigenvalues.round(3).astype(int))
        [3 4]

    Source: Saad (2011), Numerical methods for large eigenvalue problems, section 4.2; Knyazev (2001).
    """
    check_number("deflate", "shift", shift, remedy="give a number beyond the unwanted end", is_complex=True)
    op = as_operator(op, like=like)
    structure = tree.working_structure(op.structure)
    if jnp.iscomplexobj(shift) and not jnp.issubdtype(tree.accumulation_dtype(structure), jnp.complexfloating):
        raise TypeError(f"shift={shift} is complex, and the operator's vectors are real: give a real number")
    vectors = _checked_rows(vectors, structure)
    mass = None if b is None else as_operator(b, like=op.structure)
    times_mass = lambda rows: rows if mass is None else jax.vmap(lambda row: matvec(mass, row))(rows)
    vectors = jax.vmap(lambda row: normalize(row, tree.norm(row)))(vectors)
    for _ in range(_PASSES):
        vectors = _orthonormalized(vectors, times_mass(vectors))
    return DeflatedOperator(op, vectors, times_mass(vectors), jnp.asarray(shift))


def _checked_rows(vectors: PyTree, structure: PyTree) -> PyTree:
    leaves = jax.tree.leaves(vectors)
    if not leaves or any(jnp.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError(
            "vectors: give rows, a leading axis on every leaf, one row for each known vector: result.eigenvectors, "
            "or v[None]"
        )
    check_vector(jax.tree.map(lambda x: jnp.asarray(x)[0], vectors), structure, name="a row of vectors")
    counts = {leaf.shape[0] for leaf in leaves}
    if len(counts) > 1:
        raise ValueError(f"vectors: the leaves have {sorted(counts)} rows: give each the same number")
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), vectors, structure)


def _orthonormalized(rows: PyTree, images: PyTree) -> PyTree:
    """Return the rows divided by the Cholesky factor of their Gram matrix."""
    factor = jnp.linalg.cholesky(tree.gram(rows, images))
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(factor.shape[0], dtype=factor.dtype), lower=True)
    return tree.combine(jnp.conj(inverse).T, rows)
