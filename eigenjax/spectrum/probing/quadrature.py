"""Gauss quadrature by Lanczos: what a Krylov space knows of a vector's spectral measure.

The measure of a unit vector q has the mass |<x_i, q>|^2 at each eigenvalue lambda_i. From q, m steps of Lanczos give
the tridiagonal T = S diag(theta) S^T, and with it the Gauss quadrature of that measure (Golub and Meurant 2010),

    q^H f(A) q  =  sum_i |<x_i, q>|^2 f(lambda_i)  ~  sum_i w_i f(theta_i),    w_i = S_1i^2

exact for polynomials of degree 2 m - 1. A breakdown means that q lies in an invariant subspace: the quadrature by the
steps before it is exact, and those behind it, from a direction of no relation to q, are left out.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.solvers.symmetric import lanczos
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing.deflation import ComplementOperator, KnownPairs, complement
from eigenjax.spectrum.probing.probes import each, random_sphere
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.tree import PyTree

# The quadrature is held against that of the steps but this share of the last ones, and 1.
_HELD_BACK = 5


class Quadrature(NamedTuple):
    """Nodes and weights, ascending; where there are fewer than m, the last node again with the weight 0."""

    nodes: jax.Array  # (m,)
    weights: jax.Array  # (m,) sum to 1
    residuals: jax.Array  # (m,) ||A v - theta v|| of the Ritz vectors: an eigenvalue is no farther from the node


@functools.partial(jax.jit, static_argnames=("num_probes", "krylov_dim", "probe_batch"))
def tridiagonals(
    op: LinearOperator,
    key: jax.Array,
    known: KnownPairs | None,
    *,
    num_probes: int,
    krylov_dim: int,
    probe_batch: int,
) -> LanczosState:
    """The states after m steps from each of p random vectors in the complement of what is known, without vectors.

    Cost: p m products, and one more where something is known; m + 4 vectors for each of the probes at once.
    """
    structure = tree.working_structure(op.structure)
    inner = op
    if known is not None:
        vector = complement(known.vectors, random_sphere(jax.random.fold_in(key, num_probes), structure))
        # Zero, or rounding, where nothing is left beside what is known.
        length = tree.inner(vector, vector).real
        value = tree.inner(vector, matvec(op, vector)).real / jnp.where(length > 0, length, 1)
        inner = ComplementOperator(op, known.vectors, value)

    def run(key):
        start = random_sphere(key, structure)
        start = start if known is None else complement(known.vectors, start)
        return follow(inner, start, krylov_dim, seed_of(key))._replace(basis=None, direction=None)

    return each(run, jax.random.split(key, num_probes), probe_batch)


def follow(op: LinearOperator, start: PyTree, krylov_dim: int, seed: jax.Array) -> LanczosState:
    """The state after m steps of Lanczos from a vector."""
    state = lanczos.init(op, start, krylov_dim=krylov_dim, key=seed)
    state, _ = jax.lax.scan(lambda state, _: (lanczos.step(op, state), None), state, length=krylov_dim)
    return state


def steps_before_breakdown(state: LanczosState) -> jax.Array:
    """() int32, the steps that belong to the start vector."""
    zero = state.offdiagonal == 0
    return jnp.where(jnp.any(zero), jnp.argmax(zero) + 1, zero.shape[0]).astype(jnp.int32)


def ritz_pairs(state: LanczosState, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values (m,), vectors in columns (m, m) and validity (m,) of T in its first rows; NaN where products were."""
    beside = jnp.diag(state.offdiagonal[:-1], 1)
    values, vectors, valid = ritz.projected_eigh(jnp.diag(state.diagonal) + beside + beside.T, count)
    values = jnp.where(valid, values, values[count - 1])
    return jnp.where(jnp.isfinite(state.operator_norm), values, jnp.nan), vectors, valid


def gauss_quadrature(state: LanczosState, count: jax.Array | None = None) -> Quadrature:
    """The quadrature by the first rows of T; None takes all that belong to the start vector."""
    count = steps_before_breakdown(state) if count is None else count
    values, vectors, valid = ritz_pairs(state, count)
    weights = jnp.where(valid, jnp.square(vectors[0]), 0)
    residuals = jnp.where(valid, jnp.abs(state.offdiagonal[count - 1] * vectors[count - 1]), 0)
    return Quadrature(values, weights, residuals)


def held_back(count: jax.Array, steps: int) -> jax.Array:
    """() int32, fewer rows of T, to see what the last steps have changed; all of them after a breakdown."""
    return jnp.where(count < steps, count, max(steps - 1 - steps // _HELD_BACK, 1)).astype(jnp.int32)
