"""Verified residuals: estimates of the recurrence, confirmed by a matvec."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_signs
from eigenjax.vectors.tree import PyTree

# A matvec and the recurrence differ by a few eps; up to a dozen counts as rounding. Each restart changes the basis by
# the error of an eigensolver of small matrices: another 3 to 6 eps, in float64 with m = 50. These errors add up like
# unrelated ones.
VERIFICATION_TOLERANCE = 12.0


def recurrence_residuals(
    op: LinearOperator,
    eigenvalues: jax.Array,
    vectors: PyTree,
    coefficients: jax.Array,
    direction: PyTree,
    operator_norm: jax.Array,
    seed: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute verified residual norms, with an error of a few eps ||A||.

    The recurrence predicts A v_i = lambda_i v_i + c_i d + e_i with e_i of the order of rounding. With random signs s_i,

        A (sum_i s_i v_i) - sum_i s_i (lambda_i v_i + c_i d) = sum_i s_i e_i

    whose norm is about (sum_i ||e_i||^2)^(1/2): one matvec shows whether all e_i are small. If they are, the estimates
    |c_i| are used. If not (the operator is not symmetric, not linear, or changes between calls), each residual is
    recomputed with a matvec.

    Args:
        op: the operator.
        eigenvalues: (k,) the lambda_i.
        vectors: k unit vectors v_i.
        coefficients: (k,) the c_i.
        direction: d, a unit vector or zero.
        operator_norm: () norm estimate of A.
        seed: seed of the signs.

    Returns:
        `residuals, discrepancy, num_matvecs`: (k,), () the norm of sum_i s_i e_i over sqrt(k), () int32 1 or k + 1.
    """
    phases = coefficients.astype(tree.accumulation_dtype(vectors))

    def predict(signs):
        along = tree.combine(signs.astype(eigenvalues.dtype) * eigenvalues, vectors)
        return tree.add_scaled(along, jnp.sum(signs.astype(phases.dtype) * phases), direction)

    estimated = jnp.abs(coefficients)
    progress = verify(op, *begin_verification(op, eigenvalues, vectors, estimated, predict, operator_norm, seed))
    return progress.residuals, progress.discrepancy, progress.num_matvecs


class Verification(NamedTuple):
    """Pairs with estimated residuals, and the matvec that verifies them."""

    eigenvalues: jax.Array  # (k,) the lambda_i
    vectors: PyTree  # k unit vectors v_i
    estimated: jax.Array  # (k,) estimated residual norms
    combined: PyTree  # u = sum_i s_i v_i with random signs s_i, the vector to multiply
    predicted: PyTree  # the prediction of A u by the method
    bound: jax.Array  # () a discrepancy below this is rounding


class VerificationProgress(NamedTuple):
    """State of a verification: one matvec, and one more for each pair if the first contradicts the estimates."""

    num_matvecs: jax.Array  # () int32, matvecs so far
    needed: jax.Array  # () int32, matvecs needed: 0, 1 or k + 1
    discrepancy: jax.Array  # () ||A u - predicted|| / sqrt(k)
    residuals: jax.Array  # (k,) residual norms, as far as they are known


def begin_verification(
    op: LinearOperator,
    eigenvalues: jax.Array,
    vectors: PyTree,
    estimated: jax.Array,
    predict: Callable[[jax.Array], PyTree],
    operator_norm: jax.Array,
    seed: jax.Array,
    num_restarts: jax.Array | int = 0,
    needed: jax.Array | bool = True,
) -> tuple[Verification, VerificationProgress]:
    """Prepare the verification of estimated residual norms by one matvec of a random combination; `verify` makes it.

    Args:
        op: the operator, of which only the structure is used.
        eigenvalues: (k,) the lambda_i.
        vectors: k unit vectors v_i.
        estimated: (k,) estimated residual norms.
        predict: (k,) signs s -> the prediction of A (sum_i s_i v_i) by the method.
        operator_norm: () norm estimate of A.
        seed: seed of the signs.
        num_restarts: () number of basis changes, each of which adds to the rounding.
        needed: () bool; if False, no matvec is needed, and the estimates are the residuals.
    """
    k = eigenvalues.shape[0]
    signs = arbitrary_signs(seed, k, eigenvalues.dtype)
    growth = jnp.sqrt(1 + jnp.asarray(num_restarts, eigenvalues.dtype))
    estimated = estimated.astype(eigenvalues.dtype)
    verification = Verification(
        eigenvalues=eigenvalues,
        vectors=vectors,
        estimated=estimated,
        combined=tree.combine(signs, vectors),
        predicted=predict(signs),
        bound=VERIFICATION_TOLERANCE * growth * rounding_unit(op) * operator_norm,
    )
    needed = jnp.asarray(needed).astype(jnp.int32)
    return verification, VerificationProgress(jnp.int32(0), needed, jnp.zeros((), estimated.dtype), estimated)


def verify(op: LinearOperator, verification: Verification, progress: VerificationProgress) -> VerificationProgress:
    """Make all matvecs of a verification."""

    # One loop for the verification and for the residuals that it may require, so that the matvec is compiled once.
    def advance(progress):
        return absorb_image(verification, progress, matvec(op, vector_to_multiply(verification, progress)))

    return jax.lax.while_loop(lambda progress: progress.num_matvecs < progress.needed, advance, progress)


def vector_to_multiply(verification: Verification, progress: VerificationProgress) -> PyTree:
    """Return the vector of the next matvec: the combination first, then each of the pairs."""
    vector = tree.row(verification.vectors, _pair(progress))
    return tree.where(progress.num_matvecs == 0, verification.combined, vector)


def absorb_image(verification: Verification, progress: VerificationProgress, image: PyTree) -> VerificationProgress:
    """Advance a verification by the matvec of `vector_to_multiply` (reverse communication)."""
    first, pair = progress.num_matvecs == 0, _pair(progress)
    k = verification.eigenvalues.shape[0]
    along = tree.scale(verification.eigenvalues[pair], tree.row(verification.vectors, pair))
    expected = tree.where(first, verification.predicted, along)
    length = tree.norm(tree.add_scaled(image, -1.0, expected))
    discrepancy = jnp.where(first, length / k**0.5, progress.discrepancy)
    estimates = (discrepancy <= verification.bound) | ~jnp.isfinite(discrepancy)
    recomputed = progress.residuals.at[pair].set(length)
    return VerificationProgress(
        num_matvecs=progress.num_matvecs + 1,
        needed=jnp.where(estimates, 1, 1 + k).astype(jnp.int32),
        discrepancy=discrepancy,
        residuals=jnp.where(first, jnp.hypot(verification.estimated, discrepancy), recomputed),
    )


def _pair(progress: VerificationProgress) -> jax.Array:
    return jnp.maximum(progress.num_matvecs - 1, 0)


def true_residuals(op: LinearOperator, eigenvalues: jax.Array, vectors: PyTree) -> jax.Array:
    """Compute the (k,) norms ||A v_i - lambda_i v_i|| with k matvecs, one after another in the memory of one."""
    return jax.lax.map(lambda pair: _residual(op, *pair), (eigenvalues, vectors))


def _residual(op: LinearOperator, eigenvalue: jax.Array, vector: PyTree) -> jax.Array:
    return tree.norm(tree.add_scaled(matvec(op, vector), -eigenvalue, vector))
