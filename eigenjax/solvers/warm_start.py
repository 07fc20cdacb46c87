"""Start of a solve: an arbitrary vector, one given vector, several, or a previous result.

A solve from several vectors starts from their sum. The Krylov space recovers each of them, at little more than one
matvec each, and also their missing components. The first matvec, that of a sum with random signs, measures the
residuals of all of them. If these are small, the Ritz pairs of their span are the result, at one matvec each.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.packed import PackedOperator
from eigenjax.result import EigenResult
from eigenjax.solvers.start import given_start
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize, orthogonalize, project_out_of_vector
from eigenjax.vectors.pseudorandom import arbitrary_signs, fold_in
from eigenjax.vectors.tree import PyTree

# A row whose remainder after orthogonalization against earlier rows is below this is linearly dependent on them.
_DEPENDENT = 1e-3


class RayleighRitz(NamedTuple):
    """Ritz pairs of the span of some vectors, in ascending order."""

    values: jax.Array  # (q,) Ritz values
    vectors: PyTree  # (q, ...) Ritz vectors
    residuals: jax.Array  # (q,) ||A v - theta v||, from the matvecs


class GivenVectors(NamedTuple):
    """Orthonormal basis of the approximate eigenvectors that a solve starts from."""

    rows: PyTree  # (q, ...) orthonormal
    independent: jax.Array  # () bool, the given vectors are linearly independent


def example_vector(v0: Any) -> PyTree | None:
    """Return one vector of v0 if it is an `EigenResult`, else v0: it shows the structure that a callable acts on."""
    return _first_row(v0.eigenvectors) if isinstance(v0, EigenResult) else v0


@jax.jit
def _first_row(rows: PyTree) -> PyTree:
    """Return the first of some vectors; compiled, because an index would be moved to the device implicitly."""
    return tree.row(rows, 0)


def start_rows(op: LinearOperator, v0: Any) -> PyTree | None:
    """Return the vectors of v0, with a leading axis, in the working dtypes of an operator; None stays None.

    Args:
        op: the operator.
        v0: a vector of the operator, several with a leading axis on every leaf, or an `EigenResult`, whose
            eigenvectors are used.

    Raises:
        ValueError, TypeError: if v0 does not fit the operator; the message names the leaf.
    """
    if v0 is None:
        return None
    if isinstance(v0, EigenResult):
        v0 = v0.eigenvectors
    if not _is_stacked(v0, op.structure):
        one = given_start(op, v0)
        return jax.tree.map(lambda x: x[None], one)
    return jax.vmap(lambda row: given_start(op, row))(jax.tree.map(jnp.asarray, v0))


def packed_start(op: LinearOperator, v0: Any) -> Any:
    """Pack the start of a solve with an operator on packed vectors; None stays None.

    Args:
        op: the operator; if its vectors are not packed, v0 is returned unchanged.
        v0: a vector of the operator, several with a leading axis on every leaf, or an `EigenResult`.

    Raises:
        ValueError, TypeError: if v0 does not fit the operator; the message names the leaf.
    """
    if v0 is None or not isinstance(op, PackedOperator):
        return v0
    rows = op.packing.pack(start_rows(op.inner, v0))
    if isinstance(v0, EigenResult):
        return v0._replace(eigenvectors=rows)
    return rows if is_start_block(op.inner, v0) else tree.row(rows, 0)


def starting_block(op: LinearOperator, rows: PyTree | None, block_size: int, seed: jax.Array) -> PyTree:
    """Return the (b, ...) start vectors of a solve: sums of the vectors of v0, in turn, with random signs.

    Zeros stand for the others; a Krylov decomposition replaces them by random directions.
    """
    zeros = tree.zero_basis(tree.zeros(tree.working_structure(op.structure)), block_size)
    if rows is None:
        return zeros
    count = jax.tree.leaves(rows)[0].shape[0]
    if count == 1:
        return tree.set_rows(zeros, 0, rows)
    signs = arbitrary_signs(fold_in(seed, 1), count, jnp.float32)
    place = jnp.arange(count, dtype=jnp.int32) % block_size
    weights = jnp.where(place[:, None] == jnp.arange(block_size, dtype=jnp.int32)[None, :], signs[:, None], 0)
    sums = tree.combine(weights.astype(tree.accumulation_dtype(rows)), rows)
    given = min(count, block_size)
    return jax.tree.map(lambda x, y: jnp.concatenate([x[:given].astype(y.dtype), y[given:]]), sums, zeros)


def is_start_block(op: LinearOperator, v0: Any) -> bool:
    """Return whether v0 is a result or a stack of vectors, and not one vector."""
    return isinstance(v0, EigenResult) or (v0 is not None and _is_stacked(v0, op.structure))


def given_vectors(rows: PyTree) -> GivenVectors:
    """Orthonormalize the rows one after another."""

    def clean(i, carry):
        done, independent = carry
        row = tree.row(rows, i)
        row = normalize(row, tree.norm(row))
        residual = orthogonalize(done, row)
        done = tree.set_row(done, i, normalize(residual.vector, residual.norm))
        return done, independent & (residual.norm > _DEPENDENT)

    count = jax.tree.leaves(rows)[0].shape[0]
    return GivenVectors(*jax.lax.fori_loop(0, count, clean, (jax.tree.map(jnp.zeros_like, rows), jnp.ones((), bool))))


def distance_from(rows: PyTree, direction: PyTree, length: jax.Array) -> jax.Array:
    """Compute the distance, (), of the vector length * direction from the span of orthonormal rows.

    For A x with x = sum_i +- x_i / sqrt(q), this is the root mean square of the residuals of the rows.
    """
    return length * tree.norm(project_out_of_vector(rows, direction))


def rayleigh_ritz(op: LinearOperator, rows: PyTree) -> RayleighRitz:
    """Compute the Ritz pairs of the span of q orthonormal rows, at q matvecs, in the memory of 2 q vectors."""
    images = jax.lax.map(lambda row: matvec(op, row), rows)
    projected = tree.gram(rows, images)
    values, rotation = jnp.linalg.eigh((projected + jnp.conj(projected).T) / 2)
    vectors = tree.combine(rotation, rows)

    def residual(pair):
        value, column, vector = pair
        return tree.norm(tree.add_scaled(tree.combine(column, images), -value, vector))

    return RayleighRitz(values, vectors, jax.lax.map(residual, (values, rotation.T, vectors)))


def _is_stacked(v0: Any, structure: PyTree) -> bool:
    """Return whether v0 has the shape of the operator's vectors with one leading axis, the same on every leaf."""
    if jax.tree.structure(v0) != jax.tree.structure(structure):
        return False
    pairs = [
        (jnp.shape(x), leaf.shape) for x, leaf in zip(jax.tree.leaves(v0), jax.tree.leaves(structure), strict=True)
    ]
    lengths = {shape[0] for shape, expected in pairs if len(shape) == len(expected) + 1 and shape[1:] == expected}
    return len(lengths) == 1 and all(len(shape) == len(expected) + 1 for shape, expected in pairs)
