"""Randomized range finder, with projectors that leave out one probe each.

Let A Omega = Q R for k probes Omega, and Z = A Q. The projector on the range of all vectors A omega_j but the i-th is

    P_i = Q (I - s_i s_i^H) Q^H,    s_i orthogonal to all columns of R but the i-th, unit

so that s_i is column i of R^{-H}, normalized. P_i is independent of the i-th probe. That probe samples the
complement of P_i without bias, at no further matvec (Epperly, Tropp and Webber 2024, section 2).

If the rank of A is below k, some rows of Q are zero and R is singular. Then s_i is a left null vector, which removes
one of these zero rows, and P_i projects on the whole range.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.spectrum.probing.probes import draw, orthonormal_rows
from eigenjax.spectrum.probing.stages import Part, Stage, StageState, whole_image
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import PyTree


class Sketch(NamedTuple):
    """Matvecs with k probes and with an orthonormal basis of the results; gradients flow through the matvecs alone."""

    probes: PyTree  # (k, ...) Omega
    images: PyTree  # (k, ...) A Omega
    basis: PyTree  # (k, ...) Q, orthonormal rows or zero
    basis_images: PyTree  # (k, ...) Z = A Q
    left_out: jax.Array  # (k, k) S, with columns s_i
    inside: jax.Array  # (k, k) X, with the coefficients of P_i omega_i in column i

    @property
    def rank(self) -> jax.Array:
        """() number of nonzero rows of Q."""
        return rank_of(self.basis)

    @property
    def is_there(self) -> jax.Array:
        """(k,) 1 for a nonzero row of Q, 0 for a row of zeros."""
        return jnp.round(jax.vmap(tree.norm)(self.basis))


class Range(NamedTuple):
    """Orthonormal basis of the matvecs with k probes."""

    probes: PyTree  # (k, ...) Omega
    images: PyTree  # (k, ...) A Omega
    basis: PyTree  # (k, ...) Q, orthonormal rows or zero
    triangle: jax.Array  # (k, k) R


def sketch_stages(sample: Callable[[jax.Array, PyTree], PyTree], count: int, *more: Part) -> tuple[Stage, Stage]:
    """Return the stages of a sketch with k probes, at 2 k matvecs and in 4 k vectors.

    Args:
        sample: distribution of the probes, `random_signs` or another. Their key is the first half of the input's.
        count: k, number of probes.
        *more: parts that are multiplied with the basis; their carry is the `Range`.
    """
    probes = lambda op, inputs, _previous: draw(sample, jax.random.split(inputs.key)[0], op, count)
    row = lambda _op, _carry, row: row
    first = Stage(probes, (Part(count, lambda _op, _inputs, carry: carry, row, whole_image),))
    basis = Part(count, lambda _op, _inputs, carry: carry.basis, row, whole_image)
    return first, Stage(lambda _op, _inputs, previous: _range(*previous), (basis, *more))


def _range(probes: PyTree, outputs: tuple[PyTree, ...]) -> Range:
    # The estimate is unbiased for every subspace, so the derivative of the subspace is left out.
    return Range(probes, outputs[0], *orthonormal_rows(jax.lax.stop_gradient(outputs[0])))


def sketched(state: StageState) -> Sketch:
    """Return the sketch after both stages."""
    found: Range = state.carry
    left_out = _left_out(found.triangle)
    along = tree.gram(found.basis, found.probes)
    inside = along - left_out * jnp.sum(jnp.conj(left_out) * along, axis=0, keepdims=True)
    return Sketch(found.probes, found.images, found.basis, state.outputs[0], left_out, inside)


def rank_of(basis: PyTree) -> jax.Array:
    """Return the number of nonzero rows of an orthonormal basis, ()."""
    return jnp.sum(jnp.round(jax.vmap(tree.norm)(basis)))


def _left_out(triangle: jax.Array) -> jax.Array:
    """Return S, the normalized columns of R^{-H}; singular values are clamped to eps times the largest."""
    left, values, right = jnp.linalg.svd(triangle)
    values = jnp.where(values[0] > 0, jnp.maximum(values, jnp.finfo(values.dtype).eps * values[0]), 1)
    # Reciprocals in units of the largest one, because the reciprocal of a tiny value overflows.
    columns = jnp.matmul(
        left * (values[-1] / values).astype(left.dtype)[None, :], right, precision=jax.lax.Precision.HIGHEST
    )
    lengths = jax.vmap(tree.norm, in_axes=1)(columns)
    return safe_divide(columns, lengths[None, :])
