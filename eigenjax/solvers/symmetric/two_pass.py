"""Two-pass Lanczos: eigenpairs of a symmetric operator in the memory of a few vectors, for twice the matvecs.

    beta_j v_{j+1} = A v_j - beta_{j-1} v_{j-1} - alpha_j v_j,    T s = theta s,    x = sum_j s_j v_j

The first pass stores alpha and beta but no vectors; the second repeats it from the same start and sums the k Ritz
vectors (Cullum and Willoughby 1985, chapter 4). Both use one loop body, so that they agree to the last bit.

No vector is orthogonalized. The first components s_1 of T's eigenvectors are overlaps <x, v_1>. Once theta_j has
converged, rounding of size eps ||A|| starts it again, as a ghost theta_i with

    |s_1i| <= c eps ||A|| |s_1j| / |theta_i - theta_j|

while it converges to theta_j, and with any share of the overlap after that. Ritz values that satisfy this are dropped:
copies, and common eigenvalues of T and T without its first row and column (s_1 = 0), the test of Cullum and Willoughby.
The eigenvectors of a group of copies give x with arbitrary length; the projection of e_1 on the group, sum_i s_1i s_i,
gives x with length 1. A Rayleigh-Ritz step on the k vectors gives the true residuals.

>>> import jax, jax.numpy as jnp
>>> from eigenjax import as_operator
>>> op = as_operator(jnp.diag(jnp.array([10.0, 6.0, 3.0, 2.0, 1.0])))
>>> state = init(op, k=2, krylov_dim=20)
>>> state = jax.lax.while_loop(unfinished, lambda state: step(op, state, which="LA"), state)
>>> print(finalize(op, state, which="LA").eigenvalues.round(4), state.drift)
[10.  6.] 0.0
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_int
from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, tolerance, with_status
from eigenjax.solvers.start import given_start, start_vector
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import breakdown_length, normalize, orthogonalize, unless_broken_down
from eigenjax.vectors.pseudorandom import arbitrary_vector, fold_in, seed_of
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree

# c above: 4 misses copies, 16 none. One direction gets 1 / sqrt(n) of a low-precision matvec's rounding.
_GHOST_ROUNDING, _GHOST_SHARE = 16.0, 2.0
# The first pass ends at this fraction of tol, a margin for the rounding of the second and for Rayleigh-Ritz.
_MARGIN = 0.5
# Checks of T after 2 k steps, then every 4, later at a growth by one eighth: 25 dense solves in 300 steps.
_CHECK_STEPS, _CHECK_GROWTH = 4, 8
# A vector of which orthogonalization leaves less than this times eps is dependent on those before it.
_COLLAPSED = 10.0
# Steps by default: a Hessian takes 10 to 40; k = 5 of a 60 x 70 Laplacian at 1e-6 needs 326 to 460.
_STEPS, _STEPS_PER_PAIR, _STEPS_PER_DIMENSION = 300, 10, 4


class TwoPassState(NamedTuple):
    """Solver state: the recurrence, in the first or the second pass."""

    start: PyTree  # v_1, where the second pass starts again
    previous: PyTree  # v_step
    direction: PyTree  # beta v_{step + 1}, not normalized
    length: jax.Array  # () beta_step; 0 after a breakdown
    diagonal: jax.Array  # (m,) alpha
    offdiagonal: jax.Array  # (m,) beta
    operator_norm: jax.Array  # () the largest ||A v_j|| so far, a lower bound of ||A||
    step: jax.Array  # () int32, steps of this pass
    stop: jax.Array  # () int32, the step of the next convergence check, or the end of the second pass
    replaying: jax.Array  # () bool, this is the second pass
    coefficients: jax.Array  # (m, k) the selected eigenvectors of T; zero in the first pass
    vectors: PyTree  # (k, ...) partial sums of their Ritz vectors
    norm_estimate: jax.Array  # () the largest |Ritz value|
    drift: jax.Array  # () the largest difference of alpha or beta between the passes


def init(op: LinearOperator, v0: PyTree = None, *, k: int, krylov_dim: int, key: Any = None) -> TwoPassState:
    """Initialize the state with room for krylov_dim steps; a v0 of zero or nonfinite norm is ignored."""
    seed = seed_of(key)
    start = start_vector(op, v0, fold_in(seed, 0))
    length, fresh = tree.norm(start), lambda x: arbitrary_vector(fold_in(seed, 1), x)
    start = apply_when(~((length > 0) & jnp.isfinite(length)), fresh, normalize(start, length))
    start = normalize(start, tree.norm(start))
    zero, none, max_steps = jnp.zeros_like(length), jnp.zeros((), jnp.int32), max(krylov_dim, 1)
    return TwoPassState(
        start=start,
        previous=jax.tree.map(jnp.zeros_like, start),
        direction=start,
        length=jnp.ones_like(length),
        diagonal=jnp.zeros(max_steps, length.dtype),
        offdiagonal=jnp.zeros(max_steps, length.dtype),
        operator_norm=zero,
        step=none,
        stop=jnp.full_like(none, min(2 * k, krylov_dim)),
        replaying=jnp.asarray(False),
        coefficients=jnp.zeros((max_steps, k), length.dtype),
        vectors=tree.zero_basis(start, k),
        norm_estimate=zero,
        drift=zero,
    )


def unfinished(state: TwoPassState) -> jax.Array:
    """Return () bool: there are steps left; NaN and Inf end a solve."""
    return (state.step < state.stop) & jnp.isfinite(state.operator_norm)


def step(op: LinearOperator, state: TwoPassState, *, which: str, tol: Any = None) -> TwoPassState:
    """Advance an unfinished state by one matvec, in either pass; a convergence check may begin the second pass."""
    j = state.step
    vector = normalize(state.direction, state.length)
    coupling = jnp.where(j == 0, 0, state.length)
    # Of the possible orders of these operations, the one with the least rounding (Paige 1972).
    image = tree.add_scaled(matvec(op, vector), -coupling, state.previous)
    alpha = tree.inner(vector, image).real
    direction = tree.add_scaled(image, -alpha, vector)
    length = tree.norm(direction)
    # ||A v_j||^2 = alpha^2 + beta_{j-1}^2 + beta_j^2
    operator_norm = jnp.maximum(state.operator_norm, tree.norm(jnp.stack([alpha, coupling, length])))
    length = jnp.where(length <= breakdown_length(operator_norm), 0, length)
    change = jnp.maximum(jnp.abs(alpha - state.diagonal[j]), jnp.abs(length - state.offdiagonal[j]))
    # Conditional, so that the first pass does not read the k vectors.
    multiples = lambda x: state.coefficients[j].reshape(-1, *[1] * x.ndim).astype(x.dtype) * x[None]
    add = lambda vectors: jax.tree.map(lambda sums, x: sums + multiples(x), vectors, vector)
    state = state._replace(
        previous=vector,
        direction=direction,
        length=length,
        diagonal=state.diagonal.at[j].set(alpha),
        offdiagonal=state.offdiagonal.at[j].set(length),
        operator_norm=operator_norm,
        step=j + 1,
        vectors=apply_when(state.replaying, add, state.vectors),
        drift=jnp.where(state.replaying, jnp.maximum(state.drift, change), 0),
    )
    due = ~state.replaying & ((state.step >= state.stop) | (length == 0)) & jnp.isfinite(operator_norm)
    rounding = max(
        _GHOST_ROUNDING * float(jnp.finfo(length.dtype).eps), _GHOST_SHARE * rounding_unit(op) / op.size**0.5
    )
    return apply_when(due, lambda state: _check_convergence(state, which, tol, rounding), state)


def finalize(op: LinearOperator, state: TwoPassState, *, which: str, tol: Any = None, v0: PyTree = None) -> EigenResult:
    """Compute the Rayleigh-Ritz pairs of a finished state, padded with random vectors to k, at k matvecs."""
    k = state.coefficients.shape[1]
    basis, images = _orthonormalized(op, state.vectors, k)
    # Column by column, because a matrix product of two bases copies both.
    matrix = jax.lax.map(lambda image: tree.project(basis, image), images).T
    adjoint = jnp.conj(matrix).T
    values, rotation, _ = ritz.projected_eigh((matrix + adjoint) / 2, jnp.asarray(k, jnp.int32))
    order = ritz.wanted_order(values, which)
    values, rotation = values[order], rotation[:, order]
    miss = lambda value, s: tree.norm(tree.add_scaled(tree.combine(s, images), -value, tree.combine(s, basis)))
    residuals = jax.lax.map(lambda pair: miss(*pair), (values, rotation.T))
    vectors, _ = fix_signs(tree.combine(rotation, basis), given_start(op, v0))
    num_matvecs = jnp.where(state.replaying, state.stop, 0) + state.step + k
    return with_status(
        op,
        CandidatePairs(values, vectors, residuals, jnp.ones(k, bool), num_matvecs),
        tol=tol,
        norm_estimate=jnp.maximum(state.norm_estimate, jnp.max(jnp.abs(values))),
        discrepancy=jnp.maximum(tree.norm(matrix - adjoint), state.drift),
        finite=jnp.isfinite(state.operator_norm),
    )


def two_pass_lanczos(
    op: Any,
    k: int = 6,
    *,
    krylov_dim: int | None = None,
    which: str = "LA",
    tol: Any = None,
    max_matvecs: int | None = None,
    v0: PyTree | None = None,
    key: jax.Array | None = None,
) -> EigenResult:
    """Compute the k most wanted eigenpairs of a symmetric operator without storing a Krylov basis.

    Run Lanczos until the estimated residuals of k Ritz pairs are below tol, then again for their vectors. It finds one
    vector of a repeated eigenvalue, and none that the start vector is orthogonal to. Others take the place of missed
    pairs, and no flag shows it. Two values that agree to 16 eps of the largest count as one.

    Args:
        op: symmetric or Hermitian operator, anything that `as_operator` takes; a bare callable needs v0. Its matvecs
            must be reproducible to the last bit, or pairs do not converge.
        k: number of pairs; static.
        krylov_dim: m, the maximal number of steps of a pass, beyond n if necessary; static. None is min(max(10 k, 300),
            4 n). It costs m x m scalars and a few dozen dense solves of that size.
        which: "LM" largest magnitude, "LA" largest, "SA" smallest, "BE" alternately from both ends; static.
        tol: bound on the residuals of converged pairs, relative to the largest |Ritz value|; None is sqrt(eps).
        max_matvecs: maximal number of all matvecs; static. The final k are spent in any case.
        v0: start vector, shaped like the operator's vectors; the signs of the result follow it.
        key: typed key of the start vector; None is `jax.random.key(0)`.

    Returns:
        The pairs in the order of `which`, flagged by true residuals; random Ritz pairs beyond those found.

    Raises:
        ValueError: if k, krylov_dim or max_matvecs is out of range, `which` is unknown, or v0 has the wrong shape.
        TypeError: if `as_operator` does not accept `op`, or k, krylov_dim or max_matvecs is not an int.

    Cost: 2 j + k matvecs for j <= m steps; ten vector reads per step, 2 k more in the second pass; 2 k + 6 vectors of
    memory besides those of a matvec.

    Example:
        >>> import jax.numpy as jnp
        >>> result = two_pass_lanczos(jnp.diag(jnp.arange(1.0, 51.0)), k=2)
        >>> print(jnp.abs(result.eigenvalues - jnp.array([50.0, 49.0])) < 1e-4, result.converged)
        [ True  True] [ True  True]

    Source: Cullum and Willoughby (1985), Lanczos algorithms for large symmetric eigenvalue computations.
    """
    op = as_operator(op, like=v0)
    tol = default_tolerance(op) if tol is None else tol
    ritz.check_count(k, op.size)
    ritz.check_which(which)
    state = init(op, v0, k=k, krylov_dim=_checked_steps(krylov_dim, max_matvecs, k, op.size), key=key)
    advance = lambda state: step(op, state, which=which, tol=tol)
    return finalize(op, jax.lax.while_loop(unfinished, advance, state), which=which, tol=tol, v0=v0)


def _check_convergence(state: TwoPassState, which: str, tol: Any, rounding: float) -> TwoPassState:
    """Check convergence with T: begin the second pass, or schedule the next check."""
    (most, k), j = state.coefficients.shape, state.step
    values, vectors, residuals, genuine = _genuine_pairs(state, rounding)
    chosen, norm_estimate = ritz.wanted_order(values, which, genuine)[:k], jnp.max(jnp.abs(values))
    found, bound = genuine[chosen], _MARGIN * tolerance(tol, norm_estimate.dtype, norm_estimate) * norm_estimate
    estimated = found & (residuals[chosen] <= bound)
    begin_replay = (jnp.sum(estimated) == k) | (state.length == 0) | (j >= most)
    later = jnp.minimum(j + jnp.maximum(_CHECK_STEPS, j // _CHECK_GROWTH), most)
    return state._replace(
        direction=tree.where(begin_replay, state.start, state.direction),
        length=jnp.where(begin_replay, 1, state.length),
        step=jnp.where(begin_replay, 0, j),
        stop=jnp.where(begin_replay, j, later),
        replaying=begin_replay,
        # The budget may allow fewer than k steps.
        coefficients=jnp.pad(jnp.where(begin_replay & found, vectors[:, chosen], 0), ((0, 0), (0, max(k - most, 0)))),
        norm_estimate=norm_estimate,
    )


def _genuine_pairs(state: TwoPassState, rounding: float) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    # (m,) Ritz values, group representatives in columns, residuals, and a mask of the values that are no ghosts.
    offdiagonal = jnp.diag(state.offdiagonal[:-1], 1)
    values, vectors, valid = ritz.projected_eigh(jnp.diag(state.diagonal) + offdiagonal + offdiagonal.T, state.step)
    largest = jnp.max(jnp.abs(values))
    gaps = safe_divide(jnp.abs(values[:, None] - values[None, :]), largest)
    first, index = jnp.where(valid, vectors[0], 0), jnp.arange(values.shape[0], dtype=jnp.int32)
    overlaps, copies = jnp.abs(first), gaps <= rounding
    lesser = (overlaps[:, None] < overlaps[None, :]) | (
        (overlaps[:, None] == overlaps[None, :]) & (index[:, None] > index[None, :])
    )
    # [i, j]: rounding explains theta_i as a ghost of theta_j.
    ghosts = lesser & (overlaps[:, None] * gaps <= rounding * overlaps[None, :])

    def represent(members):
        weights = jnp.where(members, first[:, None], 0)
        lengths = jnp.sqrt(jnp.sum(jnp.square(weights), axis=0))
        weights = safe_divide(weights, lengths[None, :])
        sums = jnp.matmul(vectors, weights, precision=jax.lax.Precision.HIGHEST)
        spread = largest * jnp.sqrt(jnp.sum(jnp.square(weights * jnp.where(copies, 0, gaps)), axis=0))
        return sums, jnp.where(lengths > 0, jnp.hypot(sums[state.step - 1] * state.length, spread), jnp.inf)

    # Copies alone are accurate; a ghost that is still converging disturbs them unless it is part of the group.
    plain, plain_residuals = represent(copies)
    mixed, mixed_residuals = represent(ghosts | (index[:, None] == index[None, :]))
    residuals = jnp.minimum(plain_residuals, mixed_residuals)
    # Ghosts appear only after a pair has converged at least this far (Paige 1971).
    settled = valid & (residuals <= rounding**0.5 * largest)
    vectors = jnp.where(plain_residuals <= mixed_residuals, plain, mixed)
    return values, vectors, residuals, valid & ~jnp.any(ghosts & settled[None, :], axis=1)


def _orthonormalized(op: LinearOperator, vectors: PyTree, k: int) -> tuple[PyTree, PyTree]:
    # Gram-Schmidt row by row; the matvecs of the rows overwrite the vectors.
    def make_row(i, carry):
        basis, vectors = carry
        vector = tree.row(vectors, i)
        before, residual = tree.norm(vector), orthogonalize(basis, vector)
        collapsed = residual.norm <= _COLLAPSED * jnp.finfo(before.dtype).eps * before
        # A fixed seed, because any random direction will do.
        unit = unless_broken_down(fold_in(seed_of(None), i), basis, residual.vector, residual.norm, collapsed)
        return tree.set_row(basis, i, unit), tree.set_row(vectors, i, matvec(op, unit))

    return jax.lax.fori_loop(0, k, make_row, (jax.tree.map(jnp.zeros_like, vectors), vectors))


def _checked_steps(krylov_dim: int | None, max_matvecs: int | None, k: int, size: int) -> int:
    if krylov_dim is None:
        krylov_dim = min(max(_STEPS_PER_PAIR * k, _STEPS), _STEPS_PER_DIMENSION * size)
    budget = sys.maxsize if max_matvecs is None else max_matvecs
    why = f"; k={k} pairs take k steps or more"
    krylov_dim = check_int(None, "krylov_dim", krylov_dim, least=k, why=why)
    budget = check_int(None, "max_matvecs", budget, least=0, why=why)
    return min(krylov_dim, max(0, (budget - k) // 2))
