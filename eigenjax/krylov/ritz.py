"""The projected problem and the order of what is wanted: the one place for each."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import arguments

WHICH = ("LM", "LA", "SA", "BE")
_NOT_SYMMETRIC = "; of an operator that is not symmetric, eigs has 'LM', 'LR', 'SR', 'LI'"


def check_which(which: str, function: str = "eigsh") -> None:
    """Raise an error unless `which` is one that a Krylov space or a power iteration can serve.

    Args:
        which: the pairs wanted.
        function: who was called.

    Raises:
        ValueError: if it is unknown, or "SM".
        TypeError: if it is no string.
    """
    if which == "SM":
        raise ValueError(
            f"{function} got which='SM': the eigenvalues nearest to zero need a solver of their own, eigsh with sigma=0"
        )
    choices = (*WHICH, "SM") if function == "eigsh" else WHICH
    arguments.check_choice(function, "which", which, choices, elsewhere=_NOT_SYMMETRIC)


def check_count(k: Any, size: int, function: str = "eigsh") -> None:
    """Raise an error unless 1 <= k <= size."""
    arguments.check_int(function, "k", k, least=1, why=f": the operator is {size} x {size}, so choose 1 <= k <= {size}")
    if k > size:
        raise ValueError(f"{function} got k={k}: the operator is {size} x {size}, so choose 1 <= k <= {size}")


def projected_eigh(matrix: jax.Array, num_filled: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenpairs of the projection of an operator on the first `num_filled` vectors of a basis with room for m.

    The cost of one dense (m, m) `eigh`; see `masked_eigh`.

    Args:
        matrix: (m, m) Hermitian in its first num_filled rows and columns.
        num_filled: () int32.

    Returns:
        `values, vectors, valid`: (m,) ascending, (m, m) columns, (m,) bool: which belong to the rows filled.
    """
    return masked_eigh(matrix, jnp.arange(matrix.shape[0], dtype=jnp.int32) < num_filled)


def norm_bound(scaled: jax.Array) -> jax.Array:
    """() more than the norm of a matrix of entries of order one, or zero, and not much more.

    By the largest sums of a row and of a column. What is much larger, stands between the rows of a matrix and is
    decomposed with it, takes digits from it: 2 m made twenty of four units of rounding of a Ritz value, up to eighty.
    """
    sizes = jnp.abs(scaled)
    return 1 + jnp.sqrt(jnp.max(jnp.sum(sizes, axis=0)) * jnp.max(jnp.sum(sizes, axis=1)))


def masked_eigh(matrix: jax.Array, filled: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenpairs of the projection of an operator on some vectors of a basis with room for m.

    Scaled to entries of order one by a power of two, because not every backend does so itself. NaN and Inf are taken
    for zero: LAPACK may not return from them, and the caller knows of them. A dense solve, because that of a
    tridiagonal matrix gives no eigenvectors on a TPU.

    Args:
        matrix: (m, m) Hermitian in the rows and columns filled.
        filled: (m,) bool.

    Returns:
        `values, vectors, valid`: (m,) ascending, (m, m) columns, (m,) bool: which belong to the rows filled, the
        first ones.
    """
    matrix = jnp.where(jnp.isfinite(matrix) & filled[:, None] & filled[None, :], matrix, 0)
    largest = jnp.max(jnp.abs(matrix))
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    scaled = matrix * jnp.ldexp(jnp.ones_like(largest), -exponent).astype(matrix.dtype)
    # Rows not filled get a value beyond the spectrum of the others: they come last, and mix with nothing.
    beyond = jnp.where(filled, 0, norm_bound(scaled)).astype(matrix.dtype)
    values, vectors = jnp.linalg.eigh(scaled + jnp.diag(beyond), symmetrize_input=False)
    valid = jnp.arange(matrix.shape[0], dtype=jnp.int32) < jnp.sum(filled, dtype=jnp.int32)
    return jnp.ldexp(jnp.where(valid, values, 0), exponent), vectors, valid


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


def pair_order(values: jax.Array, which: str, sigma: Any = None) -> jax.Array:
    """Indices that put the values in the order of `which` or, where sigma is given, the nearest to it first.

    >>> print(pair_order(jnp.array([1.0, 4.0, 2.0]), "LA", sigma=2.5))
    [2 0 1]
    """
    if sigma is None:
        return wanted_order(values, which)
    return jnp.argsort(jnp.abs(values - jnp.asarray(sigma).astype(values.dtype)))
