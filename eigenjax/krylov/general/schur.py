"""Schur form of a small matrix on any backend.

    A = Q T Q^H,    Q unitary, T upper triangular, the eigenvalues on its diagonal

by reduction to Hessenberg form and the QR iteration with single shifts (Francis 1961; Golub and Van Loan 2013, sections
7.4 and 7.5), in complex arithmetic. Every step consists of a few dense products and factorizations of (m, m) matrices,
because a chain of m rotations costs an accelerator m kernel launches. So a sweep takes O(m^3) operations and the whole
iteration O(m^4), for matrices of the size of a Krylov space. These functions are not differentiated.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import accumulation_dtype

# Entries below the diagonal are zero if they are at most this times eps times the largest entry: a sweep adds rounding
# errors of that size.
_NEGLIGIBLE = 1.0
# Maximum of sweeps for each eigenvalue, on average; two or three are typical.
_SWEEPS_PER_VALUE = 20
# Sweeps without a new zero before an exceptional shift: unitary matrices are fixed points of the regular shifts.
_STALLED = 8
# An exceptional shift is the last diagonal entry plus this times the modulus of the last subdiagonal entry. The modulus
# of the factor is that of LAPACK's zlahqr; the angle breaks symmetries of the spectrum.
_EXCEPTIONAL = 0.75 * complex(0.8, 0.6)

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Schur(NamedTuple):
    """Schur form A = Q T Q^H."""

    triangular: jax.Array  # (m, m) T, complex; zero below the diagonal
    unitary: jax.Array  # (m, m) Q
    converged: jax.Array  # () bool; if False, T omits nonzero entries below the diagonal


class _Iteration(NamedTuple):
    hessenberg: jax.Array  # (m, m) current matrix
    unitary: jax.Array  # (m, m) Q so far
    sweeps: jax.Array  # () int32, sweeps so far
    stalled: jax.Array  # () int32, sweeps since the last new zero


def schur(matrix: jax.Array) -> Schur:
    """Compute the complex Schur form.

    Args:
        matrix: (m, m), real or complex.

    Returns:
        The form; if `matrix` is not finite, all entries are NaN.

    Example:
        >>> triangular, unitary, converged = schur(jnp.array([[0.0, -1.0], [1.0, 0.0]]))
        >>> print(jnp.sort(jnp.diag(triangular).imag).round(4), converged)
        [-1.  1.] True

    Source: Francis (1961), The QR transformation; Golub and Van Loan (2013), Matrix computations.
    """
    dtype = complex_dtype(accumulation_dtype(matrix))
    finite = jnp.all(jnp.isfinite(matrix))
    shrink, restore = scaling(matrix)
    scaled = shrink(jnp.where(finite, matrix, 0).astype(dtype))
    end = _iterate(*hessenberg(scaled, jnp.eye(scaled.shape[0], dtype=dtype), 0, scaled.shape[0] - 2))
    converged = finite & (_count_nonzero(end.hessenberg) == 0)
    or_nan = lambda x: jnp.where(finite, x, jnp.nan)
    return Schur(or_nan(restore(jnp.triu(end.hessenberg))), or_nan(end.unitary), converged)


def scaling(matrix: jax.Array) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """Return two functions: scaling to entries of order one by a power of two, and its inverse.

    >>> shrink, restore = scaling(jnp.array([[1024.0]]))
    >>> print(shrink(jnp.float32(1024.0)), restore(jnp.float32(0.5)))
    0.5 1024.0
    """
    largest = jnp.max(jnp.maximum(jnp.abs(matrix.real), jnp.abs(matrix.imag)), initial=0)
    largest = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1).astype(accumulation_dtype(largest))
    _, exponent = jnp.frexp(largest)
    # In two steps, because the reciprocal of a tiny power of two overflows.
    half = exponent // 2
    power = lambda exponent: jnp.ldexp(jnp.ones_like(largest), exponent)
    times = lambda x, *exponents: functools.reduce(lambda y, e: y * power(e).astype(y.dtype), exponents, x)
    return lambda x: times(x, -half, half - exponent), lambda x: times(x, half, exponent - half)


def complex_dtype(dtype: Any) -> jnp.dtype:
    """Return the complex dtype of the same precision.

    >>> complex_dtype(jnp.float32)
    dtype('complex64')
    """
    return jnp.dtype(f"complex{2 * jnp.finfo(dtype).bits}")


def reorder(form: Schur, ranks: jax.Array) -> Schur:
    """Reorder the eigenvalues of a Schur form.

    Rotations exchange neighbors, every other pair at once (an odd-even transposition sort), in m rounds.

    Args:
        form: Schur form with m eigenvalues.
        ranks: (m,) new position of each eigenvalue, a permutation.

    Example:
        >>> form = schur(jnp.array([[1.0, 5.0], [0.0, 2.0]]))
        >>> print(jnp.diag(reorder(form, jnp.array([1, 0])).triangular).real.round(3))
        [2. 1.]
    """
    m = ranks.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)

    def exchange(sweep, carry):
        triangular, unitary, ranks = carry
        first = (index[:-1] % 2 == sweep % 2) & (ranks[:-1] > ranks[1:])
        values = jnp.diag(triangular)
        # (T_12, T_22 - T_11) is the eigenvector of T_22 in the plane of the two; e_1 if both are zero.
        along, across = jnp.diag(triangular, 1), values[1:] - values[:-1]
        length = jnp.hypot(jnp.abs(along), jnp.abs(across))
        cosine = jnp.where(first, safe_divide(along, length, otherwise=1), 1)
        sine = jnp.where(first & (length > 0), safe_divide(across, length), 0)
        diagonal = jnp.ones_like(values).at[:-1].multiply(cosine).at[1:].multiply(jnp.conj(cosine))
        rotation = jnp.diag(diagonal) + jnp.diag(sine, -1) - jnp.diag(jnp.conj(sine), 1)
        triangular = jnp.triu(_matmul(jnp.conj(rotation).T, _matmul(triangular, rotation)))
        steps = jnp.zeros_like(index).at[:-1].add(first.astype(jnp.int32)).at[1:].add(-first.astype(jnp.int32))
        return triangular, _matmul(unitary, rotation), ranks[index + steps]

    triangular, unitary, _ = jax.lax.fori_loop(0, m, exchange, (form.triangular, form.unitary, ranks))
    return form._replace(triangular=triangular, unitary=unitary)


def hessenberg(
    matrix: jax.Array, unitary: jax.Array, start: int | jax.Array, stop: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Annihilate the entries below the subdiagonal in some columns, by Householder reflections.

    Args:
        matrix: (m, m) A.
        unitary: (m, m) Q.
        start: first column.
        stop: column after the last one, at most m - 2.

    Returns:
        P^H A P and Q P, with P the product of the reflections.

    >>> reduced, unitary = hessenberg(jnp.array([[1.0, 2.0, 3.0], [3.0, 5.0, 6.0], [4.0, 8.0, 9.0]]), jnp.eye(3), 0, 1)
    >>> print(jnp.abs(reduced[1:, 0]).round(4), unitary[0])
    [5. 0.] [1. 0. 0.]
    """
    index = jnp.arange(matrix.shape[0], dtype=jnp.int32)

    def annihilate(column, carry):
        matrix, unitary = carry
        below = jnp.where(index > column, matrix[:, column], 0)
        # If there is nothing to annihilate, no reflection: zeros stay exactly zero.
        needed = jnp.any(jnp.where(index > column + 1, below, 0) != 0)
        matrix, unitary = reflected(matrix, unitary, jnp.where(needed, below, 0), column + 1)
        return matrix.at[:, column].set(jnp.where(index > column + 1, 0, matrix[:, column])), unitary

    return jax.lax.fori_loop(start, stop, annihilate, (matrix, unitary))


