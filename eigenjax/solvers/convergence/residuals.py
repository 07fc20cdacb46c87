"""Residuals that are true: claimed by the recurrence, vouched for by a product."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_signs
from eigenjax.vectors.tree import PyTree

# A product and a recurrence in floating point are off by a few units; a dozen of them pass for rounding. A restart
# turns the basis by what an eigensolver of small matrices returns: 3 to 6 units more each time, in float64 with m = 50,
# that add up as errors without relation do.
AUDIT_TOLERANCE = 12.0


def vouched_residuals(
    op: LinearOperator,
    eigenvalues: jax.Array,
    vectors: PyTree,
    coefficients: jax.Array,
    direction: PyTree,
    operator_norm: jax.Array,
    seed: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Residual norms to a few eps ||A||: the recurrence's own where one product confirms them, else recomputed.

    The recurrence says A v_i = lambda_i v_i + c_i d + e_i with e_i of the order of rounding. With random signs s_i,

        A (sum_i s_i v_i) - sum_i s_i (lambda_i v_i + c_i d) = sum_i s_i e_i

    whose norm is about (sum_i ||e_i||^2)^(1/2): one product shows whether all e_i are as small as claimed. Where they
    are not (the operator is not symmetric, not linear, not the same at every call) each residual is computed anew.

    Args:
        op: the operator.
        eigenvalues: (k,).
        vectors: k unit vectors.
        coefficients: (k,), the c_i.
        direction: d, a unit vector or zero.
        operator_norm: () an estimate of ||A||.
        seed: of the signs.

    Returns:
        `residuals, discrepancy, num_matvecs`: (k,), () the norm of sum_i s_i e_i over sqrt(k), () int32 1 or k + 1.
    """
    phases = coefficients.astype(tree.accumulation_dtype(vectors))

    def predict(signs):
        along = tree.combine(signs.astype(eigenvalues.dtype) * eigenvalues, vectors)
        return tree.add_scaled(along, jnp.sum(signs.astype(phases.dtype) * phases), direction)

    return audited_residuals(op, eigenvalues, vectors, jnp.abs(coefficients), predict, operator_norm, seed)


def audited_residuals(
    op: LinearOperator,
    eigenvalues: jax.Array,
    vectors: PyTree,
    claimed: jax.Array,
    predict: Callable[[jax.Array], PyTree],
    operator_norm: jax.Array,
    seed: jax.Array,
    num_restarts: jax.Array | int = 0,
    needed: jax.Array | bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same for a method that says otherwise what the images are.

    Args:
        op: the operator.
        eigenvalues: (k,).
        vectors: k unit vectors.
        claimed: (k,) the residual norms that follow from what the method says.
        predict: (k,) signs s -> A (sum_i s_i v_i), as the method has it.
        operator_norm: () an estimate of ||A||.
        seed: of the signs.
        num_restarts: () how often the basis was turned, each of which adds to the rounding.
        needed: () bool; where it is False no product is taken, and what is claimed is believed.

    Returns:
        As above.
    """
    k = eigenvalues.shape[0]
    signs = arbitrary_signs(seed, k, eigenvalues.dtype)
    audited, predicted = audited_vector(vectors, eigenvalues.dtype, seed), predict(signs)
    turned = jnp.sqrt(1 + jnp.asarray(num_restarts, eigenvalues.dtype))
    bound = AUDIT_TOLERANCE * turned * rounding_unit(op) * operator_norm

    # One loop for the audit and for the residuals that it may call for, so that the product is compiled once.
    def turn(carry):
        i, _, discrepancy, residuals = carry
        pair = jnp.maximum(i - 1, 0)
        first = i == 0
        vector = tree.where(first, audited, tree.row(vectors, pair))
        expected = tree.where(first, predicted, tree.scale(eigenvalues[pair], vector))
        length = tree.norm(tree.add_scaled(matvec(op, vector), -1.0, expected))
        discrepancy = jnp.where(first, length / k**0.5, discrepancy)
        believed = (discrepancy <= bound) | ~jnp.isfinite(discrepancy)
        residuals = jnp.where(first, jnp.hypot(claimed, discrepancy), residuals.at[pair].set(length))
        return i + 1, jnp.where(believed, 1, 1 + k).astype(jnp.int32), discrepancy, residuals

    claimed, end = claimed.astype(eigenvalues.dtype), jnp.asarray(needed).astype(jnp.int32)
    start = (jnp.int32(0), end, jnp.zeros((), claimed.dtype), claimed)
    spent, _, discrepancy, residuals = jax.lax.while_loop(lambda carry: carry[0] < carry[1], turn, start)
    return residuals, discrepancy, spent


def audited_vector(vectors: PyTree, dtype: Any, seed: jax.Array) -> PyTree:
    """The sum of the k vectors with random signs, whose product the audit asks for."""
    return tree.combine(arbitrary_signs(seed, jax.tree.leaves(vectors)[0].shape[0], dtype), vectors)


def true_residuals(op: LinearOperator, eigenvalues: jax.Array, vectors: PyTree) -> jax.Array:
    """The (k,) norms ||A v_i - lambda_i v_i||, one after another in the memory of one product; k products."""
    return jax.lax.map(lambda pair: _residual(op, *pair), (eigenvalues, vectors))


def rounding_unit(op: LinearOperator) -> float:
    """The machine epsilon of a product: that of the narrowest leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(op.structure))


def _residual(op: LinearOperator, eigenvalue: jax.Array, vector: PyTree) -> jax.Array:
    return tree.norm(tree.add_scaled(matvec(op, vector), -eigenvalue, vector))
