"""Real Schur form of a small real matrix, with ordered eigenvalues, on any backend.

    A = Q T Q^T

with Q orthogonal and T real, with blocks of one (a real eigenvalue) or two (a conjugate pair) on its diagonal, by
implicit double shifts (Francis 1961; Golub and Van Loan 2013, section 7.5). Leading columns of Q that divide no
block span a real invariant subspace to rounding, even if A is far from normal. The complex Schur form has no such
subspace. Its rounding errors are complex, and ill-conditioned eigenvalues that it computes for a real matrix are not in
conjugate pairs. These functions are not differentiated.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.schur import hessenberg, reflected, scaling, without_negligible
from eigenjax.vectors.arithmetic import safe_divide

# Maximum of sweeps for each eigenvalue, on average; one or two are typical.
_SWEEPS_PER_VALUE = 20
# Sweeps without a new zero before an exceptional shift, from a block like that of LAPACK's dlahqr.
_STALLED = 8
_EXCEPTIONAL = 0.75, -0.4375
# An exchange of two blocks that leaves entries above this times eps below them is rejected (LAPACK's dlaexc).
_UNSTABLE = 10.0

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class RealSchur(NamedTuple):
    """Real Schur form A = Q T Q^T."""

    triangular: jax.Array  # (m, m) T, real; entries below the diagonal only within blocks of two
    orthogonal: jax.Array  # (m, m) Q
    second: jax.Array  # (m,) bool, the second row of a block of two
    converged: jax.Array  # () bool; if False, T omits nonzero entries below the blocks


class _Iteration(NamedTuple):
    matrix: jax.Array  # (m, m) current matrix, of Hessenberg form
    orthogonal: jax.Array  # (m, m) Q so far
    sweeps: jax.Array  # () int32, sweeps so far
    stalled: jax.Array  # () int32, sweeps since the last new zero


def real_schur(matrix: jax.Array) -> RealSchur:
    """Compute the real Schur form of a real matrix.

    Args:
        matrix: (m, m) real.

    Returns:
        The form; if `matrix` is not finite, all entries are NaN.

    Example:
        >>> form = real_schur(jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0]]))
        >>> print(form.second, form.converged)
        [False  True False] True

    Source: Francis (1961), The QR transformation; Golub and Van Loan (2013), Matrix computations.
    """
    m = matrix.shape[0]
    finite = jnp.all(jnp.isfinite(matrix))
    shrink, restore = scaling(matrix)
    scaled = shrink(jnp.where(finite, matrix, 0))
    reduced, orthogonal = hessenberg(scaled, jnp.eye(m, dtype=scaled.dtype), 0, m - 2)
    start = _Iteration(without_negligible(reduced), orthogonal, jnp.int32(0), jnp.int32(0))
    has_to_sweep = lambda state: jnp.any(_unfinished(state.matrix)) & (state.sweeps < _SWEEPS_PER_VALUE * m)
    end = start if m == 1 else jax.lax.while_loop(has_to_sweep, _sweep, start)
    unfinished = _unfinished(end.matrix)
    matrix = end.matrix - jnp.diag(jnp.where(unfinished, jnp.diag(end.matrix, -1), 0), -1)
    or_nan = lambda x: jnp.where(finite, x, jnp.nan)
    second = jnp.append(False, jnp.diag(matrix, -1) != 0)
    return RealSchur(or_nan(restore(matrix)), or_nan(end.orthogonal), second, finite & ~jnp.any(unfinished))


def block_eigenvalues(form: RealSchur) -> jax.Array:
    """Return the (m,) complex eigenvalues of the blocks in the order of the rows, the upper one of a pair first.

    >>> print(block_eigenvalues(real_schur(jnp.array([[1.0, -2.0], [2.0, 1.0]]))).round(4))
    [1.+2.j 1.-2.j]
    """
    matrix, second = form.triangular, form.second
    half, product = _halves_and_products(matrix)
    imaginary = jnp.sqrt(jnp.maximum(-(half * half + product), 0))
    center = jnp.diag(matrix)[1:] + half
    is_first = jnp.append(second[1:], False)
    pad_first, pad_second = (lambda x: jnp.append(x, 0)), (lambda x: jnp.append(jnp.zeros(1, x.dtype), x))
    real = jnp.where(is_first, pad_first(center), jnp.where(second, pad_second(center), jnp.diag(matrix)))
    heights = jnp.where(is_first, pad_first(imaginary), jnp.where(second, -pad_second(imaginary), 0))
    return jax.lax.complex(real, heights)


def _halves_and_products(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (a - d) / 2 and b c of each of the m - 1 blocks [[a, b], [c, d]] of neighboring rows."""
    values = jnp.diag(matrix)
    return (values[:-1] - values[1:]) / 2, jnp.diag(matrix, 1) * jnp.diag(matrix, -1)


