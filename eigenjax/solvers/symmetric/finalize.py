"""Result of a restarted solve: the pairs of its last convergence check, with verified residuals.

`finalize` makes the matvecs of the verification itself; `begin` and `conclude` stand before and after matvecs that are
computed elsewhere.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.krylov.thick_restart import outside_of_basis
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence import missed_pairs
from eigenjax.solvers.convergence.error_bounds import with_error_bounds
from eigenjax.solvers.convergence.residuals import (
    VERIFICATION_TOLERANCE,
    Verification,
    VerificationProgress,
    begin_verification,
    verify,
)
from eigenjax.solvers.convergence.status import CandidatePairs, with_status
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.solvers.warm_start import given_vectors, rayleigh_ritz
from eigenjax.vectors import storage, tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree


def finalize(
    op: LinearOperator,
    state: RestartedState,
    spec: SolveSpec,
    *,
    tol: Any,
    sigma: Any = 0.0,
    references: PyTree | None = None,
) -> EigenResult:
    """Compute the result of a state with verified residuals, at one matvec, or k + 1 if that one contradicts them."""
    if storage.is_narrow(state.krylov.basis):
        return _polished_result(op, state, spec, tol, sigma, references)
    verification, progress = begin(op, state, spec, references)
    return conclude(op, state, spec, verification, verify(op, verification, progress), tol=tol)


def begin(
    op: LinearOperator, state: RestartedState, spec: SolveSpec, references: PyTree | None
) -> tuple[Verification, VerificationProgress]:
    """Return the pairs of a state, and the verification of their residuals; only the structure of `op` is used."""
    k, part = spec.k, state.krylov
    values, residuals = state.found.values[:k], state.found.residuals[:k]
    coefficients = state.found.coefficients[:, :k]
    vectors, phases = fix_signs(storage.combine(coefficients, part.basis), references=references)
    valid = jnp.isfinite(residuals)

    # A V C = V H C + D^T B C + w s^H C, where D and the part of w outside of V and D are orthogonal.
    images = matmul(part.matrix, coefficients)
    along_dropped = matmul(part.dropped_couplings, coefficients)
    along, outside, length = _left_out(part, coefficients)

    def predict(signs):
        weights = signs.astype(phases.dtype) * phases
        image = storage.combine(matmul(images, weights), part.basis)
        image = jax.tree.map(jnp.add, image, tree.combine(matmul(along, weights), part.residual_block))
        return tree.add_scaled(image, matmul(along_dropped, weights), outside)

    # The defects are left out: the verification finds them if they are still present.
    inside = images - coefficients * values.astype(coefficients.dtype)[None, :]
    estimated = jax.vmap(tree.norm, in_axes=1)(
        (inside, along, (length.astype(along_dropped.dtype) * along_dropped)[None])
    )
    needed = ~state.residuals_verified & jnp.any(valid)
    estimates = jnp.where(needed, jnp.where(valid, estimated, 0), residuals)
    # A Ritz value of a small Krylov space may be far below the norm.
    norm = jnp.maximum(state.norm_estimate, part.operator_norm)
    return begin_verification(
        op, values, vectors, estimates, predict, norm, part.seed, num_restarts=part.num_restarts, needed=needed
    )


def conclude(
    op: LinearOperator,
    state: RestartedState,
    spec: SolveSpec,
    verification: Verification,
    progress: VerificationProgress,
    *,
    tol: Any,
) -> EigenResult:
    """Return the result of a state whose residuals are verified; only the structure of `op` is used."""
    valid, residuals = jnp.isfinite(state.found.residuals[: spec.k]), progress.residuals
    residuals = jnp.where(valid | jnp.isnan(residuals), residuals, jnp.inf)
    num_matvecs = state.krylov.num_matvecs + progress.num_matvecs
    candidates = CandidatePairs(verification.eigenvalues, verification.vectors, residuals, valid, num_matvecs)
    return _with_status(op, candidates, state, spec, tol, state.norm_estimate, progress.discrepancy)


def _left_out(part: KrylovDecomposition, coefficients: jax.Array) -> tuple[jax.Array, PyTree, jax.Array]:
    """Compute the (b, k) components of A V C along D, the part of w outside of V and D, and its length."""
    along = matmul(part.coupling, coefficients)
    outside = outside_of_basis(part, jnp.ones((), bool))
    on_directions = tree.project(part.residual_block, outside)
    outside = tree.add_scaled(outside, -1.0, tree.combine(on_directions, part.residual_block))
    along = along + on_directions[:, None] * matmul(part.dropped_couplings, coefficients)[None, :]
    return along, outside, tree.norm(outside)


def _with_status(
    op: LinearOperator,
    pairs: CandidatePairs,
    state: RestartedState,
    spec: SolveSpec,
    tol: Any,
    norm_estimate: jax.Array,
    discrepancy: jax.Array,
) -> EigenResult:
    finite = jnp.isfinite(state.krylov.operator_norm)
    complete = state.krylov.spans(op.size)
    verified = complete | state.search.satisfied if spec.verify else jnp.ones((), bool)
    result = with_status(
        op,
        pairs,
        tol=tol,
        norm_estimate=norm_estimate,
        discrepancy=discrepancy,
        finite=finite,
        storage_error=spec.storage.unit,
        verified=verified,
    )
    recovered = missed_pairs.num_recovered(state.search, result.eigenvalues, 2 * jnp.max(result.residuals))
    result = result._replace(num_probes=state.search.num_searches, num_recovered=recovered)
    # The discrepancy that the verification accepts as rounding.
    units = VERIFICATION_TOLERANCE * jnp.sqrt(1 + state.krylov.num_restarts.astype(norm_estimate.dtype))
    rounding = units * rounding_unit(op) * norm_estimate
    return with_error_bounds(op, result, state.found, complete=complete, rounding=rounding)


def _polished_result(
    op: LinearOperator, state: RestartedState, spec: SolveSpec, tol: Any, sigma: Any, references: PyTree | None
) -> EigenResult:
    """Return the Ritz pairs of vectors combined from rounded rows, at k matvecs.

    The eigenvalue error is quadratic in the vector error.
    """
    k = spec.k
    vectors = storage.combine(state.found.coefficients[:, :k], state.krylov.basis)
    pairs = rayleigh_ritz(op, given_vectors(vectors).rows)
    order = ritz.pair_order(pairs.values, spec.which, sigma if spec.interior else None)
    vectors, _ = fix_signs(jax.tree.map(lambda x: x[order], pairs.vectors), references=references)
    norm_estimate = jnp.maximum(state.norm_estimate, jnp.max(jnp.abs(pairs.values)))
    valid, num_matvecs = jnp.isfinite(state.found.residuals[:k]), state.krylov.num_matvecs + k
    candidates = CandidatePairs(pairs.values[order], vectors, pairs.residuals[order], valid, num_matvecs)
    return _with_status(op, candidates, state, spec, tol, norm_estimate, jnp.zeros_like(norm_estimate))
