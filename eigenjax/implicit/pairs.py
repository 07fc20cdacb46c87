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

from eigenjax import tree
from eigenjax.implicit.tangents import image_tangent
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.tree import PyTree

# Two eigenvalues closer than so many times the sum of their residuals are not told apart by the forward solve ...
CLUSTER_RESIDUALS = 4.0
# ... nor two closer than so many units of rounding of the largest.
CLUSTER_ROUNDING = 32.0


class Pairs(NamedTuple):
    """K eigenpairs."""

    op: LinearOperator
    eigenvalues: jax.Array  # (k,)
    vectors: PyTree  # k vectors
    residuals: jax.Array  # (k,)
    gap: jax.Array | None  # () from the eigenvalues to the nearest one left out, where the solver knows it


def pairs_of(op: LinearOperator, result: EigenResult) -> Pairs:
    """The pairs of a result."""
    return Pairs(op, result.eigenvalues, result.eigenvectors, result.residuals, result.gap)


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
