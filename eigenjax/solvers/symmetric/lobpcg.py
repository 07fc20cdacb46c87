"""LOBPCG: eigenpairs at one end of a symmetric operator, with a preconditioner.

    R = A X - X diag(theta),    W = T R,    X' = the Ritz vectors of A in span[X, P, W],    P' = X' less its part in X

is the locally optimal block preconditioned conjugate gradient method (Knyazev 2001). T approximates the inverse of A
shifted to the wanted end; X is a block of b = k + guard vectors, as the gap behind it sets the rate.

The textbook basis [X, P, W] is nearly dependent as soon as a pair converges. Here it is orthonormal (Hetmaniuk and
Lehoucq 2006; Duersch, Shao, Yang and Gu 2018). W is orthonormalized against X and P; its dependent directions become
zero rows outside of the projected problem. P' is orthonormalized against X' in basis coordinates, where both are small
matrices. A X and A P are carried as combinations: a step costs b matvecs A W. When the carried residuals meet the
tolerance, or the solve ends otherwise, A X is computed: residuals are true.

>>> import jax, jax.numpy as jnp
>>> from eigenjax import as_operator
>>> op = as_operator(jnp.diag(jnp.arange(1.0, 41.0)))
>>> solve = lambda op: jax.lax.while_loop(lambda s: ~s.done, lambda s: step(op, s, k=2), init(op, k=2))
>>> print(finalize(op, jax.jit(solve)(op), k=2).eigenvalues.round(3))
[1. 2.]
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.metric import random_start, refreshed
from eigenjax.operators.base import LinearOperator, check_vector, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, tolerance, with_status
from eigenjax.solvers.start import given_start
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize, project_out
from eigenjax.vectors.pseudorandom import fold_in, seed_of
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree

# A unit vector is dependent if a projection leaves less than this times eps of it.
_DEPENDENT = 100.0
# The first pass of orthonormalization may amplify rounding to order one; the second yields a well-conditioned block.
_PASSES = 3
# Residuals below the first times eps ||A|| that do not halve within the second number of steps stagnate.
_NEAR_ROUNDING, _PATIENCE = 100.0, 40
# Block matvecs by default: preconditioned solves take 10 to 50, plain ones on a 2-D Laplacian of 4200 about 250.
_DEFAULT_BLOCKS = 500


class LobpcgState(NamedTuple):
    """Solver state: the block of b Ritz vectors, the search directions and their residuals."""

    vectors: tuple[PyTree, PyTree]  # X and A X, b rows each, the most wanted first; A X is a carried combination
    directions: tuple[PyTree, PyTree]  # P and A P, P orthonormal and orthogonal to X; zero rows where there is none
    residual_vectors: PyTree  # A X - X diag(theta), b rows
    values: jax.Array  # (b,) Ritz values theta
    residuals: jax.Array  # (b,) norms of the rows of `residual_vectors`
    largest: jax.Array  # () the largest |Ritz value| seen
    discrepancy: jax.Array  # () largest entry of |V^H A V - (V^H A V)^H|; NaN or Inf if a matvec is
    best: jax.Array  # () the largest residual of the k when it last halved
    num_stalled: jax.Array  # () int32, steps since then
    refresh: jax.Array  # () bool, the next block matvec is A X: the first one, and to verify residuals
    ending: jax.Array  # () bool, only a refreshing step may follow
    done: jax.Array  # () bool, the solve is over; the residuals are true
    num_matvecs: jax.Array  # () int32, matvecs so far


def init(op: LinearOperator, v0: PyTree | None = None, *, k: int, key: jax.Array | None = None) -> LobpcgState:
    """Initialize the state; dependent, zero or nonfinite start vectors are replaced by random ones."""
    size = min(k + max(1, k // 3), op.size)  # a third more took the fewest matvecs of all shares measured
    vectors = _start_block(op, v0, k, size, seed_of(key))
    nothing = jax.tree.map(jnp.zeros_like, (vectors, vectors))
    zeros = jnp.zeros(size, tree.real_dtype(tree.accumulation_dtype(vectors)))
    return LobpcgState(
        vectors=(vectors, nothing[1]),
        directions=nothing,
        residual_vectors=vectors,
        values=zeros,
        residuals=zeros,
        largest=zeros[0],
        discrepancy=zeros[0],
        best=zeros[0] + jnp.inf,
        num_stalled=jnp.zeros((), jnp.int32),
        refresh=jnp.ones((), bool),
        ending=jnp.zeros((), bool),
        done=jnp.zeros((), bool),
        num_matvecs=jnp.zeros((), jnp.int32),
    )


def step(
    op: LinearOperator,
    state: LobpcgState,
    *,
    k: int,
    preconditioner: LinearOperator | None = None,
    which: str = "SA",
    tol: Any = None,
    max_matvecs: Any = None,
) -> LobpcgState:
    """Take one step with one block matvec, A W or, to refresh, A X, and the Rayleigh-Ritz procedure."""
    size = state.values.shape[0]
    # A refresh replaces W by X and uses no carried vector.
    carried = _concatenate(state.vectors, state.directions)
    carried = jax.tree.map(lambda x: jnp.where(state.refresh, 0, x), carried)
    # Normalize the residuals, because the smallest would underflow in T.
    search = jax.vmap(normalize)(state.residual_vectors, state.residuals)
    search = search if preconditioner is None else jax.vmap(partial(matvec, preconditioner))(search)
    block = _orthonormalize_against(tree.where(state.refresh, state.vectors[0], search), carried[0])
    both = _concatenate(carried, (block, jax.vmap(partial(matvec, op))(block)))
    mask = jax.vmap(tree.norm)(both[0]) > 0

    projection = tree.gram(*both)
    values, coefficients = _rayleigh_ritz(projection, mask, which)
    rotation, theta = coefficients[:, :size], values[:size]
    moves = _orthonormalize_against(rotation.at[:size].set(0).T, rotation.T)
    vectors, images = refreshed(op, tree.combine(rotation, both[0])), tree.combine(rotation, both[1])
    residual_vectors = jax.vmap(tree.add_scaled)(images, -theta, vectors)
    moved = state._replace(
        vectors=(vectors, images),
        directions=(refreshed(op, tree.combine(moves.T, both[0])), tree.combine(moves.T, both[1])),
        residual_vectors=residual_vectors,
        values=theta,
        # A start block of rank below b leaves zero vectors until the search has found the others.
        residuals=jnp.where(jax.vmap(tree.norm)(vectors) > 0, jax.vmap(tree.norm)(residual_vectors), jnp.inf),
        largest=jnp.maximum(state.largest, jnp.max(jnp.abs(values))),
        discrepancy=jnp.maximum(state.discrepancy, jnp.max(jnp.abs(projection - jnp.conj(projection).T))),
        num_matvecs=state.num_matvecs + size,
    )
    exhausted = ~state.refresh & ~jnp.any(mask[2 * size :])
    return _decide(moved, k, exhausted, rounding_unit(op), tol, max_matvecs)


def finalize(op: LinearOperator, state: LobpcgState, k: int, tol: Any = None, v0: PyTree | None = None) -> EigenResult:
    """Return the k most wanted pairs of a finished state, at no matvec."""
    given = given_block(op, v0, k)
    reference = None if given is None else jax.tree.map(lambda x: jnp.sum(x, axis=0), given)
    vectors, _ = fix_signs(jax.tree.map(lambda x: x[:k], state.vectors[0]), reference)
    residuals = state.residuals[:k]
    # A pair counts as converged only if those before it have converged.
    reached = jnp.cumprod(residuals <= tolerance(tol, residuals.dtype, state.largest) * state.largest) > 0
    return with_status(
        op,
        CandidatePairs(state.values[:k], vectors, residuals, reached, state.num_matvecs),
        tol=tol,
        norm_estimate=state.largest,
        discrepancy=state.discrepancy,
        finite=jnp.isfinite(state.discrepancy),
    )


def lobpcg(
    op: Any,
    k: int = 6,
    *,
    preconditioner: Any = None,
    which: str = "SA",
    tol: Any = None,
    max_matvecs: Any = None,
    v0: PyTree | None = None,
    key: jax.Array | None = None,
) -> EigenResult:
    """Compute the k largest or smallest eigenpairs of a symmetric operator by LOBPCG.

        X <- the Ritz vectors of A in span[X, P, T (A X - X diag(theta))]

    Use it where an approximate inverse is cheap; without one a restarted Krylov method takes fewer matvecs. It finds up
    to b = min(n, k + max(1, k // 3)) copies of a repeated eigenvalue. Residuals do not show whether a pair was missed:
    a warm start of exact eigenvectors is returned as it is, whichever they are.

    Args:
        op: symmetric or Hermitian operator, anything that `as_operator` takes; a bare callable needs v0, one vector.
        k: number of pairs; static.
        preconditioner: T, anything that `as_operator` takes, on the operator's vectors: symmetric positive definite,
            approximately (A - sigma I)^-1 with sigma below the spectrum for "SA", (sigma I - A)^-1 with sigma above it
            for "LA". It is applied b times per step, not counted. None is the identity.
        which: "SA" smallest, "LA" largest; static.
        tol: the solve ends when the residuals of all k pairs are at most tol times the largest |Ritz value|. A pair is
            converged if this holds for it and all pairs before it. None is sqrt(eps), or 4 eps for 16-bit leaves.
        max_matvecs: maximal number of matvecs; None is 500 b. The first b are always spent.
        v0: one start vector, or k with a leading axis on every leaf; the signs of the result follow their sum.
        key: typed key of start vectors not given by v0; None is `jax.random.key(0)`.

    Returns:
        The pairs in the order of `which`, with true residuals; STAGNATED if these stagnate near rounding.

    Raises:
        ValueError: if k, which or max_matvecs is invalid, or v0 or the preconditioner has the wrong shape.
        TypeError: if `as_operator` does not accept `op` or `preconditioner`, a dtype differs, or k is no int.

    Cost: b matvecs to start, b per step, b to verify; 16 b vectors of memory besides those of b matvecs at once.

    Example:
        >>> import jax.numpy as jnp
        >>> diagonal = jnp.arange(1.0, 101.0) ** 2
        >>> result = lobpcg(jnp.diag(diagonal) + 0.5, k=2, preconditioner=lambda v: v / diagonal)
        >>> print(result.eigenvalues.round(2), result.converged, result.num_matvecs < 60)
        [1.36 4.45] [ True  True] True
    """
    op = as_operator(op, like=v0)
    tol = default_tolerance(op) if tol is None else tol
    ritz.check_count(k, op.size)
    _check_options(which, max_matvecs)
    if preconditioner is not None:
        preconditioner = as_operator(preconditioner, like=op.structure)
        check_vector(preconditioner.structure, op.structure, name="preconditioner")
    advance = partial(step, op, k=k, preconditioner=preconditioner, which=which, tol=tol, max_matvecs=max_matvecs)
    return finalize(op, jax.lax.while_loop(lambda state: ~state.done, advance, init(op, v0, k=k, key=key)), k, tol, v0)


def given_block(op: LinearOperator, v0: PyTree | None, k: int) -> PyTree | None:
    """Return the start vectors v0, one or k, as rows in the working dtypes, or None; raise if the shape is wrong."""
    if v0 is None:
        return None
    if [jnp.shape(x) for x in jax.tree.leaves(v0)] == [(k, *x.shape) for x in jax.tree.leaves(op.structure)]:
        return jax.vmap(partial(given_start, op))(jax.tree.map(jnp.asarray, v0))
    try:
        return jax.tree.map(lambda x: x[None], given_start(op, v0))
    except ValueError as error:
        raise ValueError(f"{error}; or give k={k} vectors, a leading axis {k} on every leaf") from None


def _start_block(op: LinearOperator, v0: PyTree | None, k: int, size: int, seed: jax.Array) -> PyTree:
    drawn = jax.vmap(lambda i: random_start(op, fold_in(seed, i)))(jnp.arange(size, dtype=jnp.uint32))
    given = given_block(op, v0, k)
    if given is None:
        return drawn
    finite = jnp.isfinite(jax.vmap(tree.norm)(given))
    given = jax.vmap(tree.where)(finite, given, jax.tree.map(jnp.zeros_like, given))
    given = _orthonormalize_against(given, jax.tree.map(lambda x: jnp.zeros_like(x[:1]), given))
    usable, count = jax.vmap(tree.norm)(given) > 0, len(finite)
    given = jax.vmap(tree.where)(usable, given, jax.tree.map(lambda x: x[:count], drawn))
    return _concatenate(given, jax.tree.map(lambda x: x[count:], drawn))


def _decide(state: LobpcgState, k: int, exhausted: jax.Array, unit: float, tol: Any, max_matvecs: Any) -> LobpcgState:
    """Decide whether to continue, to refresh, or to end."""
    size = state.values.shape[0]
    allowed = jnp.asarray(_DEFAULT_BLOCKS * size if max_matvecs is None else max_matvecs, jnp.int32)
    worst = jnp.max(state.residuals[:k])
    below_tol = worst <= tolerance(tol, worst.dtype, state.largest) * state.largest
    halved = worst <= state.best / 2
    num_stalled = jnp.where(halved, 0, state.num_stalled + 1)
    stalled = (num_stalled >= _PATIENCE) & (worst <= _NEAR_ROUNDING * unit * state.largest)
    # End unless the budget allows another step and the refresh after it.
    ending = state.ending | stalled | exhausted | (state.num_matvecs > allowed - 2 * size)
    return state._replace(
        best=jnp.where(halved, worst, state.best),
        num_stalled=num_stalled,
        refresh=~state.refresh & (below_tol | ending),
        ending=ending,
        done=(state.refresh & (below_tol | ending)) | ~jnp.isfinite(state.discrepancy),
    )


def _rayleigh_ritz(projection: jax.Array, mask: jax.Array, which: str) -> tuple[jax.Array, jax.Array]:
    """Compute Ritz values, the most wanted first, and coefficients as columns, from the valid basis rows."""
    order = jnp.argsort(~mask, stable=True)
    hermitian = (projection + jnp.conj(projection).T) / 2
    values, vectors, valid = ritz.projected_eigh(hermitian[order][:, order], jnp.sum(mask, dtype=jnp.int32))
    chosen = ritz.wanted_order(values, which, valid)
    coefficients = jnp.zeros_like(vectors).at[order].set(vectors)
    # Coefficients of invalid rows are exactly zero: their rounding would count as a part of the vector.
    return values[chosen], jnp.where(mask[:, None], coefficients, 0)[:, chosen]


def _orthonormalize_against(block: PyTree, basis: PyTree) -> PyTree:
    """Compute an orthonormal basis of the part of a block outside the span of orthonormal rows, padded with zero rows.

    Each pass projects and scales the principal axes of the remainder to length one (SVQB: Stathopoulos and Wu 2002).
    """
    unit = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(block))

    def one_pass(_, block):
        block = jax.vmap(normalize)(block, jax.vmap(tree.norm)(block))
        block = project_out(basis, block)
        lengths = jax.vmap(tree.norm)(block)
        # Division by Inf turns a row of rounding into zero; NaN stays NaN.
        block = jax.vmap(normalize)(block, jnp.where(lengths > _DEPENDENT * unit, lengths, jnp.inf))
        count = lengths.shape[0]
        squares, axes, _ = ritz.projected_eigh(tree.gram(block, block), jnp.int32(count))
        independent = squares > count * unit  # the rounding of the inner products
        inverse = jnp.where(independent, jax.lax.rsqrt(jnp.where(independent, squares, 1)), 0)
        return tree.combine(axes * inverse.astype(axes.dtype)[None, :], block)

    return jax.lax.fori_loop(0, _PASSES, one_pass, block)


def _concatenate(first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), first, second)


def _check_options(which: str, max_matvecs: Any) -> None:
    ritz.check_which(which)
    if which not in ("LA", "SA"):
        raise ValueError(f"which={which!r}: LOBPCG goes to one end, 'LA' or 'SA'; use eigsh without a preconditioner")
    if isinstance(max_matvecs, bool | float) or (isinstance(max_matvecs, int) and not 0 <= max_matvecs < 2**31):
        raise ValueError(f"max_matvecs={max_matvecs!r}: give the number of matvecs allowed, an int from 0 to 2^31 - 1")
