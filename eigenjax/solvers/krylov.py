"""The decomposition that a restarted Lanczos solver grows and shrinks.

    A V = V H + D^T B + E,    H = V^H A V,    D orthonormal and orthogonal to V

V holds up to m vectors in rows of a fixed buffer, D the b vectors to be multiplied next, B (b, m) couples them to V.
`expand` moves D into V by one product with each of its vectors (Lanczos 1950; in blocks Golub and Underwood 1977);
`compress` keeps some combinations of V (thick restart, Wu and Simon 2000; Krylov-Schur, Stewart 2001). H is taken
from the orthogonalisation as a full matrix, so that nothing depends on how V came about. E is zero but for what
was dropped on purpose, of which `defects` keeps account.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.solvers.control import apply_when
from eigenjax.solvers.orthogonalize import orthogonalize, unless_broken_down
from eigenjax.solvers.rotation import rotate
from eigenjax.tree import PyTree

# What is left of an image below so many units of rounding of ||A|| is rounding: an invariant subspace is found.
_BREAKDOWN = 10.0
# Each restart adds about a unit of rounding to what the basis lacks of orthonormality: it is mended every so often.
_RESTARTS_PER_MENDING = 8


class KrylovDecomposition(NamedTuple):
    """A V = V H + D^T B + E."""

    basis: PyTree  # (m, ...) V; rows not filled are zero
    filled: jax.Array  # (m,) bool, which rows of V are there
    directions: PyTree  # (b, ...) D
    matrix: jax.Array  # (m, m) H
    couplings: jax.Array  # (b, m) B
    defects: jax.Array  # (m,) the norms of the columns of E, about
    last_row: jax.Array  # () int32, the row of V that D couples with, where it is only one ...
    last_length: jax.Array  # () ... and how strongly; 0 where it couples with several, or none
    operator_norm: jax.Array  # () the largest ||A v|| so far: ||A|| from below; NaN once a product is not finite
    broken_down: jax.Array  # () bool, a vector of D is a fresh random direction, uncoupled
    key: jax.Array  # of the random directions to come
    num_matvecs: jax.Array  # () int32, products so far
    num_restarts: jax.Array  # () int32

    @property
    def num_filled(self) -> jax.Array:
        """() int32."""
        return jnp.sum(self.filled, dtype=jnp.int32)

    @property
    def block_size(self) -> int:
        """The vectors multiplied at once, b."""
        return self.couplings.shape[0]


def begin(starts: PyTree, krylov_dim: int, key: jax.Array) -> KrylovDecomposition:
    """No row filled, and D an orthonormal basis of the start vectors.

    Args:
        starts: (b, ...) vectors in working dtypes; one that is zero, not finite or dependent on the others is
            replaced by a random direction.
        krylov_dim: m.
        key: typed.
    """
    b = jax.tree.leaves(starts)[0].shape[0]
    starts = jax.vmap(_finite_or_zero)(starts)
    first = tree.row(starts, 0)
    dtype = tree.accumulation_dtype(first)
    zero = jnp.zeros((), tree.real_dtype(dtype))
    nothing = tree.zero_basis(first, 1)
    grown = _orthonormalize(nothing, starts, jnp.zeros((b, 1), dtype), zero, key)
    return KrylovDecomposition(
        basis=tree.zero_basis(first, krylov_dim),
        filled=jnp.zeros(krylov_dim, bool),
        directions=grown.directions,
        matrix=jnp.zeros((krylov_dim, krylov_dim), dtype),
        couplings=jnp.zeros((b, krylov_dim), dtype),
        defects=jnp.zeros(krylov_dim, zero.dtype),
        last_row=jnp.zeros((), jnp.int32),
        last_length=zero,
        operator_norm=zero,
        broken_down=jnp.zeros((), bool),
        key=grown.key,
        num_matvecs=jnp.zeros((), jnp.int32),
        num_restarts=jnp.zeros((), jnp.int32),
    )


def expand(op: LinearOperator, state: KrylovDecomposition) -> KrylovDecomposition:
    """Moves D into V, at b products; there must be room for b rows, and b more dimensions."""
    b = state.block_size
    rows = jnp.argsort(state.filled, stable=True)[:b].astype(jnp.int32)  # the first ones free
    basis = state.basis
    for i in range(b):
        basis = tree.set_row(basis, rows[i], tree.row(state.directions, i))
    if b == 1:
        images, taken = _recurrence(op, basis, state, rows[0])
    else:
        images, taken = jax.vmap(lambda v: matvec(op, v))(state.directions), jnp.zeros_like(state.couplings)
    grown = _orthonormalize(basis, images, taken, state.operator_norm, state.key)
    columns = grown.columns
    return KrylovDecomposition(
        basis=basis,
        filled=state.filled.at[rows].set(True),
        directions=grown.directions,
        matrix=state.matrix.at[:, rows].set(columns.T).at[rows, :].set(jnp.conj(columns)),
        couplings=jnp.zeros_like(state.couplings).at[:, rows].set(grown.triangle),
        defects=state.defects,
        last_row=rows[0],
        last_length=grown.triangle[0, 0].real if b == 1 else state.last_length,
        operator_norm=grown.operator_norm,
        broken_down=grown.broken_down,
        key=grown.key,
        num_matvecs=state.num_matvecs + b,
        num_restarts=state.num_restarts,
    )


def compress(
    state: KrylovDecomposition, coefficients: jax.Array, couplings: jax.Array, dropped: jax.Array
) -> KrylovDecomposition:
    """Keeps V C only.

    Args:
        state: of m rows.
        coefficients: (m, p) C; the columns are orthonormal, or zero where fewer are kept.
        couplings: (b, p) of D, or of what will take its place, with V C.
        dropped: (p,) the norms of what is left out of A V C on purpose.
    """
    coefficients = _mended(state, coefficients)
    basis, rows = rotate(state.basis, coefficients)
    projected = jnp.conj(coefficients).T @ state.matrix @ coefficients
    defects = jnp.hypot(combined_defects(state, coefficients), dropped)
    return state._replace(
        basis=basis,
        filled=jnp.zeros_like(state.filled).at[rows].set(jnp.any(coefficients != 0, axis=0)),
        matrix=jnp.zeros_like(state.matrix).at[rows[:, None], rows].set(projected),
        couplings=jnp.zeros_like(state.couplings).at[:, rows].set(couplings),
        defects=jnp.zeros_like(state.defects).at[rows].set(defects),
        last_length=jnp.zeros_like(state.last_length),
        broken_down=jnp.zeros_like(state.broken_down),
        num_restarts=state.num_restarts + 1,
    )


def combined_defects(state: KrylovDecomposition, coefficients: jax.Array) -> jax.Array:
    """(p,) estimates of ||E c_i||: squares add up, as those of errors without relation do (a sum would explode)."""
    return jax.vmap(tree.norm, in_axes=1)(jnp.abs(coefficients) * state.defects[:, None])


def _mended(state: KrylovDecomposition, coefficients: jax.Array) -> jax.Array:
    """C (3 I - C^H G C) / 2 with G = V^H V, now and then: V C is then orthonormal again."""

    def mend(coefficients):
        gram = jnp.conj(coefficients).T @ tree.self_gram(state.basis) @ coefficients
        return 1.5 * coefficients - 0.5 * coefficients @ gram

    due = state.num_restarts % _RESTARTS_PER_MENDING == _RESTARTS_PER_MENDING - 1
    return apply_when(due, mend, coefficients)


class _Orthonormalized(NamedTuple):
    directions: PyTree  # (b, ...) the new D
    columns: jax.Array  # (b, m) what was taken along V, here and before
    triangle: jax.Array  # (b, b) of the new D with the rows that the images belong to
    operator_norm: jax.Array
    broken_down: jax.Array
    key: jax.Array


def _orthonormalize(
    basis: PyTree, images: PyTree, taken: jax.Array, operator_norm: jax.Array, key: jax.Array
) -> _Orthonormalized:
    """Orthonormal directions that span, with the basis, the images; a random one wherever an image adds nothing."""
    b, m = (jax.tree.leaves(rows)[0].shape[0] for rows in (images, basis))
    dtype = tree.accumulation_dtype(images)

    def add(i, grown):
        fresh_key, key = jax.random.split(grown.key)
        before = () if b == 1 else (grown.directions,)
        rest = orthogonalize(basis, tree.row(images, i), *before)
        column = taken[i] + rest.coefficients[:m]
        # ||A v||^2 is what was taken and what is left
        norm = jnp.maximum(grown.operator_norm, tree.norm((column, rest.coefficients[m:], rest.norm)))
        broken_down = rest.norm <= jnp.maximum(_BREAKDOWN * jnp.finfo(norm.dtype).eps * norm, _underflow(norm))
        direction = unless_broken_down(fresh_key, basis, rest.vector, rest.norm, broken_down, *before)
        triangle = grown.triangle.at[i, i].set(jnp.where(broken_down, 0, rest.norm).astype(dtype))
        if b > 1:
            above = jnp.arange(b, dtype=jnp.int32) < i
            triangle = triangle.at[:, i].add(jnp.where(above, rest.coefficients[m:], 0))
        return _Orthonormalized(
            directions=tree.set_row(grown.directions, i, direction),
            columns=grown.columns.at[i].set(column),
            triangle=triangle,
            operator_norm=norm,
            broken_down=grown.broken_down | broken_down,
            key=key,
        )

    nothing = _Orthonormalized(
        directions=jax.tree.map(jnp.zeros_like, images),
        columns=jnp.zeros((b, m), dtype),
        triangle=jnp.zeros((b, b), dtype),
        operator_norm=operator_norm,
        broken_down=jnp.zeros((), bool),
        key=key,
    )
    return add(0, nothing) if b == 1 else jax.lax.fori_loop(0, b, add, nothing)


def _recurrence(op: LinearOperator, basis: PyTree, state: KrylovDecomposition, row: jax.Array):
    """The image of the one direction, less its parts along itself and the row before; and these parts, (1, m)."""
    vector = tree.row(state.directions, 0)
    # Read from the new basis: a row of the old one, wanted after the new is written, would cost a copy of it.
    previous = tree.row(basis, state.last_row)
    image = matvec(op, vector)
    alpha = tree.inner(vector, image).real
    image = tree.add_scaled(tree.add_scaled(image, -alpha, vector), -state.last_length, previous)
    taken = jnp.zeros_like(state.couplings).at[0, row].set(alpha.astype(state.couplings.dtype))
    taken = taken.at[0, state.last_row].add(state.last_length.astype(taken.dtype))
    return jax.tree.map(lambda x: x[None], image), taken


def _finite_or_zero(vector: PyTree) -> PyTree:
    return tree.where(jnp.isfinite(tree.norm(vector)), vector, jax.tree.map(jnp.zeros_like, vector))


def _underflow(length: jax.Array) -> float:
    # A direction this short has lost digits to underflow, and would not be of unit norm when normalised.
    limits = jnp.finfo(length.dtype)
    return float(limits.tiny) / float(limits.eps)
