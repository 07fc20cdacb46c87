"""The Schur form of a small matrix, on any backend.

    A = Q T Q^H,    Q unitary, T upper triangular, the eigenvalues on its diagonal

by reduction to Hessenberg form and the QR iteration with one shift (Francis 1961; Golub and Van Loan 2013, sections 7.4
and 7.5), in complex arithmetic. Every step is a few dense products and factorisations of (m, m) matrices, because a
chain of m rotations costs an accelerator m round trips; so a sweep takes O(m^3) and the whole O(m^4) operations, for
matrices of a Krylov space's size. Nothing here is differentiated.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.tree import accumulation_dtype

# Entries below the diagonal that are no larger than so many units of rounding of the largest entry are zero: what a
# sweep adds by rounding is as large.
_NEGLIGIBLE = 1.0
# Sweeps for each eigenvalue, on average; two or three are the rule.
_SWEEPS_PER_VALUE = 20
# Sweeps without a new zero after which a shift is made up: unitary matrices are fixed points of the regular ones.
_STALLED = 8
# Made-up shifts lie so many times the last subdiagonal entry from the last diagonal entry (the LAPACK's zlahqr has the
# modulus, the angle keeps them off any symmetry of the spectrum).
_EXCEPTIONAL = 0.75 * complex(0.8, 0.6)
# Differences of eigenvalues below so many units of rounding of the largest are none.
_COINCIDENT = 1.0
# Eigenvalues are repeated where they differ by at most so many units, and two of these are independent where the matrix
# couples them by no more than so many: about what the iteration adds by rounding.
_REPEATED, _UNCOUPLED = 16.0, 16.0

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Schur(NamedTuple):
    """A = Q T Q^H."""

    triangular: jax.Array  # (m, m) T, complex; zero below the diagonal
    unitary: jax.Array  # (m, m) Q
    converged: jax.Array  # () bool; else what T lacks of A lies below the diagonal


class _Iteration(NamedTuple):
    hessenberg: jax.Array  # (m, m)
    unitary: jax.Array  # (m, m), so far
    sweeps: jax.Array  # () int32
    stalled: jax.Array  # () int32, sweeps since the last new zero


def schur(matrix: jax.Array) -> Schur:
    """The complex Schur form.

    Args:
        matrix: (m, m), real or complex.

    Returns:
        The form; where `matrix` is not finite, NaN throughout.

    Example:
        >>> triangular, unitary, converged = schur(jnp.array([[0.0, -1.0], [1.0, 0.0]]))
        >>> print(jnp.sort(jnp.diag(triangular).imag).round(4), converged)
        [-1.  1.] True

    Source: Francis (1961), The QR transformation; Golub and Van Loan (2013), Matrix computations.
    """
    dtype = complex_dtype(accumulation_dtype(matrix))
    finite = jnp.all(jnp.isfinite(matrix))
    # Entries of order one, by a power of two.
    largest = jnp.max(jnp.maximum(jnp.abs(matrix.real), jnp.abs(matrix.imag)), initial=0)
    largest = jnp.where(finite & (largest > 0), largest, 1).astype(jnp.finfo(dtype).dtype)
    _, exponent = jnp.frexp(largest)
    # In two steps, because the reciprocal of a tiny power overflows.
    half = exponent // 2
    power = lambda exponent: jnp.ldexp(jnp.ones_like(largest), exponent).astype(dtype)
    scaled = jnp.where(finite, matrix, 0).astype(dtype) * power(-half) * power(half - exponent)
    end = _iterate(*_hessenberg(scaled))
    converged = finite & (_count_nonzero(end.hessenberg) == 0)
    triangular = jnp.triu(end.hessenberg) * power(half) * power(exponent - half)
    or_nan = lambda x: jnp.where(finite, x, jnp.nan)
    return Schur(or_nan(triangular), or_nan(end.unitary), converged)


def complex_dtype(dtype: Any) -> jnp.dtype:
    """That of complex numbers of the same precision.

    >>> complex_dtype(jnp.float32)
    dtype('complex64')
    """
    return jnp.dtype(f"complex{2 * jnp.finfo(dtype).bits}")


def reorder(form: Schur, ranks: jax.Array) -> Schur:
    """The Schur form with its eigenvalues in another order.

    Neighbours are exchanged by rotations, every other pair at once (an odd-even transposition sort), m rounds in all.

    Args:
        form: of m eigenvalues.
        ranks: (m,) the place of each, a permutation.

    Example:
        >>> form = schur(jnp.array([[1.0, 5.0], [0.0, 2.0]]))
        >>> print(jnp.diag(reorder(form, jnp.array([1, 0])).triangular).real)
        [2. 1.]
    """
    m = ranks.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)

    def exchange(turn, carry):
        triangular, unitary, ranks = carry
        first = (index[:-1] % 2 == turn % 2) & (ranks[:-1] > ranks[1:])
        values = jnp.diag(triangular)
        # (T_12, T_22 - T_11) is the eigenvector of T_22 in the plane of the two; e_1 where they are alike.
        along, across = jnp.diag(triangular, 1), values[1:] - values[:-1]
        length = jnp.hypot(jnp.abs(along), jnp.abs(across))
        safe = jnp.where(length > 0, length, 1).astype(values.dtype)
        cosine = jnp.where(first, jnp.where(length > 0, along / safe, 1), 1)
        sine = jnp.where(first & (length > 0), across / safe, 0)
        diagonal = jnp.ones_like(values).at[:-1].multiply(cosine).at[1:].multiply(jnp.conj(cosine))
        rotation = jnp.diag(diagonal) + jnp.diag(sine, -1) - jnp.diag(jnp.conj(sine), 1)
        triangular = jnp.triu(_matmul(jnp.conj(rotation).T, _matmul(triangular, rotation)))
        steps = jnp.zeros_like(index).at[:-1].add(first.astype(jnp.int32)).at[1:].add(-first.astype(jnp.int32))
        return triangular, _matmul(unitary, rotation), ranks[index + steps]

    triangular, unitary, _ = jax.lax.fori_loop(0, m, exchange, (form.triangular, form.unitary, ranks))
    return form._replace(triangular=triangular, unitary=unitary)


def triangular_eigenvectors(triangular: jax.Array) -> jax.Array:
    """Compute the (m, m) unit eigenvectors of an upper triangular matrix, in columns, by back substitution.

    Column i solves (T - t_ii) x = 0 with x_i = 1. Two eigenvalues that differ by rounding only are coupled where the
    matrix couples them by more than rounding (a defective eigenvalue, whose vectors coincide), and otherwise left
    uncoupled: of a normal matrix the vectors of a repeated eigenvalue are orthonormal.

    >>> print(triangular_eigenvectors(jnp.array([[1.0, 1.0], [0.0, 2.0]])).round(4))
    [[1.     0.7071]
     [0.     0.7071]]
    """
    m = triangular.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)
    largest = jnp.max(jnp.abs(triangular))
    unit = jnp.finfo(largest.dtype).eps * jnp.where(largest > 0, largest, 1)

    def quotient(row, columns, gaps):
        product = _matmul(jnp.where(index > row, triangular[row], 0), columns)
        # Columns are scaled as they grow: what is negligible is so relative to them.
        negligible = jnp.abs(product) <= _UNCOUPLED * unit * jnp.max(jnp.abs(columns), axis=0)
        uncoupled = negligible & (jnp.abs(gaps) <= _REPEATED * unit)
        gaps = jnp.where(jnp.abs(gaps) > _COINCIDENT * unit, gaps, (_COINCIDENT * unit).astype(gaps.dtype))
        return jnp.where(index > row, jnp.where(uncoupled, 0, product / gaps), columns[row])

    values = jnp.diag(triangular)
    columns = _substitute(lambda row, x: quotient(row, x, values - values[row]), jnp.eye(m, dtype=values.dtype))
    return columns / jnp.linalg.norm(columns, axis=0, keepdims=True).astype(columns.dtype)


def solve_shifted(triangular: jax.Array, shifts: jax.Array, columns: jax.Array) -> jax.Array:
    """Solve (T - s_i) x_i = b_i for each column b_i with a shift of its own; each x_i of unit norm.

    >>> print(solve_shifted(jnp.array([[1.0, 1.0], [0.0, 2.0]]), jnp.zeros(1), jnp.array([[4.0], [2.0]])).T.round(2))
    [[0.95 0.32]]

    Args:
        triangular: (m, m) T, upper triangular.
        shifts: (p,) the s_i. Of a diagonal entry that equals one to rounding the difference is a unit of rounding.
        columns: (m, p) the b_i, not zero.
    """
    index = jnp.arange(triangular.shape[0], dtype=jnp.int32)
    largest = jnp.max(jnp.abs(triangular))
    least = _COINCIDENT * jnp.finfo(largest.dtype).eps * jnp.where(largest > 0, largest, 1)

    def quotient(row, columns):
        gaps = triangular[row, row] - shifts
        gaps = jnp.where(jnp.abs(gaps) > least, gaps, least.astype(gaps.dtype))
        return (columns[row] - _matmul(jnp.where(index > row, triangular[row], 0), columns)) / gaps

    columns = _substitute(quotient, columns)
    return columns / jnp.linalg.norm(columns, axis=0, keepdims=True).astype(columns.dtype)


def _substitute(quotient: Callable[[jax.Array, jax.Array], jax.Array], columns: jax.Array) -> jax.Array:
    """Replace the rows from the last to the first; each column is kept of order one, or it would overflow."""
    m = columns.shape[0]

    def solve_row(step, columns):
        row = m - 1 - step
        found = quotient(row, columns)
        return columns.at[row].set(found) / jnp.maximum(jnp.abs(found), 1).astype(columns.dtype)[None, :]

    return jax.lax.fori_loop(0, m, solve_row, columns)


def _hessenberg(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q^H A Q without entries below the subdiagonal, and Q, by Householder reflections."""
    m = matrix.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)

    def reflect(column, carry):
        matrix, unitary = carry
        below = jnp.where(index > column, matrix[:, column], 0)
        pivot, length = matrix[column + 1, column], jnp.linalg.norm(below)
        modulus = jnp.abs(pivot)
        phase = jnp.where(modulus > 0, pivot / jnp.where(modulus > 0, modulus, 1).astype(pivot.dtype), 1)
        normal = below.at[column + 1].add(phase * length.astype(phase.dtype))
        size = jnp.linalg.norm(normal)
        # Nothing to annihilate: no reflection, so that zeros stay exactly zero.
        needed = jnp.any(jnp.where(index > column + 1, matrix[:, column], 0) != 0) & (size > 0)
        normal = jnp.where(needed, normal / jnp.where(size > 0, size, 1).astype(normal.dtype), 0)
        matrix = matrix - 2 * jnp.outer(normal, _matmul(jnp.conj(normal), matrix))
        matrix = matrix - 2 * jnp.outer(_matmul(matrix, normal), jnp.conj(normal))
        matrix = matrix.at[:, column].set(jnp.where(index > column + 1, 0, matrix[:, column]))
        return matrix, unitary - 2 * jnp.outer(_matmul(unitary, normal), jnp.conj(normal))

    start = (matrix, jnp.eye(m, dtype=matrix.dtype))
    return jax.lax.fori_loop(0, max(m - 2, 0), reflect, start)


