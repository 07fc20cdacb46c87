"""Krylov decomposition of a restarted Lanczos solver.

    A V = V H + D^T B + E,    H = V^H A V,    D orthonormal and orthogonal to V

V holds up to m vectors in rows of a fixed buffer. D is the residual block, the b vectors of the next matvecs, and the
coupling B (b, m) connects it to V. `expansion` moves D into V with one matvec per vector. `compress` keeps some
combinations of V (thick restart, Wu and Simon 2000; Krylov-Schur, Stewart 2001). H is the full matrix of coefficients
from the orthogonalization, so that V may have any origin. E is zero except for terms dropped on purpose:
(I - V V^H) w s^H with the direction w dropped last, and earlier ones, whose norms are in `defects`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import lanczos_polynomials
from eigenjax.krylov.lanczos_polynomials import LanczosPolynomials
from eigenjax.vectors import storage, tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.basis_change import change_basis, places
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.storage import Storage
from eigenjax.vectors.tree import PyTree

_DEFAULT = Storage()
# Each restart adds about one eps of orthogonality error to the basis: reorthonormalize every 8 restarts.
_RESTARTS_BETWEEN_REORTHONORMALIZATIONS = 8


class KrylovDecomposition(NamedTuple):
    """Krylov decomposition A V = V H + D^T B + E."""

    basis: PyTree  # (m, ...) V; rows that are not valid are zero
    valid: jax.Array  # (m,) bool, which rows of V are valid
    residual_block: PyTree  # (b, ...) D, the residual block
    pending: jax.Array  # () bool, D is not orthonormal yet (`expansion.orthonormalized`)
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

    def spans(self, size: int) -> jax.Array:
        """Return whether V spans a space of this many dimensions, () bool."""
        return is_whole(self.num_valid, self.valid.shape[0], size)

    @property
    def block_size(self) -> int:
        """Number of vectors b of the residual block."""
        return self.coupling.shape[0]


def is_whole(num_valid: jax.Array, krylov_dim: int, size: int) -> jax.Array:
    """Return whether some of at most m basis vectors span a space of n dimensions, () bool; n may exceed an int32.

    >>> print(is_whole(jnp.int32(3), 5, 3), is_whole(jnp.int32(5), 5, 2**40))
    True False
    """
    return num_valid >= min(size, krylov_dim + 1)


def begin(
    starts: PyTree, krylov_dim: int, seed: jax.Array, stored: Storage = _DEFAULT, *, levels: jax.Array | None = None
) -> KrylovDecomposition:
    """Create a decomposition without valid rows; the start vectors are pending.

    Args:
        starts: (b, ...) vectors in working dtypes. A random direction will replace a vector that is zero, not finite,
            or linearly dependent on the others.
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
    return KrylovDecomposition(
        basis=storage.zero_basis(first, krylov_dim, stored),
        valid=jnp.zeros(krylov_dim, bool),
        residual_block=starts,
        pending=jnp.ones((), bool),
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
        gram = matmul(jnp.conj(coefficients).T, storage.self_gram(state.basis), coefficients)
        return 1.5 * coefficients - 0.5 * matmul(coefficients, gram)

    due = state.num_restarts % _RESTARTS_BETWEEN_REORTHONORMALIZATIONS == _RESTARTS_BETWEEN_REORTHONORMALIZATIONS - 1
    return apply_when(due, reorthonormalize, coefficients)
