"""Thick-restart Golub-Kahan-Lanczos: two bases of bounded size, restarted until k triplets have converged.

    expand until the next convergence check -> extract triplets -> test -> restart when the bases are full -> expand ...

With the singular value decomposition B = P S Q^H of the small matrix of `bidiagonalization`, the triplets (U p, s, V q)
satisfy

    A V q - s U p = 0,    A^H U p - s V q = d g p + E p

so that the residuals are |g p|. A restart retains the largest triplets, or the smallest; `krylov.restart_size` chooses
their number from the squares of the singular values, as V is a Krylov space of A^H A. B holds the values themselves, so
that small ones are as accurate as large ones, to eps ||A||. (A^H A would give sqrt(eps) ||A||, for as many matvecs.
Lanczos with the dilation [[0, A], [A^H, 0]] is as accurate. It takes 1.9 to 2.2 times as many on four matrices, k = 5
with 20 vectors.)

The smallest triplets are at the end of the spectrum of A^H A, where Ritz vectors are as good as harmonic ones. (Those
of Baglama and Reichel take 0.95 to 1.07 times the matvecs, 0.99 in the mean, on seven matrices with three sizes each.
They need the inverse of B, which a zero value has not.) As A V = U B holds exactly, a right null vector v = V q is
found together with a U p that is no left null vector: A maps v to nothing. Left null vectors enter U by rounding of
A V, and grow there like all others. If A has zero rows they do not, so that a restart adds such rounding.

Copies of a multiple value, and vectors that the start vector is orthogonal to, are found by a missed-pair search. It
follows a random direction until that yields nothing new, when the space is exhausted or when verify is set.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.decomposition import is_whole
from eigenjax.krylov.golub_kahan import bidiagonal_polynomials, bidiagonalization
from eigenjax.krylov.golub_kahan.bidiagonalization import Bidiagonalization
from eigenjax.krylov.golub_kahan.ritz_triplets import Triplets, extract
from eigenjax.krylov.restart_size import max_keep, num_keep
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.rectangular import Dilation
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence import missed_pairs, search_targets
from eigenjax.solvers.convergence.check_schedule import rows_to_wait
from eigenjax.solvers.convergence.residuals import begin_verification, verify
from eigenjax.solvers.convergence.status import CandidatePairs, with_status
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul, safe_divide
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree


class SolveState(NamedTuple):
    """Solver state."""

    space: Bidiagonalization  # the decomposition A V = U B, A^H U = V B^H + d g
    found: Triplets  # triplets of the last convergence check
    norm_estimate: jax.Array  # () the largest Ritz value seen, a lower bound of ||A||
    next_check: jax.Array  # () int32, basis rows at the next convergence check
    distance: jax.Array  # () log(residual / bound) of the worst triplet at the last check; inf at first
    last_check: jax.Array  # () int32, matvecs at the last check
    search: missed_pairs.Search  # state of the missed-pair search
    targets: search_targets.SearchTargets  # levels and bounds of the running search
    done: jax.Array  # () bool, the solve is over


def init(op: RectangularOperator, start: PyTree, spec: SolveSpec, *, krylov_dim: int, seed: jax.Array) -> SolveState:
    """Initialize the state before the first matvec.

    Args:
        op: A, at least as tall as wide.
        start: a vector of its domain in working dtypes.
        spec: the static options of the solve, with `which` "LA" or "SA" and `interior` False.
        krylov_dim: m, the number of vectors of each basis.
        seed: seed of all random directions.
    """
    num_levels = search_targets.num_levels(spec)
    space = bidiagonalization.initialize(op, start, krylov_dim, seed, num_levels=num_levels)
    zero, m = space.operator_norm, krylov_dim
    identity = jnp.eye(m, dtype=space.matrix.dtype)
    return SolveState(
        space=space,
        found=Triplets(jnp.zeros(m, zero.dtype), identity, identity, jnp.full(m, jnp.inf, zero.dtype)),
        norm_estimate=zero,
        next_check=jnp.asarray(spec.k, jnp.int32),
        distance=zero + jnp.inf,
        last_check=jnp.zeros((), jnp.int32),
        search=missed_pairs.no_search(spec.k, zero.dtype),
        targets=search_targets.no_targets(num_levels, zero.dtype, zero.dtype),
        done=jnp.asarray(spec.max_matvecs < 2),
    )


def step(op: RectangularOperator, state: SolveState, spec: SolveSpec, *, tol: Any) -> SolveState:
    """Expand until the next convergence check, make the check, and restart if necessary."""
    m, n = state.found.values.shape[0], op.shape[1]

    def has_to_grow(space):
        has_room = (space.num_valid < m) & (space.num_matvecs + 2 <= spec.max_matvecs)
        return (space.num_valid < state.next_check) & has_room & ~space.broken_down

    # Clear the breakdown flag: the last check handled it.
    first = state.space._replace(broken_down=jnp.zeros((), bool))
    grown = jax.lax.while_loop(has_to_grow, lambda space: bidiagonalization.expand(op, space), first)
    state = check_convergence(op, state._replace(space=grown), spec, tol=tol)
    if m < n:
        restarting = ((state.space.num_valid == m) | state.search.starts) & ~state.done
        restart = lambda space: _restart(space, state.found, spec, state.search.starts, state.targets.levels)
        space = apply_when(restarting, restart, state.space)
        state = state._replace(space=space, search=missed_pairs.begun(state.search))
    return state._replace(next_check=state.next_check + state.space.num_valid)


def check_convergence(op: RectangularOperator, state: SolveState, spec: SolveSpec, *, tol: Any) -> SolveState:
    """Extract and test the triplets, and schedule the next convergence check (`next_check` is relative here)."""
    space, found = state.space, extract(state.space, spec.which)
    m, n = found.values.shape[0], op.shape[1]
    norm_estimate = jnp.maximum(state.norm_estimate, jnp.max(found.values))
    bounds = search_targets.bounds_of(Dilation(op), spec, tol, norm_estimate)
    complete = is_whole(space.num_valid, m, n)
    values, residuals = found.values[: spec.k], found.residuals[: spec.k]
    targets = search_targets.targets_of(spec, values, jnp.max(residuals), bounds, size=n)
    # No singular value is negative.
    targets = targets._replace(levels=jnp.maximum(targets.levels, 0))
    check = missed_pairs.check(
        state.search,
        spec,
        values,
        residuals,
        bidiagonal_polynomials.amplitudes(space.polynomials),
        state.targets,
        targets,
        bounds,
        space.broken_down & ~complete,
    )
    search = check.search
    polynomials = tree.where(
        check.begins_in_place, bidiagonalization.begin_search(space, check.targets.levels), space.polynomials
    )
    # The basis spans the whole space of a small operator: nothing can be missed.
    finished = search.satisfied | missed_pairs.has_given_up(search, spec.k) if m < n else False
    wait = rows_to_wait(state.distance, check.remaining, state.last_check // 2, space.num_matvecs // 2)
    return state._replace(
        space=space._replace(polynomials=polynomials),
        found=found,
        norm_estimate=norm_estimate,
        targets=check.targets,
        next_check=jnp.maximum(wait, spec.k - space.num_valid),
        distance=check.remaining,
        last_check=space.num_matvecs,
        search=search,
        done=finished | complete | (space.num_matvecs + 2 > spec.max_matvecs) | ~jnp.isfinite(space.operator_norm),
    )


def finalize(
    op: RectangularOperator, state: SolveState, spec: SolveSpec, *, tol: Any, sign_by_left: bool
) -> EigenResult:
    """Compute the result of a state with verified residuals.

    Cost: one matvec each with A and A^H, or k + 1 each if the first contradict the recurrence.

    Args:
        op: A.
        state: a finished state.
        spec: the static options of the solve.
        tol: relative tolerance on the residuals; None is sqrt(eps).
        sign_by_left: fix the signs by the left vectors instead of the right ones; static.

    Returns:
        The eigenpairs of the dilation [[0, A], [A^H, 0]]; its vectors are (left, right).
    """
    k, found, space = spec.k, state.found, state.space
    values, residuals, P = found.values[:k], found.residuals[:k], found.left_coefficients[:, :k]
    left, right, phases = _signed(
        tree.combine(P, space.left), tree.combine(found.right_coefficients[:, :k], space.right), sign_by_left
    )
    valid = jnp.isfinite(residuals)
    # The defects are left out: the verification finds them if they are still present.
    coupling = (matmul(space.coupling, P)) * phases.astype(P.dtype)

    def predict(signs):
        """Predict A and A^H applied to sum_i signs_i (u_i, v_i) by the decomposition."""
        along = signs.astype(values.dtype) * values
        along_direction = jnp.sum(signs.astype(coupling.dtype) * coupling)
        return tree.combine(along, left), tree.add_scaled(tree.combine(along, right), along_direction, space.direction)

    def verification(_):
        estimates = jnp.where(valid, jnp.abs(coupling), 0)
        whole, vectors = Dilation(op), (left, right)
        begun = begin_verification(whole, values, vectors, estimates, predict, state.norm_estimate, space.seed)
        progress = verify(whole, *begun)
        return progress.residuals, progress.discrepancy, progress.num_matvecs

    unverified = (residuals, jnp.zeros_like(state.norm_estimate), jnp.zeros((), jnp.int32))
    residuals, discrepancy, num_verifications = apply_when(jnp.any(valid), verification, unverified)
    residuals = jnp.where(valid | jnp.isnan(residuals), residuals, jnp.inf)
    num_matvecs = space.num_matvecs + 2 * num_verifications
    complete = is_whole(space.num_valid, found.values.shape[0], op.shape[1])
    return with_status(
        Dilation(op),
        CandidatePairs(values, (left, right), residuals, valid, num_matvecs),
        tol=tol,
        norm_estimate=state.norm_estimate,
        discrepancy=discrepancy,
        finite=jnp.isfinite(space.operator_norm),
        verified=complete | state.search.satisfied if spec.verify else True,
    )


def _restart(
    space: Bidiagonalization, found: Triplets, spec: SolveSpec, fresh: jax.Array, levels: jax.Array
) -> Bidiagonalization:
    """Restart with the triplets worth retaining, or only with the wanted ones before a random direction."""
    m = found.values.shape[0]
    most = max_keep(spec.k, m, 1)
    growth = jnp.square(safe_divide(found.values, jnp.max(found.values)))
    num_kept = jnp.where(fresh, spec.k, num_keep(growth, space.num_valid, spec.k, most, space.num_keep))
    keep = jnp.arange(most, dtype=jnp.int32) < num_kept
    P, Q = (jnp.where(keep, x[:, :most], 0) for x in (found.left_coefficients, found.right_coefficients))
    space = bidiagonalization.compress(space, P, Q, fresh, levels)
    return bidiagonalization.add_rounding(space) if spec.which == "SA" else space


def _signed(left: PyTree, right: PyTree, by_left: bool) -> tuple[PyTree, PyTree, jax.Array]:
    """Multiply both sides by phases that make the largest component on one side positive; return these phases too."""
    one, phases = fix_signs(left if by_left else right)
    other = jax.vmap(tree.scale)(phases, right if by_left else left)
    return (one, other, phases) if by_left else (other, one, phases)
