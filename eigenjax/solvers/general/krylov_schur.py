"""Krylov-Schur: Arnoldi spaces of bounded size, restarted until the wanted pairs have converged.

    expand until the next convergence check -> Rayleigh-Ritz -> test -> restart when the basis is full -> expand ...

A restart retains the Schur vectors of the most wanted Ritz values (Stewart 2001). This is equivalent to the implicitly
restarted Arnoldi method with exact shifts, without its forward instability.

The solver is `init` and `step` over one `KrylovSchurState`; one step ends with one convergence check. The module
`finalize` computes the result.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import decomposition, lanczos_polynomials
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.krylov.expansion import expand, orthonormalized
from eigenjax.krylov.general import arnoldi
from eigenjax.krylov.general.general_ritz import (
    NUM_BOUNDARY,
    GeneralRitz,
    SchurBasis,
    boundary,
    general_ritz_pairs,
    largest_condition,
    no_basis,
    no_pairs,
    schur_basis,
    undivided,
    wanted_keys,
)
from eigenjax.krylov.general.harmonic import Shift
from eigenjax.krylov.general.schur import complex_dtype
from eigenjax.krylov.rayleigh_ritz import stand_off
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.krylov.thick_restart import begin_search
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import is_real
from eigenjax.solvers.convergence import missed_pairs, search_targets
from eigenjax.solvers.convergence.check_schedule import rows_to_wait
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.tree import PyTree

# Rows that a restart leaves free at least, and the longest wait between checks of a small basis.
_LEAST_ROOM = 3
# A check costs a dense Schur form: it may wait for this share of the basis.
_WAITING_SHARE = 8
# Rows beyond k at the first convergence check: one fewer cannot distinguish a start at an eigenvector from an invariant
# subspace.
_BEYOND = 2
# A restart retains this share of the basis beyond the wanted vectors.
_KEPT_SHARE = 0.5


class KrylovSchurState(NamedTuple):
    """Solver state."""

    krylov: KrylovDecomposition  # the decomposition A V = V H + d b^H
    found: GeneralRitz  # Ritz pairs of the last convergence check
    vectors: SchurBasis  # Schur basis of the decomposition, if the last check needed it
    next_check: jax.Array  # () int32, basis rows at the next convergence check
    distance: jax.Array  # () log(residual / bound) of the worst pair at the last check; inf at first
    last_check: jax.Array  # () int32, matvecs at the last check
    search: missed_pairs.Search  # state of the missed-pair search
    targets: search_targets.SearchTargets  # levels and bounds of the running search
    done: jax.Array  # () bool, the solve is over


def init(starts: PyTree, spec: SolveSpec, *, krylov_dim: int, seed: jax.Array) -> KrylovSchurState:
    """Initialize the state before the first matvec.

    Args:
        starts: (1, ...) the start vector.
        spec: the static options of the solve.
        krylov_dim: m, the number of basis vectors besides the next one.
        seed: seed of all random directions.
    """
    dtype = tree.accumulation_dtype(starts)
    targets = search_targets.no_targets(spec.k + NUM_BOUNDARY, complex_dtype(dtype), tree.real_dtype(dtype))
    state = decomposition.begin(starts, krylov_dim, seed, levels=targets.levels)
    zero = jnp.zeros_like(state.operator_norm)
    return KrylovSchurState(
        krylov=state,
        found=no_pairs(krylov_dim, state.matrix.dtype, zero.dtype, interior=spec.interior),
        vectors=no_basis(krylov_dim, state.matrix.dtype),
        next_check=jnp.asarray(min(spec.k + _BEYOND, krylov_dim), jnp.int32),
        distance=zero + jnp.inf,
        last_check=jnp.zeros((), jnp.int32),
        search=missed_pairs.no_search(spec.k, targets.levels.dtype),
        targets=targets,
        done=jnp.asarray(spec.max_matvecs < 1),
    )


def step(
    op: LinearOperator, state: KrylovSchurState, spec: SolveSpec, *, tol: Any, sigma: Any = None
) -> KrylovSchurState:
    """Expand until the next convergence check, make the check, and restart if necessary."""
    m = state.krylov.valid.shape[0]

    def has_to_grow(part):
        has_room = (part.num_valid < m) & (part.num_matvecs < spec.max_matvecs)
        return (part.num_valid < state.next_check) & has_room & ~part.broken_down

    # Clear the breakdown flag: the last check handled it.
    first = orthonormalized(state.krylov._replace(broken_down=jnp.zeros((), bool)))
    grown = jax.lax.while_loop(has_to_grow, lambda part: expand(op, part, symmetric=False), first)
    state = check_convergence(op, state._replace(krylov=grown), spec, tol=tol, sigma=sigma)
    if m < op.size:
        most = max(spec.k + 1, m - _LEAST_ROOM)
        fresh = state.search.starts
        num_kept = num_keep(state.vectors, spec.k, most)
        num_kept = jnp.where(fresh, undivided(state.vectors, spec.k, most), num_kept)
        restart_space = lambda part: arnoldi.restart(
            part, state.vectors, num_kept, most, fresh, state.targets.levels, interior=spec.interior
        )
        restarting = ((state.krylov.num_valid == m) | fresh) & ~state.done
        state = state._replace(
            krylov=apply_when(restarting, restart_space, state.krylov), search=missed_pairs.begun(state.search)
        )
    return state._replace(next_check=state.next_check + state.krylov.num_valid)


class _Extraction(NamedTuple):
    """Pairs of a convergence check, with their bounds."""

    found: GeneralRitz  # Ritz pairs, the most wanted first
    vectors: SchurBasis  # Schur vectors in the same order
    bounds: search_targets.Bounds  # bounds on residuals and eigenvalues
    residuals: jax.Array  # (k,) residuals of the wanted pairs, or of their span if that is larger and would be locked


def check_convergence(
    op: LinearOperator, state: KrylovSchurState, spec: SolveSpec, *, tol: Any, sigma: Any
) -> KrylovSchurState:
    """Extract and test the pairs, and schedule the next convergence check (`next_check` is relative here)."""
    part = state.krylov
    m, num_matvecs = part.valid.shape[0], part.num_matvecs
    complete = part.spans(op.size)
    found, vectors, bounds, residuals = _extract(op, state, spec, tol, sigma)
    values = found.values[: spec.k]
    check = missed_pairs.check(
        state.search,
        spec,
        values,
        residuals,
        lanczos_polynomials.amplitudes(part.polynomials),
        state.targets,
        _targets(op, spec, values, jnp.max(found.residuals[: spec.k]), bounds, sigma),
        bounds,
        part.broken_down & ~complete,
    )
    polynomials = tree.where(check.begins_in_place, begin_search(part, check.targets.levels), part.polynomials)
    # The basis spans the whole space of a small operator: nothing can be missed. A search proves nothing about locked
    # pairs that restarts have perturbed.
    perturbed = check.search.running & (jnp.max(part.defects) > 2 * bounds.locked)
    given_up = perturbed | missed_pairs.has_given_up(check.search, spec.k)
    finished = check.search.satisfied | given_up if m < op.size else False
    most = max(_LEAST_ROOM, m // _WAITING_SHARE)
    wait = rows_to_wait(state.distance, check.remaining, state.last_check, num_matvecs, most=most)
    return state._replace(
        krylov=part._replace(polynomials=polynomials),
        found=found,
        vectors=vectors,
        next_check=jnp.maximum(wait, spec.k - part.num_valid),
        distance=check.remaining,
        last_check=num_matvecs,
        search=check.search,
        targets=check.targets,
        done=finished | complete | (num_matvecs >= spec.max_matvecs) | ~jnp.isfinite(part.operator_norm),
    )


def _extract(op: LinearOperator, state: KrylovSchurState, spec: SolveSpec, tol: Any, sigma: Any) -> _Extraction:
    """Compute the pairs, bounds on their residuals by the eigenvalues' condition, and the Schur vectors if needed."""
    part, k = state.krylov, spec.k
    shift = _shift_of(state, spec, sigma)
    found = general_ritz_pairs(part, spec.which, real=is_real(op.structure), shift=shift)
    bounds = search_targets.bounds_of(op, spec, tol, part.operator_norm, values=found.values)
    residuals = found.residuals[:k]
    candidates = jnp.all(residuals <= bounds.locked)
    full = part.num_valid == part.valid.shape[0]
    basis_of = lambda _: schur_basis(part, found, spec.which, shift=shift)
    vectors = apply_when(candidates | full, basis_of, state.vectors)
    if not spec.verify:
        return _Extraction(found, vectors, bounds, residuals)
    bounds = search_targets.bounds_by_condition(
        op, bounds, largest_condition(found, k, bounds.locked), found.values[:k]
    )
    # A search locks orthonormal vectors of the span; far from normal their residuals exceed those of the eigenvectors.
    span = jnp.where(candidates, _residual_of_span(part, vectors, k, interior=spec.interior), 0)
    return _Extraction(found, vectors, bounds, jnp.maximum(residuals, span))


