"""Verified residuals: estimates of the recurrence, confirmed by a matvec."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
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

    return verified_residuals(op, eigenvalues, vectors, jnp.abs(coefficients), predict, operator_norm, seed)


def verified_residuals(
    op: LinearOperator,
    eigenvalues: jax.Array,
    vectors: PyTree,
    estimated: jax.Array,
    predict: Callable[[jax.Array], PyTree],
    operator_norm: jax.Array,
    seed: jax.Array,
    num_restarts: jax.Array | int = 0,
    needed: jax.Array | bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Verify estimated residual norms with one matvec of a random combination; recompute each if it does not confirm.

    Args:
        op: the operator.
        eigenvalues: (k,) the lambda_i.
        vectors: k unit vectors v_i.
        estimated: (k,) estimated residual norms.
        predict: (k,) signs s -> the prediction of A (sum_i s_i v_i) by the method.
        operator_norm: () norm estimate of A.
        seed: seed of the signs.
        num_restarts: () number of basis changes, each of which adds to the rounding.
        needed: () bool; if False, no matvec is made, and the estimates are returned.

    Returns:
        `residuals, discrepancy, num_matvecs`: (k,), () ||A u - predicted|| / sqrt(k) with u = sum_i s_i v_i, () int32
        0, 1 or k + 1.
    """
    k = eigenvalues.shape[0]
    signs = arbitrary_signs(seed, k, eigenvalues.dtype)
    combined, predicted = verification_vector(vectors, eigenvalues.dtype, seed), predict(signs)
    growth = jnp.sqrt(1 + jnp.asarray(num_restarts, eigenvalues.dtype))
    bound = VERIFICATION_TOLERANCE * growth * rounding_unit(op) * operator_norm

    # One loop for the verification and for the residuals that it may require, so that the matvec is compiled once.
    def body(carry):
        i, _, discrepancy, residuals = carry
        pair = jnp.maximum(i - 1, 0)
        first = i == 0
        vector = tree.where(first, combined, tree.row(vectors, pair))
        expected = tree.where(first, predicted, tree.scale(eigenvalues[pair], vector))
        length = tree.norm(tree.add_scaled(matvec(op, vector), -1.0, expected))
        discrepancy = jnp.where(first, length / k**0.5, discrepancy)
        estimates = (discrepancy <= bound) | ~jnp.isfinite(discrepancy)
        residuals = jnp.where(first, jnp.hypot(estimated, discrepancy), residuals.at[pair].set(length))
        return i + 1, jnp.where(estimates, 1, 1 + k).astype(jnp.int32), discrepancy, residuals

    estimated, end = estimated.astype(eigenvalues.dtype), jnp.asarray(needed).astype(jnp.int32)
    start = (jnp.int32(0), end, jnp.zeros((), estimated.dtype), estimated)
    num_matvecs, _, discrepancy, residuals = jax.lax.while_loop(lambda carry: carry[0] < carry[1], body, start)
    return residuals, discrepancy, num_matvecs


def verification_vector(vectors: PyTree, dtype: Any, seed: jax.Array) -> PyTree:
    """Return the sum of the k vectors with random signs, the vector of the verifying matvec."""
    return tree.combine(arbitrary_signs(seed, jax.tree.leaves(vectors)[0].shape[0], dtype), vectors)


def true_residuals(op: LinearOperator, eigenvalues: jax.Array, vectors: PyTree) -> jax.Array:
    """Compute the (k,) norms ||A v_i - lambda_i v_i|| with k matvecs, one after another in the memory of one."""
    return jax.lax.map(lambda pair: _residual(op, *pair), (eigenvalues, vectors))


def rounding_unit(op: LinearOperator) -> float:
    """Return the machine epsilon of a matvec: that of the narrowest leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(op.structure))


def _residual(op: LinearOperator, eigenvalue: jax.Array, vector: PyTree) -> jax.Array:
    return tree.norm(tree.add_scaled(matvec(op, vector), -eigenvalue, vector))
