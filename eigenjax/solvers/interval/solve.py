"""Solver of all eigenvalues in an interval: thick-restart Lanczos on a polynomial filter.

    bounds of the spectrum -> filter p -> all eigenvectors of p(A) above a floor -> Rayleigh-Ritz with A -> those inside

The Lanczos solver runs until the Lanczos polynomials of a random vector exclude further eigenvalues of p(A) above the
floor, with an error probability of 1e-6. Then it locks the pairs found, and repeats this from a new random vector
until one of them finds no copy. So the number of eigenvalues need not be known, only an upper bound of it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.search_targets import SearchTargets, certain_amplitude
from eigenjax.solvers.convergence.status import tolerance
from eigenjax.solvers.interval.assembly import Filtered, assembled
from eigenjax.solvers.interval.bounds import estimate_spectrum
from eigenjax.solvers.interval.polynomial import FilteredOperator, filter_of
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.plan import Plan
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.solvers.warm_start import start_rows, starting_block
from eigenjax.vectors import storage
from eigenjax.vectors.pseudorandom import fold_in

# A residual of p(A) is that of A over ||A|| at most, times 1 / p, which is below two inside.
_SHARE = 0.5
# Residuals of p(A) below this times d eps are rounding.
_ROUNDING = 2.0
# The floor lies below the interval by this times the distance at which the search distinguishes eigenvalues, or by
# _FARTHEST.
_DISTANCES, _FARTHEST = 1.5, 0.3


def solve_interval(
    op: LinearOperator, k: int, plan: Plan, interval: tuple[jax.Array, jax.Array], v0: Any, seed: jax.Array
) -> EigenResult:
    """Compute all eigenpairs in an interval, k at most.

    Args:
        op: symmetric operator.
        k: number of pairs of the result.
        plan: checked options of the Lanczos solver, with room for more than k pairs.
        interval: its ends, of the real dtype of the operator's scalars.
        v0: start of the solve, or None.
        seed: seed of all random directions.
    """
    spectrum = estimate_spectrum(op, fold_in(seed, 2))
    polynomial = filter_of(spectrum, interval, op.size)
    filtered = FilteredOperator(op, polynomial)
    dtype = spectrum.norm.dtype
    rounding = _ROUNDING * float(jnp.finfo(dtype).eps) * polynomial.degree.astype(dtype)
    tol = jnp.maximum(_SHARE * tolerance(plan.tol, dtype, spectrum.norm), rounding)
    distance = jnp.sqrt(tol)
    floor = polynomial.floor(jnp.minimum(_DISTANCES * distance, _FARTHEST))
    left = plan.spec.max_matvecs - spectrum.num_matvecs - plan.spec.k
    spec = plan.spec._replace(floor=floor, max_matvecs=jnp.maximum(left, 0) // polynomial.degree)
    rows = start_rows(op, v0)
    starts = starting_block(filtered, rows, plan.block_size, fold_in(seed, 0))
    state = restarted_lanczos.init(starts, spec, krylov_dim=plan.krylov_dim, first_check=1, seed=fold_in(seed, 1))
    state = _excluding(state, floor + distance, op.size)
    state = state._replace(done=state.done | ~jnp.isfinite(spectrum.norm))
    advance = lambda state: restarted_lanczos.step(filtered, state, spec, tol=tol, sigma=0.0)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    found = state.found
    valid = (found.values > floor) & jnp.isfinite(found.residuals)
    solution = Filtered(
        vectors=storage.combine(found.coefficients[:, : spec.k], state.krylov.basis),
        valid=valid[: spec.k],
        complete=state.search.satisfied | state.krylov.spans(op.size),
        finite=jnp.isfinite(spectrum.norm) & jnp.isfinite(state.krylov.operator_norm),
        norm=spectrum.norm,
        middle=jnp.where(jnp.all(jnp.isfinite(jnp.stack(interval))), (interval[0] + interval[1]) / 2, polynomial.peak),
        num_matvecs=spectrum.num_matvecs + polynomial.degree * state.krylov.num_matvecs,
        num_probes=state.search.num_searches,
    )
    return assembled(op, k, solution, interval, tol=plan.tol, references=rows)


def _excluding(state: RestartedState, level: jax.Array, size: int) -> RestartedState:
    """Return a state whose first Krylov space must exclude further eigenvalues at a level, as those of searches do."""
    levels = jnp.full_like(state.targets.levels, 1) * level
    needed = jnp.full_like(state.targets.needed, certain_amplitude(size))
    polynomials = state.krylov.polynomials._replace(levels=levels)
    return state._replace(targets=SearchTargets(levels, needed), krylov=state.krylov._replace(polynomials=polynomials))