def num_keep(vectors: SchurBasis, k: int, most: int) -> jax.Array:
    """Compute the number of Schur vectors that a restart retains, () int32; conjugate pairs stay together."""
    m = vectors.second.shape[0]
    return undivided(vectors, min(max(k + 1, k + int(_KEPT_SHARE * (m - k))), most), most)


def _residual_of_span(part: KrylovDecomposition, vectors: SchurBasis, k: int, *, interior: bool) -> jax.Array:
    """Compute () the norm of A Q - Q (Q^H A Q) for the Schur vectors Q that a search locks."""
    m = vectors.second.shape[0]
    locked = jnp.arange(m, dtype=jnp.int32) < (undivided(vectors, k, m) if k < m else k)
    Q = jnp.where(locked, vectors.coefficients, 0)
    coupled = matmul(part.coupling[0], Q)
    if not interior:
        return tree.norm(coupled)
    images = matmul(part.matrix, Q)
    return tree.norm((coupled, images - matmul(Q, jnp.conj(Q).T, images)))


def _shift_of(state: KrylovSchurState, spec: SolveSpec, sigma: Any) -> Shift | None:
    """Return the shift of an interior problem; the target moves with the values found, so that it is none of them."""
    if not spec.interior:
        return None
    sigma = jnp.asarray(sigma).astype(state.krylov.matrix.dtype)
    values = state.found.values[: spec.k]
    return Shift(sigma, jnp.where(state.last_check > 0, stand_off(sigma, values), sigma).astype(sigma.dtype))


def _targets(
    op: LinearOperator,
    spec: SolveSpec,
    values: jax.Array,
    worst: jax.Array,
    bounds: search_targets.Bounds,
    sigma: Any,
) -> search_targets.SearchTargets:
    """Compute levels and bounds of a search that follows these values: their copies, and more wanted eigenvalues."""
    distance, real = search_targets.far_enough(bounds), is_real(op.structure)
    shift = jnp.asarray(sigma).astype(values.dtype) if spec.interior else None
    keys = wanted_keys(values, spec.which, real=real, sigma=shift)
    certain = search_targets.certain_amplitude(op.size)
    copies = jnp.where(jnp.max(keys) - keys > bounds.eigenvalue, certain, 0).astype(keys.dtype)
    others = certain * search_targets.probability_missed(spec, worst, distance)
    points = boundary(values, spec.which, distance, bounds.norm_estimate, real=real, sigma=shift)
    levels = jnp.concatenate([values, points.astype(values.dtype)])
    return search_targets.SearchTargets(levels, jnp.concatenate([copies, jnp.full(points.shape, others)]))
