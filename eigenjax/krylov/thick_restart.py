"""A thick restart: of a full decomposition, the part worth keeping and the direction to go on in."""

import jax
import jax.numpy as jnp

from eigenjax.krylov import lanczos_polynomials
from eigenjax.krylov.decomposition import KrylovDecomposition, combined_defects, compress
from eigenjax.krylov.lanczos_polynomials import LanczosPolynomials
from eigenjax.krylov.rayleigh_ritz import EXTRA_NEAR, Extraction, harmonic_directions
from eigenjax.krylov.restart_size import most_kept, num_kept
from eigenjax.krylov.solve_spec import Goal
from eigenjax.vectors import storage, tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.matmul import matmul
from eigenjax.vectors.orthogonalize import normalize, orthogonalize
from eigenjax.vectors.pseudorandom import arbitrary_vector, successor
from eigenjax.vectors.tree import PyTree

# The seed of fresh directions; see `krylov`.
_RESTARTING = 2
# A pair found by a search may be spoiled by less than this share of the bound on its residual.
_SPOILED = 0.3


def kept_coefficients(
    state: KrylovDecomposition, found: Extraction, goal: Goal, fresh: jax.Array, bound: jax.Array
) -> jax.Array:
    """(m, p) C of the vectors that are kept, the most wanted first; columns of zeros where they are fewer.

    Args:
        state: the decomposition.
        found: its pairs.
        goal: with k.
        fresh: () bool, a random direction follows.
        bound: () on the residuals of pairs wanted.
    """
    b, m = state.couplings.shape
    # What harmonic pairs are turned among themselves is kept as a whole: a part of it has no common residual.
    wanted = goal.k + EXTRA_NEAR - 1 if goal.near else goal.k
    most = most_kept(wanted, m, b)
    index = jnp.arange(most, dtype=jnp.int32)
    kept = index < num_kept(found.values, state.num_filled, wanted, most, state.kept)
    locked = index < goal.k
    if not goal.near:
        locked = locked | (kept & _stand_apart(found, goal, bound)[:most])
    return jnp.where(jnp.where(fresh, locked, kept), found.coefficients[:, :most], 0)


def _stand_apart(found: Extraction, goal: Goal, bound: jax.Array) -> jax.Array:
    """(m,) bool, pairs not wanted that may be kept from a random direction, which finds others the sooner for it.

    What is dropped of their residuals is missing in a pair yet to be found: of its eigenvector they hold less than the
    residual over the gap to the values wanted, and spoil it by less than the square of the residual over the gap.
    """
    values = jnp.abs(found.values) if goal.which == "LM" else found.values
    gaps = jnp.min(jnp.abs(values[:, None] - values[None, : goal.k]), axis=1)
    return jnp.square(found.residuals) <= _SPOILED * bound * gaps


def translate(state: KrylovDecomposition, coefficients: jax.Array, target: jax.Array) -> KrylovDecomposition:
    """Turns to the direction in which the harmonic Ritz vectors that are kept go on; see `extraction`."""
    along_basis, along_directions, couplings = harmonic_directions(state, coefficients, target)
    directions = jax.tree.map(
        jnp.add, storage.combine(along_basis, state.basis), tree.combine(along_directions, state.directions)
    )
    polynomials = state.polynomials
    of_dtype = lambda x: x.astype(polynomials.rows.dtype)
    values = matmul(polynomials.rows, of_dtype(along_basis))
    values += matmul(polynomials.directions, of_dtype(along_directions))
    # For `restart`, which will multiply by C; the columns of C are orthonormal.
    return state._replace(
        directions=directions,
        couplings=matmul(couplings, jnp.conj(coefficients).T),
        polynomials=polynomials._replace(directions=values),
    )


