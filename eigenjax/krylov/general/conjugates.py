"""Eigenpairs of a real matrix, real or in conjugate pairs, from its complex Schur form.

    A = Q T Q^H,    (A - lambda) v = 0    =>    (A - conj(lambda)) conj(v) = 0

In complex arithmetic the eigenvalues are real or conjugate only up to rounding times their condition: those of a
defective eigenvalue lie on a circle around it. Each is matched with the free one nearest to its conjugate, beginning
with the farthest from the real axis. The upper one of a matched pair is kept, with its vector, and its exact conjugate
replaces the other: both have the same residual. An eigenvalue without a match is real. It is moved to the real axis,
and the residual is minimized alternately over the vector and over the value.
"""

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.schur import Schur
from eigenjax.krylov.general.triangular import solve_shifted, triangular_eigenvectors
from eigenjax.vectors.arithmetic import safe_divide

# Imaginary parts below this times eps times the largest entry count as zero. Real eigenvalues that differ by less count
# as repeated.
_CONJUGATE_ROUNDING = 16.0
# Steps of the alternating minimization; the first one achieves nearly all of it.
_STEPS = 2
# Among the real and imaginary parts of c orthonormal vectors, projected, the longest has norm 1 / sqrt(2 c) or more. If
# all are shorter than this share of it, they do not determine a basis of their span.
_INDEPENDENT = 0.25


