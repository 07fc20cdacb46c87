"""Projected eigenproblem, and the order of Ritz values."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import arguments
from eigenjax.vectors.arithmetic import matmul, positive_or_one

WHICH = ("LM", "LA", "SA", "BE")
_NOT_SYMMETRIC = "; of an operator that is not symmetric, eigs has 'LM', 'LR', 'SR', 'LI', 'SM'"


def check_which(which: str, function: str = "eigsh") -> None:
    """Raise an error unless a Krylov space or a power iteration can compute the pairs that `which` names.

    Args:
        which: the pairs wanted.
        function: name of the public function, for the message.

    Raises:
        ValueError: if it is unknown, or "SM".
        TypeError: if it is not a string.
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


def projected_eigh(matrix: jax.Array, num_valid: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the eigenpairs of the projection of an operator on the first `num_valid` of m basis vectors.

    Cost: one dense (m, m) `eigh`.

    Args:
        matrix: (m, m) Hermitian in its first num_valid rows and columns.
        num_valid: () int32, number of valid basis vectors.

    Returns:
        `values, vectors, valid`: (m,) ascending, (m, m) columns, (m,) bool: which pairs belong to valid rows.
    """
    return masked_eigh(matrix, jnp.arange(matrix.shape[0], dtype=jnp.int32) < num_valid)


def norm_bound(scaled: jax.Array) -> jax.Array:
    """Bound the norm of a matrix from above, (); its entries are of order one, or zero.

    The bound uses the largest sums of a row and of a column. It is tight on purpose: a much larger entry that pads the
    matrix costs digits. Padding of 2 m increased the error of a Ritz value from 4 eps to 20 eps, and up to 80 eps.
    """
    sizes = jnp.abs(scaled)
    return 1 + jnp.sqrt(jnp.max(jnp.sum(sizes, axis=0)) * jnp.max(jnp.sum(sizes, axis=1)))


def masked_eigh(matrix: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the eigenpairs of the projection of an operator on the valid ones of m basis vectors.

    The matrix is scaled to entries of order one by a power of two, because not every backend does so. NaN and Inf are
    replaced by zero, because LAPACK may not return from them; the caller detects them separately. The solve is dense,
    because a tridiagonal one gives no eigenvectors on a TPU.

    Args:
        matrix: (m, m) Hermitian in the valid rows and columns.
        mask: (m,) bool, which rows are valid.

    Returns:
        `values, vectors, valid`: (m,) ascending, (m, m) columns, (m,) bool: which pairs belong to valid rows; these
        come first.
    """
    matrix = jnp.where(jnp.isfinite(matrix) & mask[:, None] & mask[None, :], matrix, 0)
    largest = jnp.max(jnp.abs(matrix))
    _, exponent = jnp.frexp(positive_or_one(largest))
    scaled = matrix * jnp.ldexp(jnp.ones_like(largest), -exponent).astype(matrix.dtype)
    # Other rows get an eigenvalue beyond the spectrum of the valid ones: it comes last, and its vectors do not mix.
    beyond = jnp.where(mask, 0, norm_bound(scaled)).astype(matrix.dtype)
    values, vectors = jnp.linalg.eigh(scaled + jnp.diag(beyond), symmetrize_input=False)
    # Vectors of eigh are orthonormal to 10 to 30 eps, and so would all vectors combined with them be. One Newton step
    # towards the nearest orthonormal matrix leaves about one eps.
    vectors = 1.5 * vectors - 0.5 * matmul(vectors, jnp.conj(vectors).T, vectors)
    valid = jnp.arange(matrix.shape[0], dtype=jnp.int32) < jnp.sum(mask, dtype=jnp.int32)
    return jnp.ldexp(jnp.where(valid, values, 0), exponent), vectors, valid


def wanted_order(values: jax.Array, which: str, valid: jax.Array | None = None) -> jax.Array:
    """Return the indices that order the values by `which`, the most wanted first.

    "LM" orders by magnitude, "LA" from the largest down, "SA" from the smallest up. "BE" alternates between both ends,
    beginning with the high one, so that the first k of one order are the first k of any longer one.

    Args:
        values: (m,) real.
        which: one of `WHICH`.
        valid: (m,) bool; values that are not valid come last.

    >>> print(wanted_order(jnp.array([-3.0, 2.0, 1.0]), "BE"))
    [1 0 2]
    """
    valid = jnp.ones(values.shape, bool) if valid is None else valid
    rank = lambda keys: jnp.argsort(jnp.argsort(jnp.where(valid, keys, jnp.inf), stable=True), stable=True)
    if which == "BE":
        # The j-th value from above has position 2 j, the j-th from below 2 j + 1: each value takes its smaller one.
        keys = jnp.minimum(2 * rank(-values), 2 * rank(values) + 1).astype(values.dtype)
    else:
        keys = {"LM": -jnp.abs(values), "LA": -values, "SA": values}[which]
    return jnp.argsort(jnp.where(valid, keys, jnp.inf), stable=True)


def pair_order(values: jax.Array, which: str, sigma: Any = None, valid: jax.Array | None = None) -> jax.Array:
    """Return the indices that order the values by `which` or, if sigma is given, by their distance from it.

    Values that are not valid, (m,) bool, come last.

    >>> print(pair_order(jnp.array([1.0, 4.0, 2.0]), "LA", sigma=2.5))
    [2 0 1]
    """
    if sigma is None:
        return wanted_order(values, which, valid)
    distances = jnp.abs(values - jnp.asarray(sigma).astype(values.dtype))
    return jnp.argsort(distances if valid is None else jnp.where(valid, distances, jnp.inf))
