"""Steps of the exponential: each builds a Krylov space and goes as far in it as the tolerance allows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.krylov_space import KrylovSpace, krylov_space
from eigenjax.operators.base import LinearOperator
from eigenjax.spectrum.exponential.defect import Step, growth, spectral_norm_bound, step
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# A step length aims at this share of the tolerance, and is within these factors of the one before it.
_AIM, _LEAST_FACTOR, _MOST_FACTOR = 0.9, 0.1, 0.9
# An error below this times eps, and eps ||t H|| in the bound, is rounding.
_ROUNDING = 10.0
# The first length tried is m^2 / ||t H|| times this: the exponential of a Hermitian matrix converges from m = sqrt of
# its norm on, any other one later.
_FARTHEST = 1.0
# The largest number of lengths that are tried in one space, each a tenth to nine tenths of the one before.
_MOST_TRIES = 100


class Exponential(NamedTuple):
    """State of the loop."""

    vector: PyTree  # exp(s t A) v
    done: jax.Array  # () the fraction s of the time
    error: jax.Array  # () bound on the error of `vector`
    growth: jax.Array  # () the largest estimate of mu, or zero
    num_steps: jax.Array  # () int32
    starts: PyTree  # (max_steps, ...) the vector before each step, or None
    fractions: jax.Array  # (max_steps,) the length of each step


def exponential(
    op: LinearOperator, vector: PyTree, t: jax.Array, tol: jax.Array, krylov_dim: int, max_steps: int, *, keep: bool
) -> Exponential:
    """Compute exp(t A) v in at most `max_steps` steps; `keep` stores the vectors between them."""
    real = tree.real_dtype(tree.accumulation_dtype(vector))
    zero = jnp.zeros((), real)
    starts = tree.zero_basis(vector, max_steps) if keep else None
    first = Exponential(vector, zero, zero, zero, jnp.int32(0), starts, jnp.zeros(max_steps, real))

    def goes_on(state):
        return (state.done < 1) & (state.num_steps < max_steps) & jnp.isfinite(state.error)

    return jax.lax.while_loop(goes_on, lambda state: _advance(op, state, t, tol, krylov_dim), first)


def _advance(op: LinearOperator, state: Exponential, t: jax.Array, tol: jax.Array, krylov_dim: int) -> Exponential:
    space = krylov_space(op, state.vector, krylov_dim)
    # An estimate from below counts as no decay.
    mu = jnp.maximum(state.growth, growth(space, t))
    # Errors made here grow until the end.
    norm = spectral_norm_bound(space, t)
    fraction, found = _longest(space, t, tol * jnp.exp(-mu * (1 - state.done)), 1 - state.done, norm)
    eps = jnp.finfo(fraction.dtype).eps
    grown = jnp.exp(mu * fraction)
    error = grown * (state.error + space.length * (found.error + eps * (_ROUNDING + norm * fraction)))
    vector = tree.scale(space.length, tree.combine(found.coefficients, space.basis))
    done = state.done + fraction
    # The sum of the fractions is one up to rounding.
    done = jnp.where(1 - done <= 4 * eps, 1, done)
    starts = None if state.starts is None else tree.set_row(state.starts, state.num_steps, state.vector)
    fractions = state.fractions.at[state.num_steps].set(fraction)
    return Exponential(vector, done, error, mu, state.num_steps + 1, starts, fractions)


def _longest(
    space: KrylovSpace, t: jax.Array, tol: jax.Array, rest: jax.Array, norm: jax.Array
) -> tuple[jax.Array, Step]:
    """Return the longest fraction within the tolerance among those tried, and its step."""
    eps = jnp.finfo(rest.dtype).eps
    m = space.matrix.shape[0]
    first = jnp.minimum(rest, _FARTHEST * m**2 / jnp.maximum(norm, 1))
    allowed = lambda fraction: jnp.maximum(tol * fraction, _ROUNDING * eps)

    def shorten(carry):
        fraction, found, tries = carry
        ratio = _AIM * allowed(fraction) / found.error
        fraction *= jnp.clip(ratio ** (1 / m), _LEAST_FACTOR, _MOST_FACTOR)
        return fraction, step(space, t, fraction), tries + 1

    def is_too_long(carry):
        fraction, found, tries = carry
        return (found.error > allowed(fraction)) & (tries < _MOST_TRIES)

    fraction, found, _ = jax.lax.while_loop(is_too_long, shorten, (first, step(space, t, first), jnp.int32(0)))
    return fraction, found
