"""What a derivative needs of k computed eigenpairs: how accurate they are, and which of them are one cluster.

Two eigenvalues are one cluster where the solve did not tell them apart:

    |lambda_i - lambda_j|  <=  4 (r_i + r_j) + 32 eps max |lambda|

with the residuals r. Within a cluster F_ji = 1 / (lambda_i - lambda_j) is taken for zero: the frame x_i of the
cluster's subspace is carried along without turning in it. That frame no longer diagonalises A when A varies:
X^H A X = H has

    d H_ji = <x_j, dA x_i>    for i and j in one cluster

which the derivative of the derivative must know of, and `cluster_coupling` is zero with this derivative.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems.tangents import image_tangent
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Two eigenvalues closer than so many times the sum of their residuals are not told apart by the forward solve ...
CLUSTER_RESIDUALS = 4.0
# ... nor two closer than so many units of rounding of the largest.
CLUSTER_ROUNDING = 32.0
# An inner product of a unit vector with a cotangent is rounding below so many units of it, of the cotangent's norm.
ROUNDING_OF_PRODUCTS = 32.0


class Pairs(NamedTuple):
    """K eigenpairs."""

    op: LinearOperator
    eigenvalues: jax.Array  # (k,)
    vectors: PyTree  # k vectors
    residuals: jax.Array  # (k,)
    gaps: jax.Array | None  # (k,) at least this far is each eigenvalue from all that were left out; None: not known
    sizes: jax.Array | None = None  # (k,) norms that the rounding of products belongs to; None: the largest |lambda|


def pairs_of(op: LinearOperator, result: EigenResult, which: str | None = None) -> Pairs:
    """The pairs of a result; which: "LA", "SA", "LM" or "BE" where it is known that they were chosen so."""
    gaps = None if result.gap is None else own_gaps(result.eigenvalues, result.gap, which)
    return Pairs(op, result.eigenvalues, result.eigenvectors, result.residuals, gaps)


def own_gaps(eigenvalues: jax.Array, gap: jax.Array, which: str | None) -> jax.Array:
    """How far each eigenvalue is from all that were left out, of which the nearest to any is `gap` away.

    What is left out is wanted less than the last of the k: with "LA" it lies below all of them, with "LM" no further
    from zero than the nearest of them, with "BE" between the ones of the two ends. Without that, gap is all there is.

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
    """(k, k) bool, True on the diagonal.

    >>> print(same_cluster(jnp.array([4.0, 1.0, 1.0]), jnp.zeros(3)).astype(int))
    [[1 0 0]
     [0 1 1]
     [0 1 1]]
    """
    gaps = eigenvalues[None, :] - eigenvalues[:, None]
    unit = CLUSTER_ROUNDING * jnp.finfo(eigenvalues.dtype).eps
    width = CLUSTER_RESIDUALS * (residuals[None, :] + residuals[:, None]) + unit * jnp.max(jnp.abs(eigenvalues))
    # NaN belongs to no cluster but its own.
    return (jnp.abs(gaps) <= width) | jnp.eye(eigenvalues.shape[0], dtype=bool)


def divided_by_gaps(pairs: Pairs, numerators: jax.Array) -> jax.Array:
    """C (k, k) with  C H - H C = numerators  between the clusters, and zero within them.

    H = diag(lambda) + E, where E is the coupling within clusters, zero with a derivative. So C = F * (M - C E + E C),
    to first order with F * M in place of C on the right.
    """
    apart = ~same_cluster(pairs.eigenvalues, pairs.residuals)
    gaps = pairs.eigenvalues[None, :] - pairs.eigenvalues[:, None]
    factors = jnp.where(apart, 1 / jnp.where(apart, gaps, 1), 0).astype(numerators.dtype)
    coupling = cluster_coupling(pairs)
    multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    quotients = factors * numerators
    return factors * (numerators - multiply(quotients, coupling) + multiply(coupling, quotients))


def without_rounding(numerators: jax.Array, sizes: jax.Array) -> jax.Array:
    """Numerators (k, k) with zero for those that may be rounding; their derivatives are untouched.

    A loss of an invariant subspace has an antihermitian part a_ij that is zero for i and j in it, but for rounding,
    which must not be divided by a small gap. Any other loss is not known any better.

    Args:
        numerators: (k, k) a, of X^H Xbar.
        sizes: (k,) the norms of the columns of Xbar.
    """
    unit = ROUNDING_OF_PRODUCTS * float(jnp.finfo(sizes.dtype).eps)
    is_rounding = jnp.abs(numerators) <= unit * (sizes[None, :] + sizes[:, None])
    return numerators - jax.lax.stop_gradient(jnp.where(is_rounding, numerators, 0))


def cluster_coupling(pairs: Pairs) -> jax.Array:
    """E (k, k): zero, for no product, with the derivative <x_j, dA x_i> off the diagonal within clusters."""
    alike = same_cluster(pairs.eigenvalues, pairs.residuals)
    mask = alike & ~jnp.eye(pairs.eigenvalues.shape[0], dtype=bool)
    return _coupling(pairs.op, pairs.vectors, mask)


@jax.custom_jvp
def _coupling(op: LinearOperator, vectors: PyTree, mask: jax.Array) -> jax.Array:
    del op  # it matters to the derivative only
    return jnp.zeros(mask.shape, tree.accumulation_dtype(vectors))


def _coupling_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    op, vectors, mask = primals
    zero = _coupling(*primals)
    images = image_tangent(op, tangents[0], vectors)
    if images is None:
        return zero, jnp.zeros_like(zero)
    return zero, jnp.where(mask, tree.gram(vectors, images), 0)


_coupling.defjvp(_coupling_jvp, symbolic_zeros=True)
