"""The projected problem and the order of what is wanted: the one place for each."""

from typing import Any

import jax
import jax.numpy as jnp

WHICH = ("LM", "LA", "SA", "BE")


def check_which(which: str) -> None:
    """Raises a ValueError unless `which` is one that a Krylov space or a power iteration can serve."""
    if which == "SM":
        raise ValueError(
            "which='SM' asks for the eigenvalues nearest to zero, which need a solver of their own (eigsh with sigma=0)"
        )
    if which not in WHICH:
        raise ValueError(f"which={which!r}: choose one of {', '.join(map(repr, WHICH))}")


def check_count(k: Any, size: int) -> None:
    """Raises an error unless 1 <= k <= size."""
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k={k!r}: give an int, the number of pairs wanted; it is static under jit")
    if not 1 <= k <= size:
        raise ValueError(f"k={k}: the operator is {size} x {size}, so choose 1 <= k <= {size}")


def tridiagonal_eigh(diagonal: jax.Array, offdiagonal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (m,), ascending, and eigenvectors (m, m), columns, of a real symmetric tridiagonal matrix.

    Dense `eigh`, because that of a tridiagonal matrix gives no eigenvectors on a TPU; scaled to entries of order
    one by a power of two, because not every backend does so itself. NaN and Inf are taken for zero: LAPACK may not
    return from them, and the caller knows of them.

    Args:
        diagonal: (m,).
        offdiagonal: (m,), the last one unused.
    """
    matrix = jnp.diag(diagonal) + jnp.diag(offdiagonal[:-1], 1) + jnp.diag(offdiagonal[:-1], -1)
    matrix = jnp.where(jnp.isfinite(matrix), matrix, 0)
    largest = jnp.max(jnp.abs(matrix))
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    values, vectors = jnp.linalg.eigh(jnp.ldexp(matrix, -exponent), symmetrize_input=False)
    return jnp.ldexp(values, exponent), vectors


def wanted_order(values: jax.Array, which: str, valid: jax.Array | None = None) -> jax.Array:
    """Indices that put the values in the order of `which`, the most wanted first.

    "LM" by magnitude, "LA" from the largest down, "SA" from the smallest up, "BE" from both ends in turn, the high
    one first, so that the first k of one order are the first k of any longer one.

    Args:
        values: (m,) real.
        which: of `WHICH`.
        valid: (m,) bool; what is not valid comes last.

    >>> print(wanted_order(jnp.array([-3.0, 2.0, 1.0]), "BE"))
    [1 0 2]
    """
    valid = jnp.ones(values.shape, bool) if valid is None else valid
    rank = lambda keys: jnp.argsort(jnp.argsort(jnp.where(valid, keys, jnp.inf), stable=True), stable=True)
    if which == "BE":
        # The j-th from above has turn 2 j, the j-th from below 2 j + 1: each value takes the earlier of its two.
        keys = jnp.minimum(2 * rank(-values), 2 * rank(values) + 1).astype(values.dtype)
    else:
        keys = {"LM": -jnp.abs(values), "LA": -values, "SA": values}[which]
    return jnp.argsort(jnp.where(valid, keys, jnp.inf), stable=True)