def eigenpairs(form: Schur, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the eigenvalues of a Schur form, zero if not valid, and the unit eigenvectors in columns."""
    values = jnp.where(valid, jnp.diag(form.triangular), 0)
    return values, _product(form.unitary, triangular_eigenvectors(form.triangular))


def conjugate_pairs(form: Schur, valid: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return eigenpairs of a real matrix that are real or conjugate, exactly.

    Args:
        form: complex Schur form of the real matrix.
        valid: (m,) bool, which eigenvalues are valid; they come first.

    Returns:
        `values, vectors, partner`: (m,) complex, zero if not valid; (m, m) unit vectors in columns; (m,) int32 the
        index of the conjugate of each, its own index for a real one.
    """
    values, vectors = eigenpairs(form, valid)
    unit = _CONJUGATE_ROUNDING * jnp.finfo(values.real.dtype).eps * jnp.max(jnp.abs(form.triangular))
    is_real = jnp.abs(values.imag) <= unit
    partner = _partners(values, valid, is_real)
    alone = partner == _index(values)
    real_values, real_vectors = _real_pairs(form, values, vectors, alone & ~is_real)
    real_vectors = _independent(real_values, real_vectors, alone & valid, unit)
    values, vectors = _one_of_each(values, vectors, partner)
    zero = jnp.zeros_like(real_values)
    values = jnp.where(alone, jax.lax.complex(real_values, zero), values)
    return values, jnp.where(alone[None, :], real_vectors, vectors), partner


def _partners(values: jax.Array, valid: jax.Array, is_real: jax.Array) -> jax.Array:
    """Return the (m,) int32 index of the conjugate of each eigenvalue; its own index for a real one."""
    m = values.shape[0]
    distances = jnp.abs(jnp.conj(values)[:, None] - values[None, :])
    alike = (valid[:, None] == valid[None, :]) & ~is_real[:, None] & ~is_real[None, :]
    distances = jnp.where(alike | jnp.eye(m, dtype=bool), distances, jnp.inf)
    order = jnp.argsort(jnp.where(valid, -jnp.abs(values.imag), jnp.inf), stable=True).astype(jnp.int32)

    def match(step, partner):
        i = order[step]
        free = partner < 0
        # If the distances are equal, match with itself: two equal real eigenvalues are not a pair.
        row = jnp.where(free, distances[i], jnp.inf)
        j = jnp.where(row[i] <= jnp.min(row), i, jnp.argmin(row).astype(jnp.int32))
        return jnp.where(free[i], partner.at[i].set(j).at[j].set(i), partner)

    return jax.lax.fori_loop(0, m, match, jnp.full(m, -1, jnp.int32))


def _one_of_each(values: jax.Array, vectors: jax.Array, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Replace the lower eigenvalue of each pair, in the complex plane, by the conjugate of the upper one.

    It is always the upper one: the vectors of a repeated pair then belong to one eigenspace, and are independent.
    """
    index, heights = _index(values), values.imag
    is_upper = (heights > heights[partner]) | ((heights == heights[partner]) & (index <= partner))
    source = jnp.where(is_upper, index, partner)
    chosen, columns = values[source], vectors[:, source]
    flipped = (chosen.imag >= 0) != is_upper
    return jnp.where(flipped, jnp.conj(chosen), chosen), jnp.where(flipped[None, :], jnp.conj(columns), columns)


def _real_pairs(form: Schur, values: jax.Array, vectors: jax.Array, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return real values and unit vectors, by alternating minimization of ||A x - lambda x|| where `moved` holds.

    The vector is the right singular vector of the smallest singular value of T - lambda, by inverse iteration with
    (T - lambda)^H (T - lambda); the value is its Rayleigh quotient. Neither step makes the residual larger.
    """
    triangular = form.triangular
    backwards = jnp.conj(triangular).T[::-1, ::-1]

    def improve(_, carry):
        values, columns = carry
        columns = solve_shifted(backwards, values, columns[::-1])[::-1]
        columns = solve_shifted(triangular, values, columns)
        quotients = jnp.sum(jnp.conj(columns) * _product(triangular, columns), axis=0).real
        return quotients.astype(values.dtype), columns

    start = values.real.astype(values.dtype), _product(jnp.conj(form.unitary).T, vectors)
    # No iteration if nothing is moved, under vmap too.
    num_steps = jnp.where(jnp.any(moved), _STEPS, 0)
    quotients, columns = jax.lax.fori_loop(0, num_steps, improve, start)
    values = jnp.where(moved, quotients.real, values.real)
    return values, jnp.where(moved[None, :], _product(form.unitary, columns), vectors)


def _independent(values: jax.Array, vectors: jax.Array, real: jax.Array, unit: jax.Array) -> jax.Array:
    """Return real unit vectors with the span of the complex ones of each repeated real eigenvalue.

    The result is an orthonormal basis of that span, by pivoted Gram-Schmidt among the real and the imaginary parts. For
    a single vector, and if the parts do not determine a basis, it is the longest real part over all phases.
    """
    m = vectors.shape[0]
    squares = jnp.sum(vectors * vectors, axis=0)
    halfway = jnp.angle(squares) / 2
    single = _normalized((vectors * jax.lax.complex(jnp.cos(halfway), -jnp.sin(halfway))[None, :]).real)
    together = (jnp.abs(values[:, None] - values[None, :]) <= unit) & real[:, None] & real[None, :]
    repeated = jnp.sum(together, axis=1) > 1
    parts = jnp.concatenate([vectors.real, vectors.imag], axis=1)

    def choose(i, carry):
        chosen, parts = carry
        cluster = jnp.tile(together[i], 2)
        lengths = jnp.where(cluster, jnp.linalg.norm(parts, axis=0), 0)
        pivot = jnp.argmax(lengths)
        # Orthogonalize again against the earlier ones: the remainder may be short.
        basis = jnp.where((together[i] & (_index(values) < i))[None, :], chosen, 0)
        found = parts[:, pivot] - _product(basis, _product(basis.T, parts[:, pivot]))
        found = _normalized(found[:, None])[:, 0]
        determined = repeated[i] & (lengths[pivot] > _INDEPENDENT / m**0.5)
        found = jnp.where(determined, found, chosen[:, i])
        removed = jnp.where(cluster[None, :], parts - found[:, None] * _product(found, parts)[None, :], parts)
        return chosen.at[:, i].set(found), removed

    num_steps = jnp.where(jnp.any(repeated), m, 0)
    chosen, _ = jax.lax.fori_loop(0, num_steps, choose, (single, parts))
    return jax.lax.complex(chosen, jnp.zeros_like(chosen))


def _normalized(columns: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(columns, axis=0)
    return safe_divide(columns, lengths[None, :])


def _index(values: jax.Array) -> jax.Array:
    return jnp.arange(values.shape[0], dtype=jnp.int32)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
