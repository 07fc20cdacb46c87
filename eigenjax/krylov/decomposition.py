"""The decomposition that a restarted Lanczos solver grows and shrinks.

    A V = V H + D^T B + E,    H = V^H A V,    D orthonormal and orthogonal to V

V holds up to m vectors in rows of a fixed buffer, D the b vectors to be multiplied next, B (b, m) couples them to V.
`expand` moves D into V by one product with each of its vectors (Lanczos 1950; in blocks Golub and Underwood 1977);
`compress` keeps some combinations of V (thick restart, Wu and Simon 2000; Krylov-Schur, Stewart 2001). H is taken
from the orthogonalisation as a full matrix, so that nothing depends on how V came about. E is zero but for what
was dropped on purpose: (I - V V^H) w s^H with the direction w dropped last, and what was dropped before it, of which
`defects` keeps account.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import lanczos_polynomials
from eigenjax.krylov.lanczos_polynomials import LanczosPolynomials
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import storage, tree
from eigenjax.vectors.basis_change import places, rotate
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.matmul import matmul
from eigenjax.vectors.orthogonalize import breakdown_length, normalize, orthogonalize_or_replace
from eigenjax.vectors.pseudorandom import arbitrary_vector, successor
from eigenjax.vectors.storage import Storage
from eigenjax.vectors.tree import PyTree

_AS_IT_IS = Storage()
# The random directions of a beginning, of expansions and (in `thick_restart`) of restarts come from different seeds.
_BEGINNING, _EXPANDING = 0, 1
# Each restart adds about a unit of rounding to what the basis lacks of orthonormality: it is mended every so often.
_RESTARTS_PER_MENDING = 8


class KrylovDecomposition(NamedTuple):
    """A V = V H + D^T B + E."""

    basis: PyTree  # (m, ...) V; rows not filled are zero
    filled: jax.Array  # (m,) bool, which rows of V are there
    directions: PyTree  # (b, ...) D
    matrix: jax.Array  # (m, m) H
    couplings: jax.Array  # (b, m) B
    defects: jax.Array  # (m,) the norms of the columns of E, about, but for its part along w
    dropped: PyTree  # w, where b = 1
    dropped_couplings: jax.Array  # (m,) s
    last_row: jax.Array  # () int32, the row of V that D couples with, where it is only one ...
    last_length: jax.Array  # () ... and how strongly; 0 where it couples with several, or none
    operator_norm: jax.Array  # () the largest ||A v|| so far: ||A|| from below; NaN once a product is not finite
    broken_down: jax.Array  # () bool, V is invariant: all vectors of D are fresh random directions, uncoupled
    polynomials: LanczosPolynomials  # of V and D; in the search for missed pairs they tell what it has excluded
    seed: jax.Array  # of all random directions
    num_matvecs: jax.Array  # () int32, products so far
    num_restarts: jax.Array  # () int32
    kept: jax.Array  # (2,) int32, how many rows the last two restarts have kept

    @property
    def num_filled(self) -> jax.Array:
        """() int32."""
        return jnp.sum(self.filled, dtype=jnp.int32)

    @property
    def block_size(self) -> int:
        """The vectors multiplied at once, b."""
        return self.couplings.shape[0]


def begin(
    starts: PyTree, krylov_dim: int, seed: jax.Array, kept: Storage = _AS_IT_IS, *, levels: jax.Array | None = None
) -> KrylovDecomposition:
    """No row filled, and D an orthonormal basis of the start vectors.

    Args:
        starts: (b, ...) vectors in working dtypes; one that is zero, not finite or dependent on the others is
            replaced by a random direction.
        krylov_dim: m.
        seed: of all random directions.
        kept: how V is kept; D is in working dtypes always.
        levels: (L,) numbers at which the polynomials are followed, complex where the operator is not symmetric.
    """
    b = jax.tree.leaves(starts)[0].shape[0]
    first = tree.row(starts, 0)
    dtype = tree.accumulation_dtype(first)
    zero = jnp.zeros((), tree.real_dtype(dtype))
    levels = zero[None] if levels is None else levels
    levels_dtype = levels.dtype if jnp.iscomplexobj(levels) else dtype
    if b == 1:
        directions = jax.tree.map(lambda x: x[None], _unit(first, successor(seed, _BEGINNING)))
    else:
        nothing = tree.zero_basis(first, 1)
        fresh = successor(seed, _BEGINNING)
        starts = jax.vmap(_finite_or_zero)(starts)
        directions = _orthonormalize(nothing, starts, jnp.zeros((b, 1), dtype), zero, fresh).directions
    return KrylovDecomposition(
        basis=storage.zero_basis(first, krylov_dim, kept),
        filled=jnp.zeros(krylov_dim, bool),
        directions=directions,
        matrix=jnp.zeros((krylov_dim, krylov_dim), dtype),
        couplings=jnp.zeros((b, krylov_dim), dtype),
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
        kept=jnp.zeros(2, jnp.int32),
    )


def proposed(state: KrylovDecomposition) -> PyTree:
    """The (b, ...) vectors to be multiplied next: D, as the rows will hold it."""
    return jax.vmap(lambda x: storage.rounded(state.basis, x))(state.directions)


def expand(op: LinearOperator, state: KrylovDecomposition) -> KrylovDecomposition:
    """Moves D into V, at b products; there must be room for b rows, and b more dimensions."""
    vectors = proposed(state)
    if state.block_size > 1:
        return absorb(state, jax.vmap(lambda v: matvec(op, v))(vectors))
    return absorb(state, jax.tree.map(lambda x: x[None], matvec(op, tree.row(vectors, 0))))


def absorb(state: KrylovDecomposition, images: PyTree) -> KrylovDecomposition:
    """What `expand` does, with the (b, ...) products A D of the vectors `proposed` given."""
    b = state.block_size
    rows = _free_rows(state.filled, b)
    basis = state.basis
    directions = proposed(state)
    for i in range(b):
        basis = storage.set_row(basis, rows[i], tree.row(directions, i))
    taken = jnp.zeros_like(state.couplings)
    if b == 1:
        images, taken = _recurrence(tree.row(images, 0), basis, state, rows[0], tree.row(directions, 0))
    grown = _orthonormalize(basis, images, taken, state.operator_norm, fresh_seed(state))
    columns = grown.columns
    return KrylovDecomposition(
        basis=basis,
        filled=state.filled.at[rows].set(True),
        directions=grown.directions,
        matrix=state.matrix.at[:, rows].set(columns.T).at[rows, :].set(jnp.conj(columns)),
        couplings=jnp.zeros_like(state.couplings).at[:, rows].set(grown.triangle),
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
        kept=state.kept,
    )


def fresh_seed(state: KrylovDecomposition) -> jax.Array:
    """Of the random directions of the next expansion."""
    return successor(successor(state.seed, _EXPANDING), state.num_matvecs)


def compress(
    state: KrylovDecomposition, coefficients: jax.Array, couplings: jax.Array, dropped: jax.Array
) -> KrylovDecomposition:
    """Keeps V C only.

    Args:
        state: of m rows.
        coefficients: (m, p) C; the columns are orthonormal, or zero where fewer are kept.
        couplings: (b, p) of D, or of what will take its place, with V C.
        dropped: (p,) the norms of what is left out of A V C on purpose, but for what is along `state.dropped`.
    """
    if not storage.is_narrow(state.basis):  # what is lost in writing is more
        coefficients = _mended(state, coefficients)
    basis, rows = rotate(state.basis, coefficients)
    projected = matmul(jnp.conj(coefficients).T, state.matrix, coefficients)
    defects = jnp.hypot(combined_defects(state, coefficients), dropped)
    place = places(rows, state.filled.shape[0])
    # A row that holds none of the vectors finds zeros at the end.
    there, defects = (jnp.pad(x, (0, 1))[place] for x in (jnp.any(coefficients != 0, axis=0), defects))
    along_dropped = matmul(state.dropped_couplings, coefficients)
    values = matmul(state.polynomials.rows, coefficients.astype(state.polynomials.rows.dtype))
    return state._replace(
        basis=basis,
        filled=there,
        matrix=jnp.pad(projected, (0, 1))[place[:, None], place],
        couplings=jnp.pad(couplings, ((0, 0), (0, 1)))[:, place],
        polynomials=state.polynomials._replace(rows=jnp.pad(values, ((0, 0), (0, 0), (0, 1)))[:, :, place]),
        defects=defects,
        dropped_couplings=jnp.pad(along_dropped, (0, 1))[place],
        last_length=jnp.zeros_like(state.last_length),
        broken_down=jnp.zeros_like(state.broken_down),
        num_restarts=state.num_restarts + 1,
        kept=jnp.stack([state.kept[1], jnp.sum(there, dtype=jnp.int32)]),
    )


def combined_defects(state: KrylovDecomposition, coefficients: jax.Array) -> jax.Array:
    """(p,) estimates of ||E c_i|| but for the part along w: squares add up, as those of unrelated errors do."""
    return jax.vmap(tree.norm, in_axes=1)(jnp.abs(coefficients) * state.defects[:, None])


def _mended(state: KrylovDecomposition, coefficients: jax.Array) -> jax.Array:
    """C (3 I - C^H G C) / 2 with G = V^H V, now and then: V C is then orthonormal again."""

    def mend(coefficients):
        gram = matmul(jnp.conj(coefficients).T, tree.self_gram(state.basis), coefficients)
        return 1.5 * coefficients - 0.5 * matmul(coefficients, gram)

    due = state.num_restarts % _RESTARTS_PER_MENDING == _RESTARTS_PER_MENDING - 1
    return apply_when(due, mend, coefficients)


class _Orthonormalized(NamedTuple):
    directions: PyTree  # (b, ...) the new D
    columns: jax.Array  # (b, m) what was taken along V, here and before
    triangle: jax.Array  # (b, b) of the new D with the rows that the images belong to
    operator_norm: jax.Array


def _orthonormalize(
    basis: PyTree, images: PyTree, taken: jax.Array, operator_norm: jax.Array, seed: jax.Array
) -> _Orthonormalized:
    """Orthonormal directions that span, with the basis, the images; a random one wherever an image adds nothing."""
    b, m = (jax.tree.leaves(rows)[0].shape[0] for rows in (images, basis))
    dtype = tree.accumulation_dtype(images)

    def add(i, grown):
        before = () if b == 1 else (grown.directions,)

        def norm_with(coefficients, rest_norm):
            # ||A v||^2 is what was taken and what is left
            parts = jnp.concatenate([jnp.abs(taken[i] + coefficients[:m]), jnp.abs(coefficients[m:]), rest_norm[None]])
            return jnp.maximum(grown.operator_norm, tree.norm(parts))

        is_nothing = lambda taken, rest_norm: rest_norm <= breakdown_length(norm_with(taken, rest_norm))
        image, fresh = tree.row(images, i), successor(seed, i)
        rest, replaced = orthogonalize_or_replace(fresh, basis, image, *before, is_nothing=is_nothing)
        length = jnp.where(replaced, 0, rest.norm)
        triangle = grown.triangle.at[i, i].set(length.astype(dtype))
        if b > 1:
            above = jnp.arange(b, dtype=jnp.int32) < i
            triangle = triangle.at[:, i].add(jnp.where(above, rest.coefficients[m:], 0))
        return _Orthonormalized(
            directions=tree.set_row(grown.directions, i, normalize(rest.vector, rest.norm)),
            columns=grown.columns.at[i].set(taken[i] + rest.coefficients[:m]),
            triangle=triangle,
            operator_norm=norm_with(rest.coefficients, length),
        )

    nothing = _Orthonormalized(
        directions=jax.tree.map(jnp.zeros_like, images),
        columns=jnp.zeros((b, m), dtype),
        triangle=jnp.zeros((b, b), dtype),
        operator_norm=operator_norm,
    )
    return add(0, nothing) if b == 1 else jax.lax.fori_loop(0, b, add, nothing)


def _recurrence(
    image: PyTree, basis: PyTree, state: KrylovDecomposition, row: jax.Array, vector: PyTree
) -> tuple[PyTree, jax.Array]:
    """The image of the one direction, less its parts along itself and the row before; and these parts, (1, m)."""
    # Read from the new basis: a row of the old one, wanted after the new is written, would cost a copy of it.
    previous = storage.row(basis, state.last_row)
    alpha = tree.inner(vector, image).real
    image = tree.add_scaled(tree.add_scaled(image, -alpha, vector), -state.last_length, previous)
    taken = jnp.zeros_like(state.couplings).at[0, row].set(alpha.astype(state.couplings.dtype))
    taken = taken.at[0, state.last_row].add(state.last_length.astype(taken.dtype))
    return jax.tree.map(lambda x: x[None], image), taken


def _free_rows(filled: jax.Array, count: int) -> jax.Array:
    """(count,) int32, the first rows that are not filled; there must be so many."""
    place = jnp.cumsum(~filled, dtype=jnp.int32) - 1
    index = jnp.arange(filled.shape[0], dtype=jnp.int32)
    hit = ~filled[None, :] & (place[None, :] == jnp.arange(count, dtype=jnp.int32)[:, None])
    return jnp.sum(jnp.where(hit, index, 0), axis=1, dtype=jnp.int32)


def _unit(vector: PyTree, seed: jax.Array) -> PyTree:
    """The vector over its norm, or an arbitrary one where it is zero or not finite."""
    length = tree.norm(vector)
    usable = (length > 0) & jnp.isfinite(length)
    fresh = arbitrary_vector(seed, tree.structure_of(vector))
    vector = tree.where(usable, normalize(vector, length), fresh)
    # Once more, for the arbitrary one; and what was tiny is of unit norm only now.
    return normalize(vector, tree.norm(vector))


def _finite_or_zero(vector: PyTree) -> PyTree:
    return tree.where(jnp.isfinite(tree.norm(vector)), vector, jax.tree.map(jnp.zeros_like, vector))
