"""Thick-restart Lanczos: Krylov spaces of bounded size, restarted until the wanted pairs have converged.

    expand until the next convergence check -> Rayleigh-Ritz -> test -> restart when the basis is full -> expand ...

A restart retains the most wanted Ritz vectors (Wu and Simon 2000); `krylov.restart_size` chooses their number.

A Krylov space holds one vector of a multiple eigenvalue. When it is exhausted, or when all copies are wanted, the pairs
found are locked and a missed-pair search (`missed_pairs`) follows. It grows the space from a random direction until a
more wanted eigenvalue is excluded, and is repeated if it finds one.

The solver is `init`, `step` and `finalize` over one `RestartedState`; one step ends with one convergence check.
`propose` and `absorb` split a step for matvecs computed elsewhere (reverse communication).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import decomposition, expansion, lanczos_polynomials, ritz
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.krylov.rayleigh_ritz import Extraction, harmonic_pairs, ritz_pairs, stand_off
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.krylov.thick_restart import begin_search, kept_coefficients, outside_of_basis, restart, translate
from eigenjax.operators.base import LinearOperator
from eigenjax.solvers.convergence import missed_pairs, search_targets
from eigenjax.solvers.convergence.check_schedule import rows_to_wait
from eigenjax.solvers.warm_start import GivenVectors, distance_from, rayleigh_ritz
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.tree import PyTree

# A basis stored in fewer bits perturbs the vectors by about this fraction of its machine epsilon: smaller residuals of
# the recurrence gain nothing.
_STORAGE_SHARE = 0.1


class RestartedState(NamedTuple):
    """Solver state."""

    krylov: KrylovDecomposition  # the decomposition A V = V H + D^T B
    found: Extraction  # Ritz pairs of the last convergence check
    norm_estimate: jax.Array  # () the largest |Ritz value| so far, a lower bound of ||A||
    target: jax.Array  # () the shift of the harmonic pairs found; 0 without a sigma
    next_check: jax.Array  # () int32, basis rows at the next convergence check
    distance: jax.Array  # () log(residual / bound) of the worst pair at the last check; inf at first
    last_check: jax.Array  # () int32, matvecs at the last check
    search: missed_pairs.Search  # state of the missed-pair search
    targets: search_targets.SearchTargets  # levels and bounds of the running search
    residuals_verified: jax.Array  # () bool, the residuals are true, not estimated
    done: jax.Array  # () bool, the solve is over


def init(starts: PyTree, spec: SolveSpec, *, krylov_dim: int, first_check: int, seed: jax.Array) -> RestartedState:
    """Initialize the state before the first matvec.

    Args:
        starts: (b, ...) start vectors.
        spec: the static options of the solve.
        krylov_dim: m, the number of basis vectors besides the b of the residual block.
        first_check: number of basis rows at the first convergence check.
        seed: seed of all random directions.
    """
    real_dtype = tree.real_dtype(tree.accumulation_dtype(starts))
    targets = search_targets.no_targets(search_targets.num_levels(spec), real_dtype, real_dtype)
    state = decomposition.begin(starts, krylov_dim, seed, spec.storage, levels=targets.levels)
    zero = jnp.zeros_like(state.operator_norm)
    m = krylov_dim
    return RestartedState(
        krylov=state,
        found=Extraction(
            jnp.zeros(m, zero.dtype), jnp.zeros((m, m), state.matrix.dtype), jnp.full(m, jnp.inf, zero.dtype)
        ),
        norm_estimate=zero,
        target=zero,
        next_check=jnp.asarray(first_check, jnp.int32),
        distance=zero + jnp.inf,
        last_check=jnp.zeros((), jnp.int32),
        search=missed_pairs.no_search(spec.k, zero.dtype),
        targets=targets,
        residuals_verified=jnp.zeros((), bool),
        done=jnp.asarray(spec.max_matvecs < state.block_size),
    )


def step(
    op: LinearOperator,
    state: RestartedState,
    spec: SolveSpec,
    *,
    tol: Any,
    sigma: Any,
    given: GivenVectors | None = None,
) -> RestartedState:
    """Expand until the next convergence check, make the check, and restart if necessary.

    Args:
        op: the operator.
        state: the state to advance.
        spec: the static options of the solve.
        tol: relative tolerance on the residuals; None is sqrt(eps).
        sigma: () the shift, used if spec.interior.
        given: k or more given vectors whose signed sum is the start vector. If the first matvec shows that they are
            eigenvectors, the solve ends with them.
    """
    # Clear the breakdown flag: the last check handled it.
    first = expansion.orthonormalized(state.krylov._replace(broken_down=jnp.zeros((), bool)), op)
    has_to_grow = lambda part: _has_to_grow(part, state.next_check, spec)
    grown = jax.lax.while_loop(has_to_grow, lambda part: expansion.expand(op, part), first)
    return _settle(op, state._replace(krylov=grown), spec, tol=tol, sigma=sigma, given=given)


def propose(state: RestartedState) -> PyTree:
    """Return the (b, ...) vectors to multiply next: reverse communication, where the caller computes the matvecs.

    If the state's `krylov.pending` holds, the vectors themselves take the place of their matvecs.
    """
    return expansion.proposed(state.krylov)


def absorb(
    op: LinearOperator, state: RestartedState, images: PyTree, spec: SolveSpec, *, tol: Any, sigma: Any
) -> RestartedState:
    """Advance the state by the (b, ...) matvecs of the proposed vectors, with the convergence check if one is due.

    Only the structure of the operator is used: `propose` and `absorb` together are `step`.
    """
    # Clear the breakdown flag: a check has handled it.
    part = state.krylov._replace(broken_down=jnp.zeros((), bool))
    state = state._replace(krylov=expansion.absorb(part, images))
    is_due = ~_has_to_grow(state.krylov, state.next_check, spec)
    return apply_when(is_due, lambda state: _settle(op, state, spec, tol=tol, sigma=sigma), state)


def _has_to_grow(part: KrylovDecomposition, next_check: jax.Array, spec: SolveSpec) -> jax.Array:
    """Return () bool: there is room, and no convergence check is due."""
    b, m = part.coupling.shape
    has_room = (part.num_valid + b <= m) & (part.num_matvecs + b <= spec.max_matvecs)
    return (part.num_valid < next_check) & has_room & ~part.broken_down


def _settle(
    op: LinearOperator,
    state: RestartedState,
    spec: SolveSpec,
    *,
    tol: Any,
    sigma: Any,
    given: GivenVectors | None = None,
) -> RestartedState:
    """Make the convergence check that is due, and the restart that it asks for."""
    b, m = state.krylov.coupling.shape
    state = check_convergence(op, state, spec, tol=tol, sigma=sigma)
    if given is not None:
        # The one Ritz value may be far below the norm: that of a sum with random signs is the mean of the eigenvalues.
        norm = jnp.maximum(state.norm_estimate, state.krylov.operator_norm)
        bound = _bounds(op, spec, tol, norm, state.found.values).residual
        length = tree.norm(state.krylov.coupling)
        outside = distance_from(given.rows, tree.row(state.krylov.residual_block, 0), length)
        is_close = (state.krylov.num_matvecs == 1) & (outside <= bound) & given.independent
        state = apply_when(is_close, lambda state: _try_given(op, state, spec, given, tol, sigma), state)
    if m < op.size:
        is_full = state.krylov.num_valid + b > m
        restarting = (is_full | state.search.starts) & ~state.done
        bound = _bounds(op, spec, tol, state.norm_estimate, state.found.values).residual
        state = state._replace(krylov=_restart(state, spec, restarting, bound), search=missed_pairs.begun(state.search))
    return state._replace(next_check=state.next_check + state.krylov.num_valid)


def _restart(state: RestartedState, spec: SolveSpec, restarting: jax.Array, bound: jax.Array) -> KrylovDecomposition:
    part = state.krylov
    coefficients = kept_coefficients(part, state.found, spec, state.search.starts, bound)
    if spec.interior:
        # A separate step, so that the last read of the basis precedes its basis change in place.
        part = apply_when(restarting, lambda part: translate(part, coefficients, state.target), part)
    elif part.block_size == 1:
        part = part._replace(dropped=outside_of_basis(part, restarting))
    fresh, found, levels = state.search.starts, state.found, state.targets.levels
    restart_space = lambda part: restart(part, coefficients, found, fresh, levels, translated=spec.interior)
    return apply_when(restarting, restart_space, part)


def check_convergence(
    op: LinearOperator, state: RestartedState, spec: SolveSpec, *, tol: Any, sigma: Any
) -> RestartedState:
    """Extract and test the pairs, and schedule the next convergence check (`next_check` is relative here)."""
    found, target = _extract(state, spec, sigma)
    b, m = state.krylov.coupling.shape
    num_valid, num_matvecs = state.krylov.num_valid, state.krylov.num_matvecs
    norm_estimate = jnp.maximum(state.norm_estimate, jnp.max(jnp.abs(found.values)))
    bounds = _bounds(op, spec, tol, norm_estimate, found.values)
    complete = state.krylov.spans(op.size)
    exhausted = state.krylov.broken_down & ~complete
    values, residuals = missed_pairs.wanted_pairs(found, spec)
    check = missed_pairs.check(
        state.search,
        spec,
        values,
        residuals,
        lanczos_polynomials.amplitudes(state.krylov.polynomials),
        state.targets,
        search_targets.targets_of(spec, values, jnp.max(residuals), bounds, size=op.size, sigma=sigma),
        bounds,
        exhausted,
        center=_center(spec, sigma),
    )
    polynomials = state.krylov.polynomials
    polynomials = tree.where(check.begins_in_place, begin_search(state.krylov, check.targets.levels), polynomials)
    # The basis spans the whole space of a small operator: nothing can be missed.
    finished = check.search.satisfied | missed_pairs.has_given_up(check.search, spec.k) if m < op.size else False
    out_of_budget = num_matvecs + b > spec.max_matvecs
    wait = rows_to_wait(state.distance, check.remaining, state.last_check, num_matvecs, least=b)
    return state._replace(
        krylov=state.krylov._replace(polynomials=polynomials),
        found=found,
        norm_estimate=norm_estimate,
        target=target,
        targets=check.targets,
        next_check=jnp.maximum(wait, (spec.k if spec.floor is None else 1) - num_valid),
        distance=check.remaining,
        last_check=num_matvecs,
        search=check.search,
        done=finished | complete | out_of_budget | ~jnp.isfinite(state.krylov.operator_norm),
    )


def _center(spec: SolveSpec, sigma: Any) -> Any:
    """Return the number whose distance orders the wanted eigenvalues; None for an end of the spectrum."""
    return sigma if spec.interior else 0.0 if spec.which == "LM" else None


def _bounds(
    op: LinearOperator, spec: SolveSpec, tol: Any, norm_estimate: jax.Array, values: jax.Array
) -> search_targets.Bounds:
    return search_targets.bounds_of(op, spec, tol, norm_estimate, _STORAGE_SHARE * spec.storage.unit, values)


def _extract(state: RestartedState, spec: SolveSpec, sigma: Any) -> tuple[Extraction, jax.Array]:
    if not spec.interior:
        return ritz_pairs(state.krylov, spec.which), state.target
    shift = jnp.asarray(sigma).astype(state.norm_estimate.dtype)
    has_ritz_pairs = jnp.isfinite(state.found.residuals[0])
    target = jnp.where(has_ritz_pairs, stand_off(shift, state.found.values[: spec.k]), shift)
    return harmonic_pairs(state.krylov, shift, target, spec.k), target


def _try_given(
    op: LinearOperator,
    state: RestartedState,
    spec: SolveSpec,
    given: GivenVectors,
    tol: Any,
    sigma: Any,
) -> RestartedState:
    """End the solve with the Ritz pairs of the given vectors if they have converged."""
    pairs = rayleigh_ritz(op, given.rows)
    order = ritz.pair_order(pairs.values, spec.which, sigma if spec.interior else None)[: spec.k]
    norm_estimate = jnp.maximum(state.norm_estimate, jnp.max(jnp.abs(pairs.values)))
    bounds, worst = _bounds(op, spec, tol, norm_estimate, pairs.values[order]), jnp.max(pairs.residuals[order])
    success = worst <= bounds.residual
    m = state.found.values.shape[0]
    padded = lambda x, fill: jnp.full(m, fill, x.dtype).at[: spec.k].set(x[order])
    values, residuals = padded(pairs.values, 0), padded(pairs.residuals, jnp.inf)
    dtype = state.krylov.matrix.dtype
    basis = tree.set_rows(
        jax.tree.map(jnp.zeros_like, state.krylov.basis), 0, jax.tree.map(lambda x: x[order], pairs.vectors)
    )
    part = state.krylov._replace(
        basis=basis,
        valid=jnp.arange(m, dtype=jnp.int32) < spec.k,
        matrix=jnp.diag(values.astype(dtype)),
        coupling=jnp.zeros_like(state.krylov.coupling),
        last_length=jnp.zeros_like(state.krylov.last_length),
    )
    search = missed_pairs.advance(
        state.search,
        spec,
        values[: spec.k],
        same=jnp.zeros((), bool),
        converged=success,
        excluded=jnp.zeros((), bool),
        exhausted=jnp.zeros((), bool),
    )
    found = Extraction(values, jnp.eye(m, dtype=dtype), residuals)
    targets = search_targets.targets_of(spec, values[: spec.k], worst, bounds, size=op.size, sigma=sigma)
    ended = state._replace(
        krylov=part,
        found=found,
        norm_estimate=norm_estimate,
        targets=targets,
        search=search,
        residuals_verified=~search.running,
        done=~search.running,
    )
    count = pairs.values.shape[0]
    state = tree.where(success, ended, state)
    return state._replace(krylov=state.krylov._replace(num_matvecs=state.krylov.num_matvecs + count))
