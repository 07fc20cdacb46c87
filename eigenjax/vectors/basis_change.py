"""Basis change V <- V C in place, without memory for a second basis.

The p vectors V C, with C (m, p) of orthonormal columns, replace rows of V. LU factorization with partial pivoting gives

    C[permutation] = L U,    L (m, p) unit lower trapezoidal, |L| <= 1,    U (p, p) upper triangular

Vector i is computed in row permutation[i], in two sweeps. The first sweep, L^T, combines each row with rows that come
later in the permutation. It proceeds from the first row on, so that the later rows are still unchanged. The second
sweep, U^T, combines each row with rows that come earlier, from the last row back. A few rows are computed at a time, by
one matrix product. Rows are not moved, because to read and write a row in one step costs XLA a copy of the basis. No
leaf is split along another axis, so that all leaves keep their sharding.
"""

import jax
import jax.numpy as jnp

from eigenjax.vectors import storage, tree
from eigenjax.vectors.tree import PyTree

# Number of groups of rows in each sweep: the basis change holds one group beside the basis.
_GROUPS = 4


def change_basis(basis: PyTree, coefficients: jax.Array) -> tuple[PyTree, jax.Array]:
    """Replace the vectors of a basis by linear combinations of them, in place.

    Args:
        basis: m rows.
        coefficients: (m, p) C; its columns are orthonormal, or zero.

    Returns:
        `basis, rows`: row rows[i] of the new basis is sum_j c_ji v_j; all other rows are zero. Cost: the basis is read
        eight times, and p / 4 vectors are held beside it.

    Example:
        >>> basis, rows = change_basis(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.6], [0.8]]))
        >>> print(rows, jnp.abs(basis[rows] - jnp.array([0.6, 0.8])) < 1e-6)
        [1] [[ True  True]]
    """
    m, p = coefficients.shape
    packed, _, permutation = jax.lax.linalg.lu(coefficients)
    rows = permutation[:p]
    place = places(permutation, m)
    below = jnp.tril(packed, -1) + jnp.eye(m, p, dtype=packed.dtype)
    above = jnp.pad(jnp.triu(packed[:p]), ((0, m - p), (0, 0)))
    # Transposed: the weights of one vector are then one row, which a matrix product reads fastest.
    factors = jnp.stack([below.T, above.T])[:, :, place]
    group = -(-p // _GROUPS)
    # Lists become constants, which take no time to compile.
    numbers = list(range(-(-p // group)))
    sweeps = jnp.asarray([0] * len(numbers) + [1] * len(numbers), jnp.int32)
    group_indices = jnp.asarray(numbers + numbers[::-1], jnp.int32)

    def make_group(basis, step):
        sweep, group_index = step
        # The last group may overlap the one before it: rows that are already computed stay unchanged.
        first = jnp.minimum(group_index * group, p - group)
        targets = jax.lax.dynamic_slice_in_dim(rows, first, group)
        weights = jax.lax.dynamic_slice(factors, (sweep, first, jnp.int32(0)), (1, group, m))[0]
        is_fresh = first + jnp.arange(group, dtype=jnp.int32) >= group_index * group
        itself = (targets[:, None] == jnp.arange(m, dtype=jnp.int32)[None, :]).astype(weights.dtype)
        made = storage.combine(jnp.where(is_fresh[:, None], weights, itself).T, basis)
        put = lambda i, basis: storage.set_row(basis, targets[i], tree.row(made, i))
        return jax.lax.fori_loop(0, group, put, basis), None

    basis, _ = jax.lax.scan(make_group, basis, (sweeps, group_indices))
    return storage.keep_rows(basis, place < p), rows


def places(rows: jax.Array, m: int) -> jax.Array:
    """Return the position of each of m rows in the (p,) list `rows`, or p if it is not there, as (m,) int32."""
    # By comparison, because a scatter takes long to compile.
    p = rows.shape[0]
    found = jnp.arange(m, dtype=jnp.int32)[:, None] == rows[None, :]
    return jnp.min(jnp.where(found, jnp.arange(p, dtype=jnp.int32), p), axis=1)