def restart(
    state: KrylovDecomposition,
    coefficients: jax.Array,
    found: Extraction,
    fresh: jax.Array,
    levels: jax.Array,
    *,
    translated: bool,
) -> KrylovDecomposition:
    """Keeps V C, and goes on in the same direction or in a fresh one.

    Args:
        state: the decomposition.
        coefficients: of `kept_coefficients`.
        found: the pairs, of which residuals are dropped before a fresh direction.
        fresh: () bool.
        levels: (L,) the numbers at which the polynomials of a fresh direction are followed.
        translated: whether the direction comes from `translate`, and is orthonormal but for rounding; static.
    """
    couplings = matmul(state.couplings, coefficients)
    if state.block_size == 1 and not translated:
        # All residuals are along the one direction, which is kept beside the basis. What was kept there before is known
        # by its norm from now on.
        lost = jnp.abs(matmul(state.dropped_couplings, coefficients))
        state = state._replace(
            dropped=tree.where(fresh, tree.row(state.directions, 0), state.dropped),
            dropped_couplings=jnp.where(fresh, state.couplings[0], state.dropped_couplings),
        )
    else:
        # The residuals hold the defects of before already, and `compress` adds those by itself.
        residuals = jnp.where(jnp.any(coefficients != 0, axis=0), found.residuals[: coefficients.shape[1]], 0)
        lost = _without(residuals, combined_defects(state, coefficients))
    new = compress(state, coefficients, jnp.where(fresh, 0, couplings), jnp.where(fresh, lost, 0))
    if translated:
        directions = _orthonormal(new, state.directions, fresh)
    else:
        directions = apply_when(fresh, lambda rows: fresh_directions(new, rows), state.directions)
    values = begin_search(new, levels)
    polynomials = jax.tree.map(lambda x, y: jnp.where(fresh, x, y), values, new.polynomials)
    return new._replace(directions=directions, polynomials=polynomials)


def outside(state: KrylovDecomposition, restarting: jax.Array) -> KrylovDecomposition:
    """With the part of w outside of V: H knows the rest, and what a restart takes from V does not come back."""
    remove = lambda dropped: orthogonalize(state.basis, dropped).vector
    needed = restarting & jnp.any(state.dropped_couplings != 0)
    return state._replace(dropped=apply_when(needed, remove, state.dropped))


def begin_search(state: KrylovDecomposition, levels: jax.Array) -> LanczosPolynomials:
    """Polynomials where the directions are the start, and what the basis holds is locked."""
    b, m = state.couplings.shape
    return lanczos_polynomials.start(levels, m, b, state.polynomials.rows.dtype)


def _without(hypotenuse: jax.Array, part: jax.Array) -> jax.Array:
    """(a^2 - b^2)^(1/2) of numbers that are not negative, 0 where b is the larger."""
    share = jnp.minimum(part / jnp.where(hypotenuse > 0, hypotenuse, 1), 1)
    return hypotenuse * jnp.sqrt((1 - share) * (1 + share))


def fresh_directions(state: KrylovDecomposition, directions: PyTree) -> PyTree:
    """Random directions, orthonormal and orthogonal to the basis, shaped like those given."""
    return _orthonormal(state, directions, None)


def _orthonormal(state: KrylovDecomposition, directions: PyTree, fresh: jax.Array | None) -> PyTree:
    """Directions that a translation left orthonormal but for rounding, or fresh ones; None is fresh in any case."""
    seed = successor(successor(state.seed, _RESTARTING), state.num_restarts)
    structure = tree.structure_of(tree.row(directions, 0))

    def clean(i, rows):
        drawn = lambda _: arbitrary_vector(successor(seed, i), structure)
        direction = drawn(None) if fresh is None else apply_when(fresh, drawn, tree.row(rows, i))
        # What comes after it is not orthogonal to it yet: of no account.
        earlier = jax.tree.map(lambda x: jnp.where(_before(i, x), x, jnp.zeros_like(x)), rows)
        rest = orthogonalize(state.basis, direction, *(() if b == 1 else (earlier,)))
        return tree.set_row(rows, i, normalize(rest.vector, rest.norm))

    b = state.block_size
    return clean(0, directions) if b == 1 else jax.lax.fori_loop(0, b, clean, directions)


def _before(i: jax.Array, rows: jax.Array) -> jax.Array:
    index = jnp.arange(rows.shape[0], dtype=jnp.int32)
    return (index < i).reshape(-1, *[1] * (rows.ndim - 1))
