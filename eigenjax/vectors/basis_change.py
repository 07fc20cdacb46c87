"""A basis turned in place: the vectors that a restart keeps, without a second basis to hold them.

The p vectors U = V C, with C (m, p) of orthonormal columns, are wanted in place of rows of V. With partial pivoting

    C[permutation] = L U,    L (m, p) unit lower trapezoidal, |L| <= 1,    U (p, p) upper triangular

so that vector i is made in the row permutation[i], in two sweeps: L^T combines each row with rows that come later in
the permutation (from the first on, so that these are still old), then U^T with rows that come earlier (from the last
back). A few rows are made at a time, by one matrix product. Rows are not moved, because a row that is read and
written in one step costs XLA a copy of the basis. No leaf is split along another axis: all keep their sharding.
"""

import jax
import jax.numpy as jnp

from eigenjax.vectors import storage, tree
from eigenjax.vectors.tree import PyTree

# The sweeps make the rows in this many groups: what a rotation holds beside the basis is one group.
_GROUPS = 4


def rotate(basis: PyTree, coefficients: jax.Array) -> tuple[PyTree, jax.Array]:
    """Combines the vectors of a basis, in place.

    Args:
        basis: m rows.
        coefficients: (m, p); the columns are orthonormal, or zero.

    Returns:
        `basis, rows`: sum_j c_ji v_j is the row rows[i] of the new basis; the rows not named are zero. Cost: it reads
        the basis eight times and holds p / 4 vectors beside it.

    Example:
        >>> basis, rows = rotate(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.6], [0.8]]))
        >>> print(rows, jnp.abs(basis[rows] - jnp.array([0.6, 0.8])) < 1e-6)
        [1] [[ True  True]]
    """
    m, p = coefficients.shape
    packed, _, permutation = jax.lax.linalg.lu(coefficients)
    rows = permutation[:p]
    place = places(permutation, m)
    below = jnp.tril(packed, -1) + jnp.eye(m, p, dtype=packed.dtype)
    above = jnp.pad(jnp.triu(packed[:p]), ((0, m - p), (0, 0)))
    # Transposed: what makes a vector is then a row, as a matrix product reads it fastest.
    factors = jnp.stack([below.T, above.T])[:, :, place]
    group = -(-p // _GROUPS)
    numbers = jnp.arange(-(-p // group), dtype=jnp.int32)
    sweeps = jnp.repeat(jnp.arange(2, dtype=jnp.int32), len(numbers))

    def make_group(basis, step):
        sweep, number = step
        # The last group may begin before the one before it ends: its rows made already are then left as they are.
        first = jnp.minimum(number * group, p - group)
        targets = jax.lax.dynamic_slice_in_dim(rows, first, group)
        weights = jax.lax.dynamic_slice(factors, (sweep, first, jnp.int32(0)), (1, group, m))[0]
        is_fresh = first + jnp.arange(group, dtype=jnp.int32) >= number * group
        itself = (targets[:, None] == jnp.arange(m, dtype=jnp.int32)[None, :]).astype(weights.dtype)
        made = storage.combine(jnp.where(is_fresh[:, None], weights, itself).T, basis)
        put = lambda i, basis: storage.set_row(basis, targets[i], tree.row(made, i))
        return jax.lax.fori_loop(0, group, put, basis), None

    basis, _ = jax.lax.scan(make_group, basis, (sweeps, jnp.concatenate([numbers, numbers[::-1]])))
    return storage.keep_rows(basis, place < p), rows


def places(rows: jax.Array, m: int) -> jax.Array:
    """(m,) int32, where each row is found among the (p,) rows named, p where it is not; a scatter compiles for long."""
    p = rows.shape[0]
    found = jnp.arange(m, dtype=jnp.int32)[:, None] == rows[None, :]
    return jnp.min(jnp.where(found, jnp.arange(p, dtype=jnp.int32), p), axis=1)