def reflected(
    matrix: jax.Array, unitary: jax.Array, vector: jax.Array, pivot: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return P A P and Q P with the Householder reflection P that maps a vector to a multiple of a unit vector.

    Args:
        matrix: (m, m) A.
        unitary: (m, m) Q.
        vector: (m,) the vector; if it is zero, P is the identity.
        pivot: () int32, index of the unit vector.
    """
    # Scaled to order one, because squares of tiny numbers would underflow.
    vector = safe_divide(vector, jnp.max(jnp.abs(vector)))
    length, head = jnp.linalg.norm(vector), vector[pivot]
    phase = safe_divide(head, jnp.abs(head), otherwise=1)
    normal = vector.at[pivot].add(phase * length.astype(phase.dtype))
    normal = safe_divide(normal, jnp.linalg.norm(normal))
    matrix = matrix - 2 * jnp.outer(normal, _matmul(jnp.conj(normal), matrix))
    matrix = matrix - 2 * jnp.outer(_matmul(matrix, normal), jnp.conj(normal))
    return matrix, unitary - 2 * jnp.outer(_matmul(unitary, normal), jnp.conj(normal))


def without_negligible(matrix: jax.Array) -> jax.Array:
    """Set to zero the entries below the subdiagonal, and negligible ones on it; the entries are of order one.

    >>> print(without_negligible(jnp.array([[1.0, 1.0], [1e-9, 1.0]])))
    [[1. 1.]
     [0. 1.]]
    """
    below = jnp.diag(matrix, -1)
    threshold = _NEGLIGIBLE * float(jnp.finfo(matrix.dtype).eps)
    return jnp.triu(matrix) + jnp.diag(jnp.where(jnp.abs(below) > threshold, below, 0), -1)


def _iterate(matrix: jax.Array, unitary: jax.Array) -> _Iteration:
    """Run QR sweeps until the subdiagonal is zero, or the maximum of sweeps is reached."""
    m = matrix.shape[0]

    def sweep(state):
        hessenberg, rotation = _sweep(state.hessenberg, state.stalled)
        hessenberg = without_negligible(hessenberg)
        progress = _count_nonzero(hessenberg) < _count_nonzero(state.hessenberg)
        stalled = jnp.where(progress, 0, state.stalled + 1).astype(jnp.int32)
        return _Iteration(hessenberg, _matmul(state.unitary, rotation), state.sweeps + 1, stalled)

    def has_to_sweep(state):
        return (_count_nonzero(state.hessenberg) > 0) & (state.sweeps < _SWEEPS_PER_VALUE * m)

    start = _Iteration(without_negligible(matrix), unitary, jnp.int32(0), jnp.int32(0))
    return start if m == 1 else jax.lax.while_loop(has_to_sweep, sweep, start)


def _sweep(matrix: jax.Array, stalled: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return Q^H A Q and Q, with A - mu = Q R for the last coupled block; Q is the identity elsewhere."""
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
    """Return the Wilkinson shift: the eigenvalue of the last two rows that is nearer to the last diagonal entry."""
    a, b = matrix[last - 1, last - 1], matrix[last - 1, last]
    c, d = matrix[last, last - 1], matrix[last, last]
    half = (a - d) / 2
    root = jnp.sqrt(half * half + b * c)
    root = jnp.where((half * jnp.conj(root)).real < 0, -root, root)
    away = half + root
    regular = d - safe_divide(b * c, away, where=away != 0, otherwise=0)
    exceptional = d + jnp.asarray(_EXCEPTIONAL, d.dtype) * jnp.abs(c).astype(d.dtype)
    return jnp.where(stalled % _STALLED == _STALLED - 1, exceptional, regular)


def _count_nonzero(matrix: jax.Array) -> jax.Array:
    return jnp.sum(jnp.diag(matrix, -1) != 0, dtype=jnp.int32)
