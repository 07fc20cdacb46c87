"""Ritz pairs of a general operator: the projected problem, the order of what is wanted, and pairs that stay together.

    H Q = Q T,    T x = theta x,    v = V Q x,    ||A v - theta v|| = |b^H Q x|

The eigenvalues of a real H are real or come in conjugate pairs. Computed in complex arithmetic they do so to rounding
only, and are matched: each with the one nearest to its conjugate that is left, the farthest from the real axis first.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import arguments, tree
from eigenjax.solvers.krylov import KrylovDecomposition, combined_defects
from eigenjax.solvers.schur import Schur, schur, triangular_eigenvectors

WHICH = ("LM", "LR", "SR", "LI")
# What a projected eigenvector lacks of solving its small problem is rounding up to so many units of it.
_ROUNDING = 64.0


class GeneralRitz(NamedTuple):
    """All pairs of a decomposition, the most wanted first."""

    values: jax.Array  # (m,) complex; those of a real operator real, or in pairs that follow each other
    coefficients: jax.Array  # (m, m) in columns: v = V c; those of a pair are conjugates
    residuals: jax.Array  # (m,) ||A v - theta v||, as far as the decomposition knows; inf where there is no pair
    keys: jax.Array  # (m,) real, of the values: the smaller, the more wanted
    paired: jax.Array  # (m,) bool, with the one that follows
    form: Schur  # of H, the rows filled first
    ranks: jax.Array  # (m,) int32, the place in this order of each eigenvalue of the form


def check_which(which: str) -> None:
    """Raise an error unless `which` is one that a Krylov space of a general operator can serve."""
    arguments.check_choice("eigs", "which", which, WHICH, elsewhere="; eigsh has 'LA', 'SA', 'BE' and 'SM'")


def wanted_keys(values: jax.Array, which: str, *, real: bool) -> jax.Array:
    """(m,) real, the smaller, the more wanted.

    Args:
        values: (m,) complex.
        which: of `WHICH`.
        real: whether the operator is: its "LI" are pairs, and go by the magnitude of the imaginary part.

    >>> print(wanted_keys(jnp.array([1.0 - 2.0j, -3.0 + 0.0j]), "LI", real=True))
    [-2. -0.]
    """
    if which == "LI":
        return -jnp.abs(values.imag) if real else -values.imag
    return {"LM": -jnp.abs(values), "LR": -values.real, "SR": values.real}[which]


def ritz_pairs(state: KrylovDecomposition, which: str, *, real: bool) -> GeneralRitz:
    """The Ritz pairs of a decomposition; the cost of one Schur form."""
    m = state.filled.shape[0]
    valid = jnp.arange(m, dtype=jnp.int32) < state.num_filled
    place = jnp.argsort(~state.filled, stable=True)
    compact = jnp.where(valid[:, None] & valid[None, :], state.matrix[place][:, place], 0)
    form = schur(compact)
    values = jnp.where(valid, jnp.diag(form.triangular), 0)
    vectors = jnp.matmul(form.unitary, triangular_eigenvectors(form.triangular), precision=jax.lax.Precision.HIGHEST)
    partner = _partners(values, valid) if real else jnp.arange(m, dtype=jnp.int32)
    if real:
        values, vectors = _conjugate_closed(values, vectors, partner)
    keys = jnp.where(valid, wanted_keys(values, which, real=real), jnp.inf)
    # Those of a pair have equal keys: first side by side, then in order, which is stable.
    order = jnp.lexsort((-values.imag, jnp.minimum(partner, jnp.arange(m, dtype=jnp.int32)), keys)).astype(jnp.int32)
    values, vectors, valid = values[order], vectors[:, order], valid[order]
    residuals = _residuals(state, compact, values, vectors, place)
    nothing_filled = jnp.zeros_like(vectors)
    return GeneralRitz(
        values=values,
        coefficients=nothing_filled.at[place].set(jnp.where(valid, vectors, 0)),
        residuals=jnp.where(valid, residuals, jnp.inf),
        keys=keys[order],
        paired=jnp.append(partner[order][:-1] == order[1:], False) & (values.imag != 0),
        form=form,
        ranks=jnp.argsort(order).astype(jnp.int32),
    )


def no_pairs(m: int, dtype: Any, real_dtype: Any) -> GeneralRitz:
    """Before the first look."""
    nothing = jnp.zeros((m, m), dtype)
    return GeneralRitz(
        values=jnp.zeros(m, dtype),
        coefficients=nothing,
        residuals=jnp.full(m, jnp.inf, real_dtype),
        keys=jnp.full(m, jnp.inf, real_dtype),
        paired=jnp.zeros(m, bool),
        form=Schur(nothing, nothing, jnp.zeros((), bool)),
        ranks=jnp.arange(m, dtype=jnp.int32),
    )


def _partners(values: jax.Array, valid: jax.Array) -> jax.Array:
    """(m,) int32, the index of the conjugate of each; its own of a real one."""
    m = values.shape[0]
    distances = jnp.abs(jnp.conj(values)[:, None] - values[None, :])
    distances = jnp.where(valid[:, None] == valid[None, :], distances, jnp.inf)
    order = jnp.argsort(jnp.where(valid, -jnp.abs(values.imag), jnp.inf), stable=True).astype(jnp.int32)

    def match(step, partner):
        i = order[step]
        free = partner < 0
        # Of equal distances the own one: two real eigenvalues alike are no pair.
        row = jnp.where(free, distances[i], jnp.inf)
        j = jnp.where(row[i] <= jnp.min(row), i, jnp.argmin(row).astype(jnp.int32))
        return jnp.where(free[i], partner.at[i].set(j).at[j].set(i), partner)

    return jax.lax.fori_loop(0, m, match, jnp.full(m, -1, jnp.int32))


def _conjugate_closed(values: jax.Array, vectors: jax.Array, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values that are exactly real or conjugate, and vectors likewise."""
    alone = partner == jnp.arange(values.shape[0], dtype=jnp.int32)
    values = (values + jnp.conj(values[partner])) / 2
    values = jnp.where(alone, jax.lax.complex(values.real, jnp.zeros_like(values.imag)), values)
    largest = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=0)[None], axis=0)
    real = (vectors * jnp.conj(largest)).real
    length = jnp.linalg.norm(real, axis=0)
    real = real / jnp.where(length > 0, length, 1)[None, :]
    of_pair = jnp.where(values.imag >= 0, vectors, jnp.conj(vectors[:, partner]))
    return values, jnp.where(alone, jax.lax.complex(real, jnp.zeros_like(real)), of_pair)


def _residuals(
    state: KrylovDecomposition, compact: jax.Array, values: jax.Array, vectors: jax.Array, place: jax.Array
) -> jax.Array:
    matmul = lambda a, b: jnp.matmul(a.astype(b.dtype), b, precision=jax.lax.Precision.HIGHEST)
    outside = jnp.abs(matmul(state.couplings[0, place], vectors))
    inside = jax.vmap(tree.norm, in_axes=1)(matmul(compact, vectors) - vectors * values[None, :])
    inside = jnp.where(inside > _ROUNDING * jnp.finfo(inside.dtype).eps * state.operator_norm, inside, 0)
    defects = combined_defects(state._replace(defects=state.defects[place]), vectors)
    return jnp.hypot(jnp.hypot(outside, inside), defects)
