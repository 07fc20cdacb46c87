"""Accuracy and clusters of k computed eigenpairs, as a derivative needs them.

Two eigenvalues are in one cluster if the solve did not distinguish them:

    |lambda_i - lambda_j|  <=  4 (r_i + r_j) + 32 eps max |lambda|

with the residuals r. Within a cluster F_ji = 1 / (lambda_i - lambda_j) is set to zero: the vectors x_i of the cluster's
subspace vary without rotating in it. They no longer diagonalize A when A varies: X^H A X = H has

    d H_ji = <x_j, dA x_i>    for i and j in one cluster

which the second derivative must include. `cluster_coupling` is zero, with this derivative.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems.tangents import image_tangent
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import PyTree

# Two eigenvalues closer than this times the sum of their residuals are not distinguished by the forward solve ...
CLUSTER_RESIDUALS = 4.0
# ... nor two closer than this times eps of the largest.
CLUSTER_ROUNDING = 32.0
# The inner product of a unit vector and a cotangent is rounding below this times eps of the cotangent's norm.
ROUNDING_OF_PRODUCTS = 32.0


class Pairs(NamedTuple):
    """Eigenpairs of a derivative, k of them."""

    op: LinearOperator  # A
    eigenvalues: jax.Array  # (k,)
    vectors: PyTree  # k unit vectors
    residuals: jax.Array  # (k,) ||A x - lambda x||
    gaps: jax.Array | None  # (k,) lower bounds of the distance to all eigenvalues not computed; None: unknown
    sizes: jax.Array | None = None  # (k,) norms that rounding is relative to; None: the largest |lambda|


def pairs_of(op: LinearOperator, result: EigenResult, which: str | None = None) -> Pairs:
    """Build the pairs of a result; which: "LA", "SA", "LM" or "BE" if they are known to be selected by it."""
    if result.num_found is not None:
        result = _filled(result)
    gaps = None if result.gap is None else own_gaps(result.eigenvalues, result.gap, which)
    return Pairs(op, result.eigenvalues, result.eigenvectors, result.residuals, gaps)


def empty_places(result: EigenResult) -> jax.Array:
    """Return (k,) bool, the places of an interval without a pair: the eigenvalue is NaN, the vector zero.

    A failed matvec makes the vectors NaN too, and with them all derivatives.
    """
    lengths = tree.norms(jax.lax.stop_gradient(result.eigenvectors))
    return jnp.isnan(result.eigenvalues) & (lengths == 0)


def _filled(result: EigenResult) -> EigenResult:
    """Give the empty places the eigenvalue of the first pair, in whose cluster nothing is divided by gaps."""
    empty = empty_places(result)
    first = jnp.where(empty[0], 0, result.eigenvalues[0])
    return result._replace(
        eigenvalues=jnp.where(empty, first, result.eigenvalues), residuals=jnp.where(empty, 0, result.residuals)
    )


def own_gaps(eigenvalues: jax.Array, gap: jax.Array, which: str | None) -> jax.Array:
    """Bound the distance of each eigenvalue to all that are not computed, the nearest of which is `gap` away.

    Eigenvalues that are not computed are less wanted than the last of the k. With "LA" they lie below all of them, with
    "LM" no further from zero than the nearest of them, with "BE" between those of the two ends. For any other `which`,
    gap is the bound.

    >>> print(own_gaps(jnp.array([9.0, 4.0, 3.0]), jnp.array(0.5), "LA"))
    [6.5 1.5 0.5]
    >>> print(own_gaps(jnp.array([9.0, -4.0, 3.0]), jnp.array(0.5), "LM"))
    [6.  1.  0.5]
    """
    if which == "LA":
        return eigenvalues - jnp.min(eigenvalues) + gap
    if which == "SA":
        return jnp.max(eigenvalues) - eigenvalues + gap
    if which == "LM":
        return jnp.maximum(jnp.abs(eigenvalues) - jnp.min(jnp.abs(eigenvalues)), gap)
    if which == "BE":
        upper, lower = eigenvalues[::2], eigenvalues[1::2]
        below = jnp.zeros_like(eigenvalues).at[::2].set(upper - jnp.min(upper))
        return jnp.maximum(below.at[1::2].set(jnp.max(lower, initial=-jnp.inf) - lower), gap)
    return jnp.broadcast_to(gap, eigenvalues.shape)


def same_cluster(eigenvalues: jax.Array, residuals: jax.Array) -> jax.Array:
    """Return (k, k) bool: two eigenvalues are in one cluster; True on the diagonal.

    >>> print(same_cluster(jnp.array([4.0, 1.0, 1.0]), jnp.zeros(3)).astype(int))
    [[1 0 0]
     [0 1 1]
     [0 1 1]]
    """
    gaps = eigenvalues[None, :] - eigenvalues[:, None]
    unit = CLUSTER_ROUNDING * jnp.finfo(eigenvalues.dtype).eps
    width = CLUSTER_RESIDUALS * (residuals[None, :] + residuals[:, None]) + unit * jnp.max(jnp.abs(eigenvalues))
    # NaN is in no cluster but its own.
    return (jnp.abs(gaps) <= width) | jnp.eye(eigenvalues.shape[0], dtype=bool)


def divided_by_gaps(pairs: Pairs, numerators: jax.Array) -> jax.Array:
    """Compute C (k, k) with  C H - H C = numerators  between the clusters, and zero within them.

    Here H = diag(lambda) + E, with E the coupling within clusters, zero with a derivative. So C = F * (M - C E + E C),
    which to first order holds with F * M in place of C on the right.
    """
    return divided(pairs.eigenvalues, pairs.residuals, numerators, cluster_coupling(pairs))


def divided(eigenvalues: jax.Array, residuals: jax.Array, numerators: jax.Array, coupling: jax.Array) -> jax.Array:
    """Compute C of `divided_by_gaps` with the coupling E within clusters."""
    apart = ~same_cluster(eigenvalues, residuals)
    gaps = eigenvalues[None, :] - eigenvalues[:, None]
    factors = safe_divide(1, gaps, where=apart, otherwise=0).astype(numerators.dtype)
    multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    quotients = factors * numerators
    return factors * (numerators - multiply(quotients, coupling) + multiply(coupling, quotients))


def without_rounding(numerators: jax.Array, sizes: jax.Array) -> jax.Array:
    """Set numerators (k, k) that may be rounding to zero; their derivatives are unchanged.

    For a loss of an invariant subspace the antihermitian part a_ij is zero for i and j in it, except for rounding. This
    rounding must not be divided by a small gap. For any other loss a_ij is equally uncertain.

    Args:
        numerators: (k, k) a, of X^H Xbar.
        sizes: (k,) the norms of the columns of Xbar.
    """
    unit = ROUNDING_OF_PRODUCTS * float(jnp.finfo(sizes.dtype).eps)
    is_rounding = jnp.abs(numerators) <= unit * (sizes[None, :] + sizes[:, None])
    return numerators - jax.lax.stop_gradient(jnp.where(is_rounding, numerators, 0))


def cluster_coupling(pairs: Pairs) -> jax.Array:
    """Compute E (k, k): zero, at no matvec, with the derivative <x_j, dA x_i> off the diagonal within clusters."""
    alike = same_cluster(pairs.eigenvalues, pairs.residuals)
    mask = alike & ~jnp.eye(pairs.eigenvalues.shape[0], dtype=bool)
    return _coupling(pairs.op, pairs.vectors, mask)


@jax.custom_jvp
def _coupling(op: LinearOperator, vectors: PyTree, mask: jax.Array) -> jax.Array:
    del op  # only the derivative depends on it
    return jnp.zeros(mask.shape, tree.accumulation_dtype(vectors))


def _coupling_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    op, vectors, mask = primals
    zero = _coupling(*primals)
    images = image_tangent(op, tangents[0], vectors)
    if images is None:
        return zero, jnp.zeros_like(zero)
    return zero, jnp.where(mask, tree.gram(vectors, images), 0)


_coupling.defjvp(_coupling_jvp, symbolic_zeros=True)
