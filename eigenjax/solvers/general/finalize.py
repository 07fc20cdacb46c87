"""Result of a Krylov-Schur state, with verified residuals."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.krylov.general.general_ritz import converged_first
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators import complexified
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence import missed_pairs, search_targets
from eigenjax.solvers.convergence.residuals import VERIFICATION_TOLERANCE
from eigenjax.solvers.convergence.status import CandidatePairs, with_status
from eigenjax.solvers.general.krylov_schur import KrylovSchurState
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.pseudorandom import arbitrary_signs
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree


def finalize(op: LinearOperator, state: KrylovSchurState, spec: SolveSpec, *, tol: Any) -> EigenResult:
    """Compute the result of a state with verified residuals, at one matvec, or more if that one contradicts them."""
    k, part = spec.k, state.krylov
    bound = search_targets.bounds_of(op, spec, tol, part.operator_norm, values=state.found.values).locked
    # An interrupted search may contain pairs that have not converged: the converged ones are returned instead.
    unfinished = state.search.running & ~state.search.satisfied
    found = tree.where(unfinished, converged_first(state.found, bound), state.found)
    values, residuals, coefficients = found.values[:k], found.residuals[:k], found.coefficients[:, :k]
    vectors, _ = fix_signs(complexified.combine(coefficients, part.basis))
    valid = jnp.isfinite(residuals)
    unverified = (residuals, jnp.zeros_like(part.operator_norm), jnp.zeros((), jnp.int32))
    # The decomposition lacks the parts that a search dropped: each residual is then recomputed.
    searched = state.search.running | (state.search.num_searches > 0)
    estimated = jnp.where(valid, residuals, 0)
    verification = lambda _: _verified(op, part, values, vectors, coefficients, estimated, searched)
    residuals, discrepancy, num_verifications = apply_when(jnp.any(valid), verification, unverified)
    residuals = jnp.where(valid | jnp.isnan(residuals), residuals, jnp.inf)
    pairs = CandidatePairs(values, vectors, residuals, valid, part.num_matvecs + num_verifications)
    verified = part.spans(op.size) | state.search.satisfied if spec.verify else True
    finite = jnp.isfinite(part.operator_norm)
    result = with_status(
        op, pairs, tol=tol, norm_estimate=part.operator_norm, discrepancy=discrepancy, finite=finite, verified=verified
    )
    recovered = missed_pairs.num_recovered(state.search, values, 2 * jnp.max(residuals))
    return result._replace(num_probes=state.search.num_searches, num_recovered=recovered)


def _verified(
    op: LinearOperator,
    part: KrylovDecomposition,
    values: jax.Array,
    vectors: PyTree,
    coefficients: jax.Array,
    estimated: jax.Array,
    searched: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the estimated residuals if one matvec confirms A V c = V H c + d b^H c, else recompute each of them.

    c is a random sum of the coefficients, or of their real and imaginary parts where A is real.

    Returns:
        `residuals, discrepancy, num_matvecs`.
    """
    real = not jnp.iscomplexobj(part.matrix)
    columns = jnp.concatenate([coefficients.real, coefficients.imag], axis=1) if real else coefficients
    count, num_parts = columns.shape[1], 2 if real else 1
    signs = arbitrary_signs(part.seed, count, columns.dtype)
    c = matmul(columns, signs)
    combined, predicted = tree.combine(c, part.basis), tree.combine(matmul(part.matrix, c), part.basis)
    predicted = tree.add_scaled(predicted, matmul(part.coupling[0], c), tree.row(part.residual_block, 0))
    bound = VERIFICATION_TOLERANCE * rounding_unit(op) * part.operator_norm

    # One loop for the verification and for the residuals that it may require, so that the matvec is compiled once.
    def body(carry):
        step, _, discrepancy, residuals = carry
        pair, place = jnp.maximum(step - 1, 0) // num_parts, jnp.maximum(step - 1, 0) % num_parts
        first, vector = step == 0, tree.row(vectors, pair)
        part_of = lambda x: jax.tree.map(lambda x: jnp.where(place == 0, x.real, x.imag), x) if real else x
        expected = tree.where(first, predicted, part_of(tree.scale(values[pair], vector)))
        image = matvec(op, tree.where(first, combined, part_of(vector)))
        length = tree.norm(tree.add_scaled(image, -1.0, expected))
        discrepancy = jnp.where(first, length / count**0.5, discrepancy)
        confirmed = ((discrepancy <= bound) & ~searched) | ~jnp.isfinite(discrepancy)
        before = jnp.where(place == 0, 0, residuals[pair])
        recomputed = residuals.at[pair].set(jnp.hypot(before, length))
        residuals = jnp.where(first, jnp.hypot(estimated, discrepancy), recomputed)
        end = jnp.where(confirmed, 1, 1 + num_parts * values.shape[0]).astype(jnp.int32)
        return step + 1, end, discrepancy, residuals

    start = (jnp.int32(0), jnp.int32(1), jnp.zeros_like(part.operator_norm), estimated)
    num_matvecs, _, discrepancy, residuals = jax.lax.while_loop(lambda carry: carry[0] < carry[1], body, start)
    return residuals, discrepancy, num_matvecs
