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

from eigenjax import storage, tree
from eigenjax.tree import PyTree

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
    back = jnp.zeros_like(permutation).at[permutation].set(jnp.arange(m, dtype=permutation.dtype))
    lower = (jnp.tril(packed, -1) + jnp.eye(m, p, dtype=packed.dtype))[back]
    upper = jnp.pad(jnp.triu(packed[:p]), ((0, m - p), (0, 0)))[back]
    group = -(-p // _GROUPS)
    firsts = [min(first, p - group) for first in range(0, p, group)]
    # The last group may begin before the one before it ends: its rows made already are then left as they are.
    fresh = [slice(max(first, done), first + group) for first, done in zip(firsts, range(0, p, group), strict=False)]
    identity = jnp.eye(m, dtype=packed.dtype)[:, permutation[:p]]
    sweep = [(lower, first, rows) for first, rows in zip(firsts, fresh, strict=True)]
    sweep += [(upper, first, rows) for first, rows in zip(firsts, fresh, strict=True)][::-1]
    weights = jnp.stack([identity.at[:, rows].set(w[:, rows])[:, first : first + group] for w, first, rows in sweep])
    targets = jnp.stack([permutation[first : first + group] for _, first, _ in sweep])

    def make_group(basis, step):
        weights, targets = step
        made = storage.combine(weights, basis)
        for i in range(group):
            basis = storage.set_row(basis, targets[i], tree.row(made, i))
        return basis, None

    basis, _ = jax.lax.scan(make_group, basis, (weights, targets))
    kept = jnp.zeros(m, bool).at[permutation[:p]].set(True)
    return storage.keep_rows(basis, kept), permutation[:p]
