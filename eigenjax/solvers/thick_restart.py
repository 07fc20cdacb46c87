"""A thick restart: of a full decomposition, the part worth keeping and the direction to go on in."""

import jax
import jax.numpy as jnp

from eigenjax import storage, tree
from eigenjax.solvers import lanczos_polynomials
from eigenjax.solvers.control import apply_when
from eigenjax.solvers.extraction import EXTRA_NEAR, Extraction, harmonic_directions
from eigenjax.solvers.goal import Goal
from eigenjax.solvers.krylov import KrylovDecomposition, combined_defects, compress
from eigenjax.solvers.lanczos_polynomials import LanczosPolynomials
from eigenjax.solvers.orthogonalize import normalize, orthogonalize
from eigenjax.solvers.retention import most_kept, num_kept
from eigenjax.solvers.start import arbitrary_vector, successor
from eigenjax.tree import PyTree

# The seed of fresh directions; see `krylov`.
_RESTARTING = 2


def kept_coefficients(state: KrylovDecomposition, found: Extraction, goal: Goal, fresh: jax.Array) -> jax.Array:
    """(m, p) C of the vectors that are kept, the most wanted first; columns of zeros where they are fewer.

    Args:
        state: the decomposition.
        found: its pairs.
        goal: with k.
        fresh: () bool, a random direction follows: only the pairs wanted are kept.
    """
    b, m = state.couplings.shape
    # What harmonic pairs are turned among themselves is kept as a whole: a part of it has no common residual.
    wanted = goal.k + EXTRA_NEAR - 1 if goal.near else goal.k
    most = most_kept(wanted, m, b)
    kept = jnp.where(fresh, goal.k, num_kept(found.values, state.num_filled, wanted, most, state.kept))
    return jnp.where(jnp.arange(most, dtype=jnp.int32) < kept, found.coefficients[:, :most], 0)


def translate(state: KrylovDecomposition, coefficients: jax.Array, target: jax.Array) -> KrylovDecomposition:
    """Turns to the direction in which the harmonic Ritz vectors that are kept go on; see `extraction`."""
    along_basis, along_directions, couplings = harmonic_directions(state, coefficients, target)
    directions = jax.tree.map(
        jnp.add, storage.combine(along_basis, state.basis), tree.combine(along_directions, state.directions)
    )
    polynomials = state.polynomials
    matmul = lambda a, b: jnp.matmul(a, b.astype(a.dtype))
    values = matmul(polynomials.rows, along_basis) + matmul(polynomials.directions, along_directions)
    # For `restart`, which will multiply by C; the columns of C are orthonormal.
    return state._replace(
        directions=directions,
        couplings=couplings @ jnp.conj(coefficients).T,
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
    lost = jnp.where(jnp.any(coefficients != 0, axis=0), found.residuals[: coefficients.shape[1]], 0)
    # The residuals hold the defects of before already, and `compress` adds those by itself.
    dropped = jnp.where(fresh, _without(lost, combined_defects(state, coefficients)), 0)
    new = compress(state, coefficients, jnp.where(fresh, 0, state.couplings @ coefficients), dropped)
    if translated:
        directions = _orthonormal(new, state.directions, fresh)
    else:
        directions = apply_when(fresh, lambda rows: fresh_directions(new, rows), state.directions)
    values = begin_search(new, levels)
    polynomials = jax.tree.map(lambda x, y: jnp.where(fresh, x, y), values, new.polynomials)
    return new._replace(directions=directions, polynomials=polynomials)


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
