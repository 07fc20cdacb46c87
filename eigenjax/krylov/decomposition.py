"""Krylov decomposition of a restarted Lanczos solver.

    A V = V H + D^T B + E,    H = V^H A V,    D orthonormal and orthogonal to V

V holds up to m vectors in rows of a fixed buffer. D is the residual block, the b vectors of the next matvecs, and the
coupling B (b, m) connects it to V. `expand` moves D into V with one matvec per vector (Lanczos 1950; in blocks Golub
and Underwood 1977). `compress` keeps some combinations of V (thick restart, Wu and Simon 2000; Krylov-Schur, Stewart
2001). H is the full matrix of coefficients from the orthogonalization, so that V may have any origin. E is zero except
for terms dropped on purpose: (I - V V^H) w s^H with the direction w dropped last, and earlier ones, whose norms are
in `defects`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import lanczos_polynomials
from eigenjax.krylov.lanczos_polynomials import LanczosPolynomials
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import storage, tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.basis_change import change_basis, places
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import breakdown_length, normalize, orthogonalize_or_replace
from eigenjax.vectors.pseudorandom import arbitrary_vector, fold_in
from eigenjax.vectors.storage import Storage
from eigenjax.vectors.tree import PyTree

_DEFAULT = Storage()
# Random directions of `begin`, of expansions and (in `thick_restart`) of restarts have different seeds.
_BEGINNING, _EXPANDING = 0, 1
# Each restart adds about one eps of orthogonality error to the basis: reorthonormalize every 8 restarts.
_RESTARTS_BETWEEN_REORTHONORMALIZATIONS = 8


class KrylovDecomposition(NamedTuple):
    """Krylov decomposition A V = V H + D^T B + E."""

    basis: PyTree  # (m, ...) V; rows that are not valid are zero
    valid: jax.Array  # (m,) bool, which rows of V are valid
    residual_block: PyTree  # (b, ...) D, the residual block
    matrix: jax.Array  # (m, m) H
    coupling: jax.Array  # (b, m) B
    defects: jax.Array  # (m,) estimated norms of the columns of E without its part along w
    dropped: PyTree  # w, used if b = 1
    dropped_couplings: jax.Array  # (m,) s
    last_row: jax.Array  # () int32, the row of V that D is coupled to, if it is only one ...
    last_length: jax.Array  # () ... and that coupling; 0 if D is coupled to several rows, or none
    operator_norm: jax.Array  # () largest ||A v|| so far, a lower bound of ||A||; NaN after a matvec with NaN or Inf
    broken_down: jax.Array  # () bool, V is invariant: all vectors of D are random directions with coupling 0
    polynomials: LanczosPolynomials  # of V and D; they show what a missed-pair search has excluded
    seed: jax.Array  # (2,) uint32, of all random directions
    num_matvecs: jax.Array  # () int32, matvecs so far
    num_restarts: jax.Array  # () int32, restarts so far
    num_keep: jax.Array  # (2,) int32, numbers of rows that the last two restarts kept

    @property
    def num_valid(self) -> jax.Array:
        """Number of valid rows, () int32."""
        return jnp.sum(self.valid, dtype=jnp.int32)

    @property
    def block_size(self) -> int:
        """Number of vectors b of the residual block."""
        return self.coupling.shape[0]


def begin(
    starts: PyTree, krylov_dim: int, seed: jax.Array, stored: Storage = _DEFAULT, *, levels: jax.Array | None = None
) -> KrylovDecomposition:
    """Create a decomposition without valid rows; D is an orthonormal basis of the start vectors.

    Args:
        starts: (b, ...) vectors in working dtypes. A random direction replaces a vector that is zero, not finite, or
            linearly dependent on the others.
        krylov_dim: m.
        seed: seed of all random directions.
        stored: storage of V; D is always in working dtypes.
        levels: (L,) numbers at which the polynomials are evaluated, complex if the operator is not symmetric.
    """
    b = jax.tree.leaves(starts)[0].shape[0]
    first = tree.row(starts, 0)
    dtype = tree.accumulation_dtype(first)
    zero = jnp.zeros((), tree.real_dtype(dtype))
    levels = zero[None] if levels is None else levels
    levels_dtype = levels.dtype if jnp.iscomplexobj(levels) else dtype
    if b == 1:
        residual_block = jax.tree.map(lambda x: x[None], _unit(first, fold_in(seed, _BEGINNING)))
    else:
        zeros = tree.zero_basis(first, 1)
        fresh = fold_in(seed, _BEGINNING)
        starts = jax.vmap(_finite_or_zero)(starts)
        residual_block = _orthonormalize(zeros, starts, jnp.zeros((b, 1), dtype), zero, fresh).residual_block
    return KrylovDecomposition(
        basis=storage.zero_basis(first, krylov_dim, stored),
        valid=jnp.zeros(krylov_dim, bool),
        residual_block=residual_block,
        matrix=jnp.zeros((krylov_dim, krylov_dim), dtype),
        coupling=jnp.zeros((b, krylov_dim), dtype),
        defects=jnp.zeros(krylov_dim, zero.dtype),
        dropped=jax.tree.map(jnp.zeros_like, first),
        dropped_couplings=jnp.zeros(krylov_dim, dtype),
        last_row=jnp.zeros((), jnp.int32),
        last_length=zero,
        operator_norm=zero,
        broken_down=jnp.zeros((), bool),
        polynomials=lanczos_polynomials.start(levels, krylov_dim, b, levels_dtype),
        seed=seed,
        num_matvecs=jnp.zeros((), jnp.int32),
        num_restarts=jnp.zeros((), jnp.int32),
        num_keep=jnp.zeros(2, jnp.int32),
    )


def proposed(state: KrylovDecomposition) -> PyTree:
    """Return the (b, ...) vectors of the next matvecs: D, rounded to the storage of V."""
    return jax.vmap(lambda x: storage.rounded(state.basis, x))(state.residual_block)


def expand(op: LinearOperator, state: KrylovDecomposition) -> KrylovDecomposition:
    """Move D into V with b matvecs; this needs b free rows, and b more dimensions of the space."""
    vectors = proposed(state)
    if state.block_size > 1:
        return absorb(state, jax.vmap(lambda v: matvec(op, v))(vectors))
    return absorb(state, jax.tree.map(lambda x: x[None], matvec(op, tree.row(vectors, 0))))


def absorb(state: KrylovDecomposition, images: PyTree) -> KrylovDecomposition:
    """Move D into V, given the (b, ...) matvecs A D of the vectors of `proposed` (reverse communication)."""
    b = state.block_size
    rows = _free_rows(state.valid, b)
    basis = state.basis
    residual_block = proposed(state)
    for i in range(b):
        basis = storage.set_row(basis, rows[i], tree.row(residual_block, i))
    taken = jnp.zeros_like(state.coupling)
    if b == 1:
        images, taken = _recurrence(tree.row(images, 0), basis, state, rows[0], tree.row(residual_block, 0))
    grown = _orthonormalize(basis, images, taken, state.operator_norm, fresh_seed(state))
    columns = grown.columns
    return KrylovDecomposition(
        basis=basis,
        valid=state.valid.at[rows].set(True),
        residual_block=grown.residual_block,
        matrix=state.matrix.at[:, rows].set(columns.T).at[rows, :].set(jnp.conj(columns)),
        coupling=jnp.zeros_like(state.coupling).at[:, rows].set(grown.triangle),
        defects=state.defects,
        dropped=state.dropped,
        dropped_couplings=state.dropped_couplings,
        last_row=rows[0],
        last_length=grown.triangle[0, 0].real if b == 1 else state.last_length,
        operator_norm=grown.operator_norm,
        broken_down=jnp.all(jnp.diag(grown.triangle) == 0),
        polynomials=lanczos_polynomials.extend(state.polynomials, rows, columns, grown.triangle),
        seed=state.seed,
        num_matvecs=state.num_matvecs + b,
        num_restarts=state.num_restarts,
        num_keep=state.num_keep,
    )


def fresh_seed(state: KrylovDecomposition) -> jax.Array:
    """Return the seed of the random directions of the next expansion."""
    return fold_in(fold_in(state.seed, _EXPANDING), state.num_matvecs)


def compress(
    state: KrylovDecomposition, coefficients: jax.Array, coupling: jax.Array, dropped: jax.Array
) -> KrylovDecomposition:
    """Replace V by V C, for a restart.

    Args:
        state: decomposition with m rows.
        coefficients: (m, p) C; its columns are orthonormal, or zero if fewer vectors are kept.
        coupling: (b, p) coupling of V C to D, or to the block that will replace D.
        dropped: (p,) norms of the terms of A V C that are dropped on purpose, without those along `state.dropped`.
    """
    if not storage.is_narrow(state.basis):  # else the error of the storage is larger
        coefficients = _reorthonormalized(state, coefficients)
    basis, rows = change_basis(state.basis, coefficients)
    projected = matmul(jnp.conj(coefficients).T, state.matrix, coefficients)
    defects = jnp.hypot(combined_defects(state, coefficients), dropped)
    place = places(rows, state.valid.shape[0])
    # The index p, of rows that hold none of the vectors, refers to the padding of zeros.
    valid, defects = (jnp.pad(x, (0, 1))[place] for x in (jnp.any(coefficients != 0, axis=0), defects))
    along_dropped = matmul(state.dropped_couplings, coefficients)
    values = matmul(state.polynomials.rows, coefficients.astype(state.polynomials.rows.dtype))
    return state._replace(
        basis=basis,
        valid=valid,
        matrix=jnp.pad(projected, (0, 1))[place[:, None], place],
        coupling=jnp.pad(coupling, ((0, 0), (0, 1)))[:, place],
        polynomials=state.polynomials._replace(rows=jnp.pad(values, ((0, 0), (0, 0), (0, 1)))[:, :, place]),
        defects=defects,
        dropped_couplings=jnp.pad(along_dropped, (0, 1))[place],
        last_length=jnp.zeros_like(state.last_length),
        broken_down=jnp.zeros_like(state.broken_down),
        num_restarts=state.num_restarts + 1,
        num_keep=jnp.stack([state.num_keep[1], jnp.sum(valid, dtype=jnp.int32)]),
    )


def combined_defects(state: KrylovDecomposition, coefficients: jax.Array) -> jax.Array:
    """Estimate ||E c_i|| without the part along w, (p,): squares add up, as for unrelated errors."""
    return jax.vmap(tree.norm, in_axes=1)(jnp.abs(coefficients) * state.defects[:, None])


def _reorthonormalized(state: KrylovDecomposition, coefficients: jax.Array) -> jax.Array:
    """Return C (3 I - C^H G C) / 2 with G = V^H V every 8 restarts, which reorthonormalizes V C; else C."""

    def reorthonormalize(coefficients):
        gram = matmul(jnp.conj(coefficients).T, tree.self_gram(state.basis), coefficients)
        return 1.5 * coefficients - 0.5 * matmul(coefficients, gram)

    due = state.num_restarts % _RESTARTS_BETWEEN_REORTHONORMALIZATIONS == _RESTARTS_BETWEEN_REORTHONORMALIZATIONS - 1
    return apply_when(due, reorthonormalize, coefficients)


class _Orthonormalized(NamedTuple):
    residual_block: PyTree  # (b, ...) the new residual block
    columns: jax.Array  # (b, m) all coefficients along V, including those removed before
    triangle: jax.Array  # (b, b) coupling of the new block to the rows of the matvecs
    operator_norm: jax.Array  # () norm estimate


def _orthonormalize(
    basis: PyTree, images: PyTree, taken: jax.Array, operator_norm: jax.Array, seed: jax.Array
) -> _Orthonormalized:
    """Orthonormalize the matvecs against the basis and each other; a random direction replaces a negligible one."""
    b, m = (jax.tree.leaves(rows)[0].shape[0] for rows in (images, basis))
    dtype = tree.accumulation_dtype(images)

    def add(i, grown):
        before = () if b == 1 else (grown.residual_block,)

        def norm_with(coefficients, rest_norm):
            # ||A v||^2 is the sum of squares of the removed coefficients and of the remainder.
            parts = jnp.concatenate([jnp.abs(taken[i] + coefficients[:m]), jnp.abs(coefficients[m:]), rest_norm[None]])
            return jnp.maximum(grown.operator_norm, tree.norm(parts))

        is_nothing = lambda taken, rest_norm: rest_norm <= breakdown_length(norm_with(taken, rest_norm))
        image, fresh = tree.row(images, i), fold_in(seed, i)
        residual, replaced = orthogonalize_or_replace(fresh, basis, image, *before, is_nothing=is_nothing)
        length = jnp.where(replaced, 0, residual.norm)
        triangle = grown.triangle.at[i, i].set(length.astype(dtype))
        if b > 1:
            above = jnp.arange(b, dtype=jnp.int32) < i
            triangle = triangle.at[:, i].add(jnp.where(above, residual.coefficients[m:], 0))
        return _Orthonormalized(
            residual_block=tree.set_row(grown.residual_block, i, normalize(residual.vector, residual.norm)),
            columns=grown.columns.at[i].set(taken[i] + residual.coefficients[:m]),
            triangle=triangle,
            operator_norm=norm_with(residual.coefficients, length),
        )

    initial = _Orthonormalized(
        residual_block=jax.tree.map(jnp.zeros_like, images),
        columns=jnp.zeros((b, m), dtype),
        triangle=jnp.zeros((b, b), dtype),
        operator_norm=operator_norm,
    )
    return add(0, initial) if b == 1 else jax.lax.fori_loop(0, b, add, initial)


def _recurrence(
    image: PyTree, basis: PyTree, state: KrylovDecomposition, row: jax.Array, vector: PyTree
) -> tuple[PyTree, jax.Array]:
    """Subtract from the matvec of the one direction its parts along itself and the row before; return these, (1, m)."""
    # Read from the new basis: to read a row of the old basis after the new row is written would copy the basis.
    previous = storage.row(basis, state.last_row)
    alpha = tree.inner(vector, image).real
    image = tree.add_scaled(tree.add_scaled(image, -alpha, vector), -state.last_length, previous)
    taken = jnp.zeros_like(state.coupling).at[0, row].set(alpha.astype(state.coupling.dtype))
    taken = taken.at[0, state.last_row].add(state.last_length.astype(taken.dtype))
    return jax.tree.map(lambda x: x[None], image), taken


def _free_rows(valid: jax.Array, count: int) -> jax.Array:
    """Return the first `count` rows that are not valid, (count,) int32; at least `count` must exist."""
    place = jnp.cumsum(~valid, dtype=jnp.int32) - 1
    index = jnp.arange(valid.shape[0], dtype=jnp.int32)
    hit = ~valid[None, :] & (place[None, :] == jnp.arange(count, dtype=jnp.int32)[:, None])
    return jnp.sum(jnp.where(hit, index, 0), axis=1, dtype=jnp.int32)


def _unit(vector: PyTree, seed: jax.Array) -> PyTree:
    """Normalize a vector; an arbitrary unit vector replaces one that is zero or not finite."""
    length = tree.norm(vector)
    usable = (length > 0) & jnp.isfinite(length)
    fresh = arbitrary_vector(seed, tree.structure_of(vector))
    vector = tree.where(usable, normalize(vector, length), fresh)
    # Normalize again: the arbitrary vector, and vectors with a tiny norm, are not of unit norm yet.
    return normalize(vector, tree.norm(vector))


def _finite_or_zero(vector: PyTree) -> PyTree:
    return tree.where(jnp.isfinite(tree.norm(vector)), vector, jax.tree.map(jnp.zeros_like, vector))
