"""A range sketched by random probes, and its projectors that leave out one probe each.

Of k probes Omega, with A Omega = Q R and Z = A Q, the projector on the range of all products but the i-th is

    P_i = Q (I - s_i s_i^H) Q^H,    s_i orthogonal to all columns of R but the i-th, unit

so that s_i is column i of R^{-H}, normalised. P_i knows nothing of the i-th probe, which then serves, at no further
product, as a sample of what P_i leaves (Epperly, Tropp and Webber 2024, section 2).

Where A has a rank below k some rows of Q are zero, R is singular, and s_i, a left null vector, takes out one of these:
P_i is the whole range, as it should.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.spectrum.probing.probes import orthonormal_rows, products
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


class Sketch(NamedTuple):
    """Products with k probes and with an orthonormal basis of them. Derivatives go through the products alone."""

    probes: PyTree  # (k, ...) Omega
    images: PyTree  # (k, ...) A Omega
    basis: PyTree  # (k, ...) Q, orthonormal rows or zero
    basis_images: PyTree  # (k, ...) Z = A Q
    left_out: jax.Array  # (k, k) S, the s_i in columns
    inside: jax.Array  # (k, k) X, in columns the coefficients of P_i omega_i

    @property
    def rank(self) -> jax.Array:
        """() how many rows of Q there are."""
        return jnp.sum(self.is_there)

    @property
    def is_there(self) -> jax.Array:
        """(k,) 1 for a row of Q that is there, 0 for one that is zero."""
        return jnp.round(jax.vmap(tree.norm)(self.basis))


def sketch(op: LinearOperator, probes: PyTree, probe_batch: int) -> Sketch:
    """The sketch by these probes, at 2 k products and in 4 k vectors."""
    images = products(op, probes, probe_batch)
    # Whatever the subspace, the estimate is unbiased: its change with the operator is no part of the derivative.
    basis, triangle = orthonormal_rows(jax.lax.stop_gradient(images))
    left_out = _left_out(triangle)
    along = tree.gram(basis, probes)
    inside = along - left_out * jnp.sum(jnp.conj(left_out) * along, axis=0, keepdims=True)
    return Sketch(probes, images, basis, products(op, basis, probe_batch), left_out, inside)


def _left_out(triangle: jax.Array) -> jax.Array:
    """S, the columns of R^{-H} normalised; singular values below rounding are taken to be there."""
    left, values, right = jnp.linalg.svd(triangle)
    values = jnp.where(values[0] > 0, jnp.maximum(values, jnp.finfo(values.dtype).eps * values[0]), 1)
    # In parts of the smallest, because the reciprocal of a tiny one overflows.
    columns = jnp.matmul(
        left * (values[-1] / values).astype(left.dtype)[None, :], right, precision=jax.lax.Precision.HIGHEST
    )
    lengths = jax.vmap(tree.norm, in_axes=1)(columns)
    return columns / jnp.where(lengths > 0, lengths, 1).astype(columns.dtype)[None, :]
