"""Convergence information of the reverse pass of `svds`: the systems of the dilation on the complement."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.implicit.gauge import before_phases
from eigenjax.implicit.info.adjoint_info import AdjointInfo, solve_info
from eigenjax.implicit.systems import dilation
from eigenjax.implicit.systems.triplets import (
    SolvedTriplets,
    antihermitian,
    norm_of,
    positive,
    reciprocal_gaps,
    triplet_norm_estimate,
)
from eigenjax.operators.base import check_vector
from eigenjax.operators.maps import RectangularOperator
from eigenjax.result import SingularResult
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide


@functools.partial(jax.jit, static_argnames=("max_iter", "which"))
def information(
    op: RectangularOperator,
    result: SingularResult,
    cotangent: Any,
    adjoint_tol: Any,
    *,
    max_iter: int | None,
    which: str | None,
) -> AdjointInfo:
    """Compute the `AdjointInfo` of the largest singular triplets, or of the smallest if which is "SM"."""
    if adjoint_tol is not None:
        adjoint_tol = jnp.asarray(adjoint_tol).astype(result.residuals.dtype)
    solved = SolvedTriplets(op, result.left, result.values, result.right, result.residuals, adjoint_tol)
    if which == "SM":
        solved = solved._replace(norm=norm_of(op, result.residuals.dtype))
    given = (cotangent.left, cotangent.right) if isinstance(cotangent, SingularResult) else tuple(cotangent)
    check_vector(given, tree.structure_of((result.left, result.right)), name="the cotangent of the singular vectors")
    # Right before left: the right vectors fix the phases.
    bars = before_phases(result.right, given[::-1], along=result.left)[::-1]
    gauge = _dropped(solved, bars)
    whole = jax.vmap(tree.norm)(bars)
    if result.values.shape[0] == max(op.shape):  # there is no complement
        zeros = jnp.zeros_like(whole)
        none = jnp.zeros(whole.shape, jnp.int32)
        return solve_info(zeros, whole=whole, targets=zeros, reach=zeros, steps=none, matvecs_per_step=2, gauge=gauge)
    if not solved.are_smallest:
        bars = jax.vmap(tree.scale)(positive(solved), bars)
    found = dilation.iterate(solved, bars, max_iter)
    residuals = jax.tree.map(jnp.subtract, dilation.outside(solved, bars), dilation.shifted(solved, found.vectors))
    norms = jax.vmap(tree.norm)(residuals)
    reach = triplet_norm_estimate(solved) * jax.vmap(tree.norm)(found.vectors)
    if solved.are_smallest:
        is_zero = positive(solved) == 0
        # Along left null vectors of a tall A the system has no solution, and the loss no derivative.
        gauge = jnp.maximum(gauge, jnp.max(jnp.where(is_zero, norms, 0)))
        norms = jnp.where(is_zero, found.residuals, norms)
        # The residual of the system with A^H A is s_i times that of the whole.
        reach = reach * safe_divide(triplet_norm_estimate(solved), solved.values, where=~is_zero, otherwise=1)
    return solve_info(
        norms,
        whole=whole,
        targets=found.targets,
        reach=reach,
        steps=found.num_steps,
        matvecs_per_step=2,
        gauge=gauge,
    )


def _dropped(solved: SolvedTriplets, bars: Any) -> jax.Array:
    """Compute the part of the cotangents without a derivative: rotations in clusters, and vectors of the value zero."""
    pairs = zip((solved.left, solved.right), bars, strict=True)
    left, right = (antihermitian(tree.gram(vectors, bar)) for vectors, bar in pairs)
    between, across = reciprocal_gaps(solved, left.dtype)
    within_clusters = jnp.where(between == 0, jnp.abs(left + right), 0)
    apart = jnp.where(across == 0, jnp.abs(left - right), 0)
    dropped = jnp.maximum(jnp.max(within_clusters), jnp.max(apart))
    if solved.are_smallest:
        return dropped
    outside = jax.vmap(tree.norm)(dilation.outside(solved, bars))
    return jnp.maximum(dropped, jnp.max(jnp.where(positive(solved) > 0, 0, outside)))
