"""Golub-Kahan decomposition of a restarted solver for singular triplets.

    A V = U B,    A^H U = V B^H + d g + E,    B = U^H A V,    U, V orthonormal,    d a unit vector orthogonal to V

U and V hold up to m vectors in rows of two fixed buffers. The vector d is the next one that A is applied to, and the
coupling g (m) connects it to U. `expand` moves d into V with one matvec of A and one of A^H (Golub and Kahan 1965;
Paige 1974). `compress` keeps some combinations of both bases (Baglama and Reichel 2005). B is the full matrix of
coefficients from the orthogonalization, so that U and V may have any origin. E is zero except for terms dropped on
purpose, whose norms are in `defects`. If A V lies in the span of U, or A^H U in that of V, a random direction with
coupling zero replaces the missing one: the equations still hold.

Both bases are reorthogonalized. The common choice of V alone costs the orthogonality of U in float32: the error is
2e-3 if five values are far above the others, and of order one if A has rank ten. With both bases it is 2e-7.

A has at least as many rows as columns: if V spans the whole domain, so does the decomposition.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.golub_kahan import bidiagonal_polynomials
from eigenjax.krylov.golub_kahan.bidiagonal_polynomials import BidiagonalPolynomials
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.rectangular import adjoint_matvec, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.basis_change import change_basis
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import (
    arbitrary_direction,
    breakdown_length,
    normalize,
    orthogonalize_or_replace,
    random_direction,
    underflow,
)
from eigenjax.vectors.pseudorandom import arbitrary_vector, fold_in
from eigenjax.vectors.tree import PyTree

# Random directions of `initialize`, of either side and of restarts have different seeds.
_BEGINNING, _LEFT, _RIGHT, _RESTARTING, _ROUNDING = range(5)
# Each restart adds about one eps of orthogonality error to the bases: reorthonormalize every 8 restarts.
_RESTARTS_BETWEEN_REORTHONORMALIZATIONS = 8
# A row of B below this times eps ||A|| is zero: its left vector is orthogonal to the range of A V.
_NULL = 64.0


class Bidiagonalization(NamedTuple):
    """Golub-Kahan decomposition A V = U B,  A^H U = V B^H + d g + E."""

    left: PyTree  # (m, ...) U; rows that are not valid are zero
    right: PyTree  # (m, ...) V; rows that are not valid are zero
    left_valid: jax.Array  # (m,) bool, which rows of U are valid
    right_valid: jax.Array  # (m,) bool, which rows of V are valid, as many as of U
    direction: PyTree  # d, the next vector
    matrix: jax.Array  # (m, m) B
    coupling: jax.Array  # (m,) g
    defects: jax.Array  # (m,) estimated norms of the columns of E
    last_row: jax.Array  # () int32, the row of U that d is coupled to, if it is only one ...
    last_length: jax.Array  # () ... and that coupling; 0 if d is coupled to several rows, or none
    operator_norm: jax.Array  # () largest ||A v|| or ||A^H u|| so far; NaN after a matvec with NaN or Inf
    broken_down: jax.Array  # () bool, a random direction is among the vectors
    polynomials: BidiagonalPolynomials  # they show what a search for missed triplets has excluded
    seed: jax.Array  # (2,) uint32, of all random directions
    num_matvecs: jax.Array  # () int32, matvecs of A and of A^H so far
    num_restarts: jax.Array  # () int32, restarts so far
    num_keep: jax.Array  # (2,) int32, numbers of rows that the last two restarts kept

    @property
    def num_valid(self) -> jax.Array:
        """Number of valid rows, () int32."""
        return jnp.sum(self.right_valid, dtype=jnp.int32)


def initialize(
    op: RectangularOperator, start: PyTree, krylov_dim: int, seed: jax.Array, *, num_levels: int = 1
) -> Bidiagonalization:
    """Create a decomposition without valid rows; d is the normalized start vector.

    Args:
        op: A.
        start: a vector of the domain in working dtypes; a random one replaces it if it is zero or not finite.
        krylov_dim: m.
        seed: seed of all random directions.
        num_levels: number of levels at which the polynomials are evaluated; static.
    """
    fresh = fold_in(seed, _BEGINNING)
    # Zeros of a drawn vector, because plain zeros would lose the sharding.
    u = jax.tree.map(jnp.zeros_like, arbitrary_vector(fresh, tree.working_structure(op.codomain)))
    dtype = tree.accumulation_dtype((u, start))
    length = tree.norm(start)
    zero = jnp.zeros((), tree.real_dtype(dtype))
    unusable = ~jnp.isfinite(length) | (length <= underflow(length))
    other = arbitrary_direction(fresh, tree.structure_of(start))
    direction = tree.where(unusable, other, normalize(start, length))
    return Bidiagonalization(
        left=tree.zero_basis(u, krylov_dim),
        right=tree.zero_basis(start, krylov_dim),
        left_valid=jnp.zeros(krylov_dim, bool),
        right_valid=jnp.zeros(krylov_dim, bool),
        direction=direction,
        matrix=jnp.zeros((krylov_dim, krylov_dim), dtype),
        coupling=jnp.zeros(krylov_dim, dtype),
        defects=jnp.zeros(krylov_dim, zero.dtype),
        last_row=jnp.zeros((), jnp.int32),
        last_length=zero,
        operator_norm=zero,
        broken_down=jnp.zeros((), bool),
        polynomials=bidiagonal_polynomials.start(
            jnp.zeros(num_levels, zero.dtype), krylov_dim, dtype, jnp.zeros((), jnp.int32), zero
        ),
        seed=seed,
        num_matvecs=jnp.zeros((), jnp.int32),
        num_restarts=jnp.zeros((), jnp.int32),
        num_keep=jnp.zeros(2, jnp.int32),
    )


def expand(op: RectangularOperator, state: Bidiagonalization) -> Bidiagonalization:
    """Add one row to each basis, with a matvec of A and one of A^H; this needs a free row in each.

    V <- [V d],    alpha u = (I - U U^H) A d,    U <- [U u],    beta d = (I - V V^H) A^H u
    """
    left_seed, right_seed = (fold_in(fold_in(state.seed, side), state.num_matvecs) for side in (_LEFT, _RIGHT))
    left_row, right_row = (jnp.argmin(valid).astype(jnp.int32) for valid in (state.left_valid, state.right_valid))
    right = tree.set_row(state.right, right_row, state.direction)
    # The part that the recurrence predicts is subtracted first; the full orthogonalization then needs one pass.
    image = matvec(op, state.direction)
    image = tree.add_scaled(image, -state.last_length, tree.row(state.left, state.last_row))
    left_valid, right_valid = state.left_valid.at[left_row].set(True), state.right_valid.at[right_row].set(True)
    old = (state.left, state.left_valid)
    forward = _extended(left_seed, old, image, state.last_row, state.last_length, state.operator_norm)
    left = tree.set_row(state.left, left_row, forward.vector)
    image = tree.add_scaled(adjoint_matvec(op, forward.vector), -forward.length, state.direction)
    new = (right, right_valid)
    back = _extended(right_seed, new, image, right_row, forward.length, forward.operator_norm)
    dtype = state.matrix.dtype
    column = forward.coefficients.at[left_row].set(forward.length.astype(dtype))
    return Bidiagonalization(
        left=left,
        right=right,
        left_valid=left_valid,
        right_valid=right_valid,
        direction=back.vector,
        matrix=state.matrix.at[:, right_row].set(column),
        coupling=jnp.zeros_like(state.coupling).at[left_row].set(back.length.astype(dtype)),
        defects=state.defects,
        last_row=left_row,
        last_length=back.length,
        operator_norm=back.operator_norm,
        broken_down=forward.broken_down | back.broken_down,
        polynomials=bidiagonal_polynomials.extend(
            state.polynomials,
            (left_row, right_row),
            (forward.coefficients, back.coefficients),
            (forward.length, back.length),
        ),
        seed=state.seed,
        num_matvecs=state.num_matvecs + 2,
        num_restarts=state.num_restarts,
        num_keep=state.num_keep,
    )


def compress(
    state: Bidiagonalization,
    left_coefficients: jax.Array,
    right_coefficients: jax.Array,
    fresh: jax.Array,
    levels: jax.Array,
) -> Bidiagonalization:
    """Replace U by U P and V by V Q, and continue with d or with a random direction.

    Args:
        state: decomposition with m rows.
        left_coefficients: (m, p) P; its columns are orthonormal, or zero if fewer vectors are kept.
        right_coefficients: (m, p) Q; its columns are orthonormal, or zero if fewer vectors are kept.
        fresh: () bool: the coupling to d is dropped, and a random d is drawn.
        levels: (L,) numbers at which the polynomials of a random direction are evaluated.
    """
    P = _reorthonormalized(state, state.left, left_coefficients)
    Q = _reorthonormalized(state, state.right, right_coefficients)
    left, left_rows = change_basis(state.left, P)
    right, right_rows = change_basis(state.right, Q)
    coupling, projected = matmul(state.coupling, P), matmul(jnp.conj(P).T, state.matrix, Q)
    dropped = jnp.where(fresh, jnp.abs(coupling), 0)
    defects = jnp.hypot(combined_defects(state, P), dropped)
    drawn = fold_in(fold_in(state.seed, _RESTARTING), state.num_restarts)
    values, uncoupled = state.polynomials, state._replace(last_length=jnp.zeros_like(state.last_length))
    combined = lambda rows, x, c: jnp.zeros_like(x).at[:, rows].set(matmul(x, c))
    continued = values._replace(left=combined(left_rows, values.left, P), right=combined(right_rows, values.right, Q))
    draw = lambda d: random_direction(drawn, right, tree.structure_of(d))
    return state._replace(
        left=left,
        right=right,
        left_valid=jnp.zeros_like(state.left_valid).at[left_rows].set(jnp.any(P != 0, axis=0)),
        right_valid=jnp.zeros_like(state.right_valid).at[right_rows].set(jnp.any(Q != 0, axis=0)),
        direction=apply_when(fresh, draw, state.direction),
        matrix=jnp.zeros_like(state.matrix).at[left_rows[:, None], right_rows].set(projected),
        coupling=jnp.zeros_like(state.coupling).at[left_rows].set(jnp.where(fresh, 0, coupling)),
        defects=jnp.zeros_like(state.defects).at[left_rows].set(defects),
        last_length=jnp.zeros_like(state.last_length),
        broken_down=jnp.zeros_like(state.broken_down),
        polynomials=tree.where(fresh, begin_search(uncoupled, levels), continued),
        num_restarts=state.num_restarts + 1,
        num_keep=jnp.stack([state.num_keep[1], jnp.sum(jnp.any(Q != 0, axis=0), dtype=jnp.int32)]),
    )


def add_rounding(state: Bidiagonalization) -> Bidiagonalization:
    """Add one eps of a random direction to a left vector of the value zero that is not yet a left null vector.

    The space of the left vectors, A V, contains left null vectors only by rounding, which an exactly zero row of A does
    not have. The decomposition holds as before, to rounding.

    Args:
        state: decomposition after `compress`, where the rows of B are orthogonal.
    """
    eps, norm = float(jnp.finfo(state.operator_norm.dtype).eps), state.operator_norm
    is_null = state.left_valid & (jax.vmap(tree.norm)(state.matrix) <= _NULL * eps * norm)
    coupling = jnp.where(is_null, jnp.abs(state.coupling), 0)
    row = jnp.argmax(coupling).astype(jnp.int32)
    # Rounding that was added before has grown where the coupling is smaller than this.
    needed = coupling[row] > eps**0.5 * norm
    seed = fold_in(fold_in(state.seed, _ROUNDING), state.num_restarts)

    def perturb(left):
        vector = tree.row(left, row)
        return tree.set_row(left, row, tree.add_scaled(vector, eps, random_direction(seed, left, vector)))

    return state._replace(left=apply_when(needed, perturb, state.left))


def begin_search(state: Bidiagonalization, levels: jax.Array) -> BidiagonalPolynomials:
    """Return polynomials of a search: the last inserted random vector is its start, and the bases are locked."""
    m = state.coupling.shape[0]
    return bidiagonal_polynomials.start(levels, m, state.matrix.dtype, state.last_row, state.last_length)


def combined_defects(state: Bidiagonalization, left_coefficients: jax.Array) -> jax.Array:
    """Estimate ||E p_i||, (p,): squares add up, as for unrelated errors."""
    return jax.vmap(tree.norm, in_axes=1)(jnp.abs(left_coefficients) * state.defects[:, None])


def _reorthonormalized(state: Bidiagonalization, basis: PyTree, coefficients: jax.Array) -> jax.Array:
    """Return C (3 I - C^H G C) / 2, G the Gram matrix of the basis, every 8 restarts; it reorthonormalizes the rows."""

    def reorthonormalize(coefficients):
        gram = matmul(jnp.conj(coefficients).T, tree.self_gram(basis).astype(coefficients.dtype), coefficients)
        return 1.5 * coefficients - 0.5 * matmul(coefficients, gram)

    due = state.num_restarts % _RESTARTS_BETWEEN_REORTHONORMALIZATIONS == _RESTARTS_BETWEEN_REORTHONORMALIZATIONS - 1
    return apply_when(due, reorthonormalize, coefficients)


class _Extended(NamedTuple):
    vector: PyTree  # the new unit vector
    length: jax.Array  # () coefficient of the matvec along it; 0 if it is random
    coefficients: jax.Array  # (m,) coefficients of the matvec along the basis
    operator_norm: jax.Array  # () norm estimate
    broken_down: jax.Array  # () bool, whether the vector is random


def _extended(
    seed: jax.Array,
    rows: tuple[PyTree, jax.Array],
    image: PyTree,
    row: jax.Array,
    taken: jax.Array,
    operator_norm: jax.Array,
) -> _Extended:
    """Orthonormalize a matvec against a basis, given with its valid rows.

    `taken` of the component along one row is already subtracted.
    """
    basis, valid = rows
    # ||A v||^2 is the sum of squares of the removed coefficient and of the norm of the remainder.
    norm_with = lambda norm: jnp.maximum(operator_norm, jnp.hypot(taken, norm))
    is_nothing = lambda norm, left: left <= breakdown_length(norm_with(norm))
    residual, replaced, norm = orthogonalize_or_replace(seed, basis, image, is_nothing=is_nothing, valid=valid)
    length = jnp.where(replaced, 0, residual.norm)
    index = jnp.arange(residual.coefficients.shape[0], dtype=jnp.int32)
    coefficients = residual.coefficients + jnp.where(index == row, taken, 0).astype(residual.coefficients.dtype)
    return _Extended(normalize(residual.vector, residual.norm), length, coefficients, norm_with(norm), replaced)
