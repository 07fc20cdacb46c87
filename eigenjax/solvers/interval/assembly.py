"""Result of an interval: a Rayleigh-Ritz step with A in the span of the vectors found, and the pairs inside.

The vectors of the filter are accurate to its residuals, and may mix eigenvectors at which the filter has equal values.
The Rayleigh-Ritz step separates them. All residuals come from these matvecs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult, Status
from eigenjax.solvers.convergence.residuals import VERIFICATION_TOLERANCE
from eigenjax.solvers.convergence.status import CandidatePairs, with_status
from eigenjax.vectors import tree
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree


class Filtered(NamedTuple):
    """Vectors found by the solver of the filter."""

    vectors: PyTree  # q vectors, orthonormal where valid
    valid: jax.Array  # (q,) bool, the first ones
    complete: jax.Array  # () bool, no further eigenvalue lies inside, unless there was no room for it
    finite: jax.Array  # () bool, all matvecs are finite
    norm: jax.Array  # () norm estimate of A
    middle: jax.Array  # () the pairs nearest to this number are returned if there are more than k
    num_matvecs: jax.Array  # () int32
    num_probes: jax.Array  # () int32, missed-pair searches


class _Pairs(NamedTuple):
    values: jax.Array  # (q,) ascending, the valid ones first
    vectors: PyTree
    residuals: jax.Array  # (q,)
    valid: jax.Array  # (q,) bool
    discrepancy: jax.Array  # () ||X^H A X - (X^H A X)^H||


def assembled(
    op: LinearOperator,
    k: int,
    solution: Filtered,
    interval: tuple[jax.Array, jax.Array],
    *,
    tol: Any,
    references: PyTree | None,
) -> EigenResult:
    """Return the pairs inside an interval, ascending, then empty ones with NaN; with true residuals.

    Args:
        op: the operator.
        k: number of pairs of the result.
        solution: the vectors.
        interval: its ends; a value that differs from one by rounding only is inside.
        tol: tolerance relative to the norm estimate, or `Tolerances`.
        references: vectors that the signs follow, or None.
    """
    pairs = _rayleigh_ritz(op, solution)
    norm = jnp.maximum(solution.norm, jnp.max(jnp.where(pairs.valid, jnp.abs(pairs.values), 0)))
    rounding = VERIFICATION_TOLERANCE * rounding_unit(op) * norm
    inside = pairs.valid & (pairs.values >= interval[0] - rounding) & (pairs.values <= interval[1] + rounding)
    inside = inside & (interval[0] <= interval[1])
    num_found = jnp.sum(inside, dtype=jnp.int32)
    order, present = selection(pairs.values, inside, solution.middle, k)
    chosen = lambda x: jax.tree.map(lambda leaf: leaf[order], x)
    vectors, _ = fix_signs(chosen(pairs.vectors), references=references)
    residuals = jnp.where(present, pairs.residuals[order], 0)
    num_matvecs = solution.num_matvecs + jnp.sum(solution.valid, dtype=jnp.int32)
    result = with_status(
        op,
        CandidatePairs(pairs.values[order], vectors, residuals, jnp.ones(k, bool), num_matvecs),
        tol=tol,
        norm_estimate=norm,
        discrepancy=pairs.discrepancy,
        finite=solution.finite,
        verified=solution.complete,
    )
    is_full = jnp.all(solution.valid) & (solution.valid.shape[0] < op.size)
    result = with_interval(result, present, num_found, is_full)
    # All eigenvalues that were not computed are outside of the interval, unless there are more than k.
    to_ends = jnp.minimum(result.eigenvalues - interval[0], interval[1] - result.eigenvalues)
    gap = jnp.maximum(jnp.min(jnp.where(present, to_ends, jnp.inf)), 0)
    errors = result.residuals + rounding
    return result._replace(
        gap=jnp.where(is_full | (num_found > k), 0, gap),
        error_bounds=errors,
        error_estimates=errors,
        num_probes=solution.num_probes,
        num_recovered=jnp.zeros_like(solution.num_probes),
    )


def selection(values: jax.Array, inside: jax.Array, middle: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Select the values inside an interval, ascending; if there are more than k, those nearest to its middle.

    Returns:
        (k,) int32 indices, and (k,) bool, whether there is such a value.

    >>> print(*selection(jnp.array([1.0, 2.0, 3.0]), jnp.array([False, True, True]), jnp.float32(3.0), 1))
    [2] [ True]
    """
    distances = jnp.where(inside, jnp.abs(values - middle), jnp.inf)
    rank = jnp.argsort(jnp.argsort(distances, stable=True), stable=True)
    kept = inside & (rank < k)
    order = jnp.argsort(jnp.where(kept, values, jnp.inf), stable=True)[:k]
    return order, kept[order]


def with_interval(result: EigenResult, present: jax.Array, num_found: jax.Array, is_full: jax.Array) -> EigenResult:
    """Empty the places behind the pairs inside, and set the status and the number of an interval.

    Args:
        result: k pairs with their status; the empty ones count as converged.
        present: (k,) bool, the pairs that exist.
        num_found: () int32, number of eigenvalues found inside.
        is_full: () bool, there may be more eigenvalues than there was room for.
    """
    finite = result.status != Status.NONFINITE
    or_nan = lambda x: jnp.where(present, x, jnp.nan)
    may_hold_more = is_full & (result.status == Status.CONVERGED)
    status = jnp.where(may_hold_more, jnp.int32(Status.UNVERIFIED), result.status)
    k = present.shape[0]
    status = jnp.where(finite & (num_found > k), jnp.int32(Status.MORE_INSIDE), status)
    # Vectors of empty places are zero, those of a failed matvec NaN.
    zero = jax.tree.map(jnp.zeros_like, result.eigenvectors)
    vectors = jax.vmap(tree.where)(present | ~finite, result.eigenvectors, zero)
    return result._replace(
        eigenvalues=or_nan(result.eigenvalues),
        eigenvectors=vectors,
        residuals=or_nan(result.residuals),
        converged=result.converged & present,
        status=status,
        num_found=jnp.where(finite, num_found, 0),
    )


def _rayleigh_ritz(op: LinearOperator, solution: Filtered) -> _Pairs:
    vectors, valid = solution.vectors, solution.valid
    vectors = jax.vmap(tree.where)(valid, vectors, jax.tree.map(jnp.zeros_like, vectors))
    multiply = lambda i, images: tree.set_row(images, i, matvec(op, tree.row(vectors, i)))
    count = jnp.sum(valid, dtype=jnp.int32)
    images = jax.lax.fori_loop(0, count, multiply, jax.tree.map(jnp.zeros_like, vectors))
    projected = tree.gram(vectors, images)
    skew = projected - jnp.conj(projected).T
    values, rotation, valid = ritz.masked_eigh((projected + jnp.conj(projected).T) / 2, valid)
    rotated = tree.combine(rotation, vectors)
    defects = jax.tree.map(lambda x, y: x - y, tree.combine(rotation, images), jax.vmap(tree.scale)(values, rotated))
    discrepancy = jnp.max(jnp.sqrt(jnp.sum(jnp.square(jnp.abs(skew)), axis=1)))
    return _Pairs(values, rotated, tree.norms(defects), valid, discrepancy)