def _unfinished(matrix: jax.Array) -> jax.Array:
    """Return (m - 1,) bool, which entries of the subdiagonal do not belong to a block with a conjugate pair."""
    coupled = jnp.diag(matrix, -1) != 0
    half, product = _halves_and_products(matrix)
    alone = ~jnp.append(False, coupled[:-1]) & ~jnp.append(coupled[1:], False)
    return coupled & ~(alone & (half * half + product < 0))


def _sweep(state: _Iteration) -> _Iteration:
    """Run one double-shift sweep on the last unfinished block; make a block with two real eigenvalues triangular."""
    matrix = state.matrix
    m = matrix.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)
    unfinished = _unfinished(matrix)
    coupled = jnp.diag(matrix, -1) != 0
    last = jnp.max(jnp.where(unfinished, index[1:], 1))
    first = jnp.max(jnp.where(~coupled & (index[1:] <= last), index[1:], 0))
    of_two = last - first == 1
    vector = jnp.where(of_two, _eigenvector(matrix, first), _shifted_column(matrix, first, last, state.stalled))
    vector = jnp.where((index >= first) & (index <= jnp.minimum(first + 2, last)), vector, 0)
    matrix, orthogonal = reflected(matrix, state.orthogonal, vector, first)
    matrix = jnp.where(of_two & (index[:, None] == last) & (index[None, :] == first), 0, matrix)
    matrix, orthogonal = hessenberg(matrix, orthogonal, first, last - 1)
    matrix = without_negligible(matrix)
    left = jnp.sum(_unfinished(matrix), dtype=jnp.int32)
    stalled = jnp.where(left < jnp.sum(unfinished, dtype=jnp.int32), 0, state.stalled + 1).astype(jnp.int32)
    return _Iteration(matrix, orthogonal, state.sweeps + 1, stalled)


def _eigenvector(matrix: jax.Array, first: jax.Array) -> jax.Array:
    """Return an (m,) eigenvector of a two by two block with real eigenvalues, embedded in its two rows."""
    a, b, c, d = _entries(matrix, first)
    half = (a - d) / 2
    root = jnp.sqrt(jnp.maximum(half * half + b * c, 0))
    head = half + jnp.where(half < 0, -root, root)
    return jnp.zeros_like(matrix[0]).at[first].set(head).at[first + 1].set(c)


def _shifted_column(matrix: jax.Array, first: jax.Array, last: jax.Array, stalled: jax.Array) -> jax.Array:
    """Return the (m,) first column of (A - s)(A - conj(s)), s and conj(s) the eigenvalues of the last two rows.

    If they are real, the one nearer to the last diagonal entry is used twice.
    """
    a, b, c, d = _entries(matrix, last - 1)
    is_exceptional = stalled % _STALLED == _STALLED - 1
    size = jnp.abs(c) + jnp.abs(matrix[last - 1, jnp.maximum(last - 2, 0)])
    along, across = _EXCEPTIONAL
    d = jnp.where(is_exceptional, d + along * size, d)
    a, b, c = (jnp.where(is_exceptional, x, y) for x, y in ((d, a), (across * size, b), (size, c)))
    half = (a - d) / 2
    square = half * half + b * c
    root = jnp.sqrt(jnp.abs(square))
    away = half + jnp.where(half < 0, -root, root)
    nearer = d - safe_divide(b * c, away, where=away != 0, otherwise=0)
    real, imaginary = jnp.where(square < 0, d + half, nearer), jnp.where(square < 0, root, 0)
    p, q, r, s = _entries(matrix, first)
    head = (p - real) * (p - real) + imaginary * imaginary + q * r
    tail = r * matrix[jnp.minimum(first + 2, matrix.shape[0] - 1), first + 1]
    column = jnp.zeros_like(matrix[0]).at[first].set(head).at[first + 1].set(r * (p + s - 2 * real))
    # Out of bounds for the last block of two, which does not need this entry.
    return column.at[first + 2].set(tail, mode="drop")


