"""First derivative of a Gauss quadrature in the operator, for a start vector held constant.

The Lanczos recurrence A v_j = beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1} has the derivative

    dw_j = dA v_j + (A - alpha_j) dv_j - dalpha_j v_j - dbeta_{j-1} v_{j-1} - beta_{j-1} dv_{j-1}
    dalpha_j = <v_j, dA v_j + 2 A dv_j>,    dbeta_j = <v_{j+1}, dw_j>,    dv_{j+1} = (dw_j - dbeta_j v_{j+1}) / beta_j

in real parts. Like the basis itself, dv_{j+1} is reorthogonalized: <v_i, dv_{j+1}> = -<dv_i, v_{j+1}> for i <= j. With
T = S diag(theta) S^T and M = S^T dT S, the nodes, the weights and the residuals follow:

    dtheta_i = M_ii,    dS_ji = sum_k S_jk M_ki / (theta_i - theta_k),    dw_i = 2 S_1i dS_1i

All of it is linear in dA. Reverse mode is the transpose. Of nodes that coincide up to rounding, as the copies of a
repeated eigenvalue do, only the mass and its center have derivatives: both are smooth in A.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems.tangents import symmetrized
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing.derivatives import batched_zeros
from eigenjax.spectrum.probing.quadrature import Quadrature, steps_before_breakdown, tridiagonal_ritz_pairs
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul, safe_divide
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# Nodes within eps^p ||A|| of each other coincide. The derivatives of their weights are opposite numbers of the order of
# the inverse distance: of nodes as near as the rounding of eigenvalues, 10 eps, they would be noise.
_NEAR_POWER = 0.75


class _Step(NamedTuple):
    """Step j of the recurrence, in which A v_j = beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1}."""

    previous: PyTree  # v_{j-1}
    vector: PyTree  # v_j
    following: PyTree  # v_{j+1}
    coupling: jax.Array  # () beta_{j-1}, 0 in the first step
    alpha: jax.Array  # ()
    beta: jax.Array  # ()


class _Tangents(NamedTuple):
    """Derivatives before step j."""

    previous: PyTree  # dv_{j-1}
    vector: PyTree  # dv_j
    coupling: jax.Array  # () dbeta_{j-1}
    overlaps: jax.Array  # (m, m) <v_i, dv_l> in the columns l <= j


@jax.custom_jvp
def quadrature_slopes(op: LinearOperator, state: LanczosState) -> Quadrature:
    """Return zeros, with the derivatives in A of the nodes, the weights and the residuals of the quadrature.

    Args:
        op: A.
        state: after m steps of Lanczos with A, with its basis; a constant.

    A derivative costs m products with A and with dA, and two reads of the basis for each; 4 vectors.
    """
    del op
    zeros = batched_zeros(state.diagonal)
    return Quadrature(zeros, zeros, zeros)


@quadrature_slopes.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Quadrature, Quadrature]:
    op, state = primals
    diagonal, offdiagonal = _coefficient_slopes(op, symmetrized(tangents[0]), state)
    return quadrature_slopes(op, state), _slopes_from_coefficients(state, diagonal, offdiagonal)


def _coefficient_slopes(op: LinearOperator, change: LinearOperator, state: LanczosState) -> tuple[jax.Array, jax.Array]:
    """Compute dalpha and dbeta (m,); zero after a breakdown."""
    steps = jnp.arange(state.diagonal.shape[0], dtype=jnp.int32)
    count = steps_before_breakdown(state)
    last = normalize(state.direction, state.length)

    # The checkpoint keeps reverse mode from storing the intermediate results of all matvecs.
    @jax.checkpoint
    def advance(before: _Tangents, j: jax.Array) -> tuple[_Tangents, tuple[jax.Array, jax.Array]]:
        at = _step_at(state, last, j)
        _, image = jax.jvp(lambda op, v: matvec(op, v), (op, at.vector), (change, before.vector))
        product = _combined((at.coupling, at.previous), (at.alpha, at.vector), (at.beta, at.following))
        alpha = tree.inner(at.vector, image).real + tree.inner(before.vector, product).real
        alpha = jnp.where(j < count, alpha, 0)
        known = _combined(
            *((at.alpha, before.vector), (alpha, at.vector)),
            *((at.coupling, before.previous), (before.coupling, at.previous)),
        )
        direction = tree.add_scaled(image, -1.0, known)
        is_followed = (j < count) & (at.beta > 0)
        beta = jnp.where(is_followed, tree.inner(at.following, direction).real, 0)
        scale = safe_divide(jnp.ones_like(beta), at.beta, where=is_followed, otherwise=0)
        vector = tree.scale(scale, tree.add_scaled(direction, -beta, at.following))
        vector, overlaps = _reorthogonalized(state.basis, vector, before.overlaps, j)
        return _Tangents(before.vector, vector, beta, overlaps), (alpha, beta)

    zero = jax.tree.map(jnp.zeros_like, state.direction)
    overlaps = jnp.zeros((steps.size, steps.size), tree.accumulation_dtype(state.basis))
    _, slopes = jax.lax.scan(advance, _Tangents(zero, zero, jnp.zeros_like(state.length), overlaps), steps)
    return slopes


def _step_at(state: LanczosState, last: PyTree, j: jax.Array) -> _Step:
    size = state.diagonal.shape[0]
    behind, ahead = jnp.maximum(j - 1, 0), jnp.minimum(j + 1, size - 1)
    following = tree.where(j + 1 == size, last, tree.row(state.basis, ahead))
    coupling = jnp.where(j == 0, 0, state.offdiagonal[behind])
    rows = tree.row(state.basis, behind), tree.row(state.basis, j)
    return _Step(*rows, following, coupling, state.diagonal[j], state.offdiagonal[j])


def _combined(first: tuple[jax.Array, PyTree], *terms: tuple[jax.Array, PyTree]) -> PyTree:
    """Compute the sum of c x over pairs of a number and a vector."""
    return functools.reduce(lambda total, term: tree.add_scaled(total, *term), terms, tree.scale(*first))


def _reorthogonalized(basis: PyTree, vector: PyTree, overlaps: jax.Array, j: jax.Array) -> tuple[PyTree, jax.Array]:
    """Give dv_{j+1} the components along v_0 .. v_j that orthogonality requires; the overlaps get its column."""
    size = overlaps.shape[0]
    ahead, found = jnp.minimum(j + 1, size - 1), tree.project(basis, vector)
    required = jnp.where(jnp.arange(size, dtype=jnp.int32) <= j, -jnp.conj(overlaps[ahead]), found)
    corrected = jax.tree.map(lambda x, y: x + y.astype(x.dtype), vector, tree.combine(required - found, basis))
    return corrected, overlaps.at[:, ahead].set(required)


def _slopes_from_coefficients(state: LanczosState, diagonal: jax.Array, offdiagonal: jax.Array) -> Quadrature:
    """Compute the derivatives of the quadrature from those of alpha and beta."""
    count = steps_before_breakdown(state)
    values, vectors, valid = tridiagonal_ritz_pairs(state, count)
    inside = jnp.where(jnp.arange(values.size, dtype=jnp.int32) < count - 1, offdiagonal, 0)[:-1]
    change = jnp.diag(diagonal) + jnp.diag(inside, 1) + jnp.diag(inside, -1)
    first, last, beyond = vectors[0], vectors[count - 1], state.offdiagonal[count - 1]

    moved = matmul(vectors.T, change, vectors)
    gaps, both = values[None] - values[:, None], valid[:, None] & valid[None]
    is_near = jnp.abs(gaps) <= jnp.finfo(values.dtype).eps ** _NEAR_POWER * jnp.max(jnp.abs(values))
    rotation = moved * safe_divide(jnp.ones_like(gaps), gaps, where=both & ~is_near, otherwise=0)
    weights = 2 * first * matmul(first, rotation)
    residuals = jnp.sign(beyond * last) * (offdiagonal[count - 1] * last + beyond * matmul(last, rotation))
    keep = lambda x: jnp.where(valid, x, 0)
    return Quadrature(_moves(moved, first, is_near & both), keep(weights), keep(residuals))


def _moves(moved: jax.Array, first: jax.Array, near: jax.Array) -> jax.Array:
    """Compute the derivatives of the nodes; M_ij moves two that coincide as it moves the center of their mass."""
    masses = jnp.square(first)
    shares = safe_divide(2 * first[:, None] * first[None], masses[:, None] + masses[None], otherwise=0)
    shares = jnp.where(jnp.eye(first.size, dtype=bool), 1, jnp.where(near, shares, 0))
    return jnp.sum(shares * moved, axis=1)
