"""Search for the pairs of a tracker: thick-restart Lanczos, started from rows whose residuals are too large."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.base import LinearOperator
from eigenjax.solvers.convergence.status import stopping_tolerance
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.finalize import finalize
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.solvers.warm_start import starting_block
from eigenjax.training.simultaneous import TrackedPairs
from eigenjax.vectors import storage, tree
from eigenjax.vectors.pseudorandom import fold_in
from eigenjax.vectors.tree import PyTree

# A search continues to this fraction of tol. It then separates eigenvalues that differ by one or two tol, and the next
# search is needed later.
_SHARE = 0.1


class Found(NamedTuple):
    """Result of a search."""

    pairs: TrackedPairs  # residual vectors are zero
    far_end: jax.Array  # () the unwanted end of the spectrum
    num_matvecs: jax.Array  # () int32, number of matvecs


def search(
    op: LinearOperator,
    rows: PyTree,
    num_active: jax.Array,
    *,
    spec: SolveSpec,
    krylov_dim: int,
    tol: float,
    seed: jax.Array,
) -> Found:
    """Run restarted Lanczos from a random-sign sum of rows until the active pairs converge or the budget is spent.

    Args:
        op: the operator.
        rows: (q, ...) approximate eigenvectors; the Krylov space of their sum recovers each of them.
        num_active: () int32, number of pairs that have to converge.
        spec: options of the solve, for K pairs.
        krylov_dim: number of basis vectors.
        tol: tolerance of the pairs; the search continues to a fraction of it.
        seed: key of all pseudo-random numbers.

    Returns:
        K pairs with true residuals and, if q = K + 1, the next Ritz pair.
    """
    q = jax.tree.leaves(rows)[0].shape[0]
    starts = starting_block(op, rows, 1, fold_in(seed, 0))
    state = restarted_lanczos.init(starts, spec, krylov_dim=krylov_dim, first_check=spec.k, seed=fold_in(seed, 1))
    active = jnp.arange(spec.k, dtype=jnp.int32) < num_active

    def has_to_grow(state):
        bound = stopping_tolerance(op, tol, state.norm_estimate.dtype, _SHARE) * state.norm_estimate
        enough = jnp.all((state.found.residuals[: spec.k] <= bound) | ~active)
        return ~state.done & ~enough

    step = lambda state: restarted_lanczos.step(op, state, spec, tol=_SHARE * tol, sigma=0.0)
    state = jax.lax.while_loop(has_to_grow, step, state)
    result = finalize(op, state, spec, tol=tol, sigma=0.0)
    values, vectors, residuals = result.eigenvalues, result.eigenvectors, result.residuals
    if q > spec.k:
        values, vectors, residuals = _with_next((values, vectors, residuals), state, spec.k)
    zeros = jax.tree.map(jnp.zeros_like, vectors)
    return Found(TrackedPairs(values, vectors, zeros, residuals), _far_end(state, spec.which), result.num_matvecs)


def _with_next(pairs: tuple[jax.Array, PyTree, jax.Array], state: RestartedState, k: int):
    """Append the next Ritz pair, with its estimated residual from the recurrence."""
    values, vectors, residuals = pairs
    following = storage.combine(state.found.coefficients[:, k], state.krylov.basis)
    is_there = jnp.isfinite(state.found.residuals[k])
    following = tree.scale(is_there.astype(values.dtype), following)
    return (
        jnp.append(values, state.found.values[k]),
        jax.tree.map(lambda rows, row: jnp.concatenate([rows, row[None]]), vectors, following),
        jnp.append(residuals, state.found.residuals[k]),
    )


def _far_end(state: RestartedState, which: str) -> jax.Array:
    """Return the last of all Ritz values in the order of `which`, ()."""
    valid = jnp.isfinite(state.found.residuals)
    if which == "SA":
        return jnp.max(jnp.where(valid, state.found.values, -jnp.inf))
    return jnp.min(jnp.where(valid, state.found.values, jnp.inf))
