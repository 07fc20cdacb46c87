"""Result of a restarted solve: the pairs of its last convergence check, with verified residuals."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.krylov.thick_restart import outside_of_basis
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence import missed_pairs
from eigenjax.solvers.convergence.error_bounds import with_error_bounds
from eigenjax.solvers.convergence.residuals import VERIFICATION_TOLERANCE, rounding_unit, verified_residuals
from eigenjax.solvers.convergence.status import CandidatePairs, with_status
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.solvers.warm_start import RayleighRitz, given_vectors, rayleigh_ritz
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
    k = spec.k
    values, residuals = state.found.values[:k], state.found.residuals[:k]
    coefficients = state.found.coefficients[:, :k]
    vectors = storage.combine(coefficients, state.krylov.basis)
    if storage.is_narrow(state.krylov.basis):
        pairs = _polished(op, vectors, spec, sigma)
        vectors, _ = fix_signs(pairs.vectors, references=references)
        num_matvecs = state.krylov.num_matvecs + k
        norm_estimate = jnp.maximum(state.norm_estimate, jnp.max(jnp.abs(pairs.values)))
        valid = jnp.isfinite(residuals)
        candidates = CandidatePairs(pairs.values, vectors, pairs.residuals, valid, num_matvecs)
        return _with_status(op, candidates, state, spec, tol, norm_estimate, jnp.zeros_like(norm_estimate))
    vectors, phases = fix_signs(vectors, references=references)
    valid = jnp.isfinite(residuals)

    # A V C = V H C + D^T B C + w s^H C, where D and the part of w outside of V and D are orthogonal.
    part = state.krylov
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
    seed, num_restarts = state.krylov.seed, state.krylov.num_restarts
    # A Ritz value of a small Krylov space may be far below the norm.
    norm = jnp.maximum(state.norm_estimate, state.krylov.operator_norm)
    residuals, discrepancy, num_verifications = verified_residuals(
        op, values, vectors, estimates, predict, norm, seed, num_restarts, needed
    )
    residuals = jnp.where(valid | jnp.isnan(residuals), residuals, jnp.inf)
    num_matvecs = state.krylov.num_matvecs + num_verifications
    candidates = CandidatePairs(values, vectors, residuals, valid, num_matvecs)
    return _with_status(op, candidates, state, spec, tol, state.norm_estimate, discrepancy)


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
    complete = state.krylov.num_valid >= op.size
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
    return with_error_bounds(result, state.found, complete=complete, rounding=rounding)


def _polished(op: LinearOperator, vectors: PyTree, spec: SolveSpec, sigma: Any) -> RayleighRitz:
    """Compute the Ritz pairs of vectors combined from rounded rows, in the wanted order, at k matvecs.

    The eigenvalue error is quadratic in the vector error.
    """
    pairs = rayleigh_ritz(op, given_vectors(vectors).rows)
    order = ritz.pair_order(pairs.values, spec.which, sigma if spec.interior else None)
    return RayleighRitz(pairs.values[order], jax.tree.map(lambda x: x[order], pairs.vectors), pairs.residuals[order])
