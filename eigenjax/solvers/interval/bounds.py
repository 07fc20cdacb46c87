"""Ends and density of a spectrum, by a short Lanczos run from a random vector."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import decomposition, expansion, ritz
from eigenjax.operators.base import LinearOperator
from eigenjax.solvers.warm_start import starting_block
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.pseudorandom import fold_in

# Matvecs. Longer runs move the ends by less than the padding of the filter.
_STEPS = 40


class SpectrumEstimate(NamedTuple):
    """Ends of a spectrum, and the Gauss quadrature of a random vector's spectral measure."""

    low: jax.Array  # () smallest Ritz value, less its residual
    high: jax.Array  # () largest Ritz value, plus its residual
    nodes: jax.Array  # (m,) Ritz values
    weights: jax.Array  # (m,) their weights, which add up to one; 0 where there is no node
    norm: jax.Array  # () lower bound of ||A||; NaN after a matvec with NaN or Inf
    num_matvecs: jax.Array  # () int32


def estimate_spectrum(op: LinearOperator, seed: jax.Array) -> SpectrumEstimate:
    """Estimate the ends and the density of a spectrum, at min(n, 40) matvecs.

    Args:
        op: symmetric operator.
        seed: seed of the random vector.
    """
    steps = min(_STEPS, op.size)
    part = decomposition.begin(starting_block(op, None, 1, fold_in(seed, 0)), steps, fold_in(seed, 1))
    part = expansion.orthonormalized(part, op)
    part = jax.lax.fori_loop(0, steps, lambda _, part: expansion.expand(op, part), part)
    nodes, vectors, valid = ritz.projected_eigh(part.matrix, part.num_valid)
    residuals = jnp.abs(matmul(part.coupling, vectors))[0]
    norm = jnp.where(jnp.isfinite(part.operator_norm), jnp.max(jnp.where(valid, jnp.abs(nodes), 0)), jnp.nan)
    return SpectrumEstimate(
        low=nodes[0] - residuals[0],
        high=nodes[part.num_valid - 1] + residuals[part.num_valid - 1],
        nodes=nodes,
        weights=jnp.where(valid, jnp.square(jnp.abs(vectors[0])), 0),
        norm=jnp.maximum(norm, part.operator_norm),
        num_matvecs=part.num_matvecs,
    )