def _entries(matrix: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return a, b, c, d of the block [[a, b], [c, d]] of this row and the next."""
    return matrix[row, row], matrix[row, row + 1], matrix[row + 1, row], matrix[row + 1, row + 1]


def reorder_blocks(form: RealSchur, keys: jax.Array) -> RealSchur:
    """Reorder the blocks of a real Schur form by increasing keys, as far as that is stable.

    Each block takes two rows of a padded matrix; a real eigenvalue leaves one of them empty. Neighbors are exchanged,
    every other pair at once (an odd-even transposition sort), in m rounds. Two blocks whose eigenvalues differ only by
    rounding may keep their order.

    Args:
        form: Schur form with m eigenvalues.
        keys: (m,) real, equal within a block.

    Example:
        >>> form = real_schur(jnp.array([[1.0, 5.0], [0.0, 2.0]]))
        >>> print(jnp.diag(reorder_blocks(form, -jnp.diag(form.triangular)).triangular).round(4))
        [2. 1.]
    """
    m = keys.shape[0]
    block = jnp.cumsum(~form.second, dtype=jnp.int32) - 1
    num_blocks = m + m % 2
    rows = jnp.arange(2 * num_blocks, dtype=jnp.int32)
    on_or_above = rows[:, None] // 2 <= rows[None, :] // 2
    place = rows[None, :] == (2 * block + form.second.astype(jnp.int32))[:, None]
    embed = place.astype(form.triangular.dtype)
    matrix = _matmul(embed.T, _matmul(form.triangular, embed))
    valid = jnp.any(place, axis=0)
    first = (block[:, None] == jnp.arange(num_blocks, dtype=jnp.int32)[None, :]) & ~form.second[:, None]
    keys = jnp.min(jnp.where(first, keys[:, None], jnp.inf), axis=0)
    ranks = jnp.argsort(jnp.argsort(keys, stable=True)).astype(jnp.int32)

    def exchange(sweep, carry):
        shift = sweep % 2
        roll = lambda x, by: jnp.roll(x, by, axis=0)
        matrix, orthogonal, ranks, valid = carry
        # Pairs of blocks begin at even positions; the pair that wraps around the end is not exchanged.
        matrix = jnp.roll(matrix, (-2 * shift, -2 * shift), (0, 1))
        orthogonal = jnp.roll(orthogonal, -2 * shift, 1)
        ranks, valid = roll(ranks, -shift), roll(valid, -2 * shift)
        open_end = (jnp.arange(num_blocks // 2, dtype=jnp.int32) < num_blocks // 2 - 1) | (shift == 0)
        matrix, rotation, ranks, valid = _exchange_pairs(matrix, ranks, valid, open_end)
        orthogonal = _matmul(orthogonal, rotation)
        matrix, valid = jnp.roll(matrix, (2 * shift, 2 * shift), (0, 1)), roll(valid, 2 * shift)
        # Set to zero the entries in empty rows and columns, and below the blocks.
        matrix = jnp.where(valid[:, None] & valid[None, :] & on_or_above, matrix, 0)
        return matrix, jnp.roll(orthogonal, 2 * shift, 1), roll(ranks, shift), valid

    start = (matrix, _matmul(form.orthogonal, embed), ranks, valid)
    matrix, orthogonal, _, valid = jax.lax.fori_loop(0, num_blocks, exchange, start)
    order = jnp.argsort(~valid, stable=True)[:m]
    both = valid[0::2] & valid[1::2]
    second = jnp.stack([jnp.zeros_like(both), both], axis=1).reshape(-1)[order]
    return RealSchur(matrix[order][:, order], orthogonal[:, order], second, form.converged)


def _exchange_pairs(
    matrix: jax.Array, ranks: jax.Array, valid: jax.Array, allowed: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Exchange blocks 2 i and 2 i + 1 if allowed, out of order, and stable; return the rotation too."""
    pairs = allowed.shape[0]
    index = jnp.arange(pairs, dtype=jnp.int32)
    windows = matrix.reshape(pairs, 4, pairs, 4)[index, :, index, :]
    rows = valid.reshape(pairs, 4)
    rotations, stable = jax.vmap(_exchange)(windows, rows)
    ranks = ranks.reshape(pairs, 2)
    exchanged = allowed & stable & (ranks[:, 0] > ranks[:, 1])
    rotations = jnp.where(exchanged[:, None, None], rotations, jnp.eye(4, dtype=matrix.dtype))
    same = jnp.eye(pairs, dtype=matrix.dtype)
    rotation = (rotations[:, :, None, :] * same[:, None, :, None]).reshape(4 * pairs, 4 * pairs)
    ranks = jnp.where(exchanged[:, None], ranks[:, ::-1], ranks).reshape(-1)
    valid = jnp.where(exchanged[:, None], jnp.roll(rows, 2, axis=1), rows).reshape(-1)
    matrix = _matmul(rotation.T, _matmul(matrix, rotation))
    return matrix, rotation, ranks, valid


def _exchange(window: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rotation that exchanges the two blocks of a (4, 4) window, and whether the exchange is stable.

    With  A X - X B = -C  the columns of [X; I] span the invariant subspace of B in [[A, C], [0, B]], and those of
    [I; -X^T] are orthogonal to them.
    """
    upper, coupling, lower = window[:2, :2], window[:2, 2:], window[2:, 2:]
    identity = jnp.eye(2, dtype=window.dtype)
    unknown = (valid[:2, None] & valid[None, 2:]).reshape(-1)
    system = jnp.kron(upper, identity) - jnp.kron(identity, lower.T)
    system = jnp.where(unknown[:, None] & unknown[None, :], system, jnp.eye(4, dtype=window.dtype))
    solution = jnp.linalg.solve(system, jnp.where(unknown, -coupling.reshape(-1), 0))
    finite = jnp.all(jnp.isfinite(solution))
    x = jnp.where(finite, solution, 0).reshape(2, 2)
    rotation, _ = jnp.linalg.qr(jnp.block([[x, identity], [identity, -x.T]]))
    exchanged = _matmul(rotation.T, _matmul(window, rotation))
    bound = _UNSTABLE * jnp.finfo(window.dtype).eps * jnp.max(jnp.abs(window))
    return rotation, finite & (jnp.max(jnp.abs(exchanged[2:, :2])) <= bound)