def _iterate(hessenberg: jax.Array, unitary: jax.Array) -> _Iteration:
    """QR sweeps until nothing is left below the diagonal, or for as long as may be."""
    m = hessenberg.shape[0]
    threshold = _NEGLIGIBLE * float(jnp.finfo(hessenberg.dtype).eps)
    clean = lambda matrix: jnp.triu(matrix) + jnp.diag(_unless_below(jnp.diag(matrix, -1), threshold), -1)

    def sweep(state):
        swept, rotation = _sweep(state.hessenberg, state.stalled)
        swept = clean(swept)
        progress = _count_nonzero(swept) < _count_nonzero(state.hessenberg)
        stalled = jnp.where(progress, 0, state.stalled + 1).astype(jnp.int32)
        return _Iteration(swept, _matmul(state.unitary, rotation), state.sweeps + 1, stalled)

    def goes_on(state):
        return (_count_nonzero(state.hessenberg) > 0) & (state.sweeps < _SWEEPS_PER_VALUE * m)

    start = _Iteration(clean(hessenberg), unitary, jnp.int32(0), jnp.int32(0))
    return start if m == 1 else jax.lax.while_loop(goes_on, sweep, start)


def _sweep(matrix: jax.Array, stalled: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R Q + mu and Q of the last block that has not split yet, A - mu = Q R; the identity elsewhere."""
    m = matrix.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)
    coupled = jnp.diag(matrix, -1) != 0
    last = jnp.max(jnp.where(coupled, index[1:], 1))
    first = jnp.max(jnp.where(~coupled & (index[1:] < last), index[1:], 0))
    shift = _shift(matrix, last, stalled)
    inside = (index >= first) & (index <= last)
    block = inside[:, None] & inside[None, :]
    identity = jnp.eye(m, dtype=matrix.dtype)
    rotation, _ = jax.lax.linalg.qr(jnp.where(block, matrix - shift * identity, identity))
    return _matmul(jnp.conj(rotation).T, _matmul(matrix, rotation)), rotation


def _shift(matrix: jax.Array, last: jax.Array, stalled: jax.Array) -> jax.Array:
    """Wilkinson's: of the two eigenvalues of the last two rows, the one nearer to the last diagonal entry."""
    a, b = matrix[last - 1, last - 1], matrix[last - 1, last]
    c, d = matrix[last, last - 1], matrix[last, last]
    half = (a - d) / 2
    root = jnp.sqrt(half * half + b * c)
    root = jnp.where((half * jnp.conj(root)).real < 0, -root, root)
    away = half + root
    regular = d - jnp.where(away != 0, b * c / jnp.where(away != 0, away, 1), 0)
    made_up = d + jnp.asarray(_EXCEPTIONAL, d.dtype) * jnp.abs(c).astype(d.dtype)
    return jnp.where(stalled % _STALLED == _STALLED - 1, made_up, regular)


def _unless_below(numbers: jax.Array, threshold: float) -> jax.Array:
    return jnp.where(jnp.abs(numbers) > threshold, numbers, 0)


def _count_nonzero(matrix: jax.Array) -> jax.Array:
    return jnp.sum(jnp.diag(matrix, -1) != 0, dtype=jnp.int32)
