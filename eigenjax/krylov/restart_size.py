"""Number of vectors that a restart keeps.

A cycle after a restart with p vectors takes m - p matvecs. In it the last wanted pair converges like a Chebyshev
polynomial outside of the interval of the dropped Ritz values. With gamma, the distance to that interval over its
length, the rate for each matvec is

    arccosh(1 + 2 gamma) (1 - s / (m - p))

where s matvecs are lost at the beginning of each cycle. A larger p widens the gap, and leaves less room for the cycle.
The restart keeps the p with the largest rate.

The dropped Ritz values are the zeros of the polynomial that begins the next cycle. They help most at new places. With
the same p in all restarts they cluster, and a grid Laplacian takes up to twice the matvecs. The model is a numpy
version of this solver with k = 5 and m = 20 on fourteen spectra, compared with a space without restarts. A fixed share
of the basis (3 m / 5 in KrylovKit) takes 1.10 times the matvecs on average and 1.8 times at worst; this rule takes 1.02
and 1.15 times. The best p varies during most of a solve. If the last two restarts kept the same p, the minimum is kept
instead, for a long cycle.

The product of gap and length of nu-TRLan (Yamazaki et al. 2010) measures convergence by cycle, not by matvec.
"""

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import safe_divide

# Lost matvecs s: one, and in longer cycles one more for every ten vectors; measured with m = 20 to 80.
_STARTUP, _STARTUP_SHARE = 1.0, 0.1
# A restart keeps between these shares of the basis, and all wanted pairs: distant Ritz values carry little information.
_LEAST_KEPT = 0.5
_MOST_KEPT = 0.8


def max_keep(k: int, krylov_dim: int, block_size: int) -> int:
    """Return the maximum of the vectors kept, static: it leaves room for a block, and for two if possible."""
    usual = min(int(_MOST_KEPT * krylov_dim), krylov_dim - 2 * block_size)
    return max(usual, min(k + 1, krylov_dim - block_size))


def num_keep(values: jax.Array, num_valid: jax.Array, k: int, most: int, before: jax.Array) -> jax.Array:
    """Return the number p of vectors to keep, () int32.

    Args:
        values: (m,) approximate eigenvalues, the most wanted first.
        num_valid: () int32, number of valid values.
        k: number of wanted pairs.
        most: maximum of p, from `max_keep`.
        before: (2,) int32, numbers of vectors that the last two restarts kept.

    >>> values = jnp.array([9.0, 8.9, 8.8, 8.7, 8.6, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0])
    >>> print(num_keep(values, jnp.array(16), 1, most=12, before=jnp.array([9, 8])))
    8
    """
    m = values.shape[0]
    least = min(max(k + 1, int(_LEAST_KEPT * m)), most)
    index = jnp.arange(m, dtype=jnp.int32)
    last = jnp.maximum(num_valid - 1, 0)
    values = jnp.where(index <= last, values, values[last])
    # At index p: of all values that are dropped if p vectors are kept. (A cumulative maximum takes long to compile.)
    is_dropped = index[None, :] >= index[:, None]
    highest, lowest = (
        extremum(jnp.where(is_dropped, values[None, :], other), axis=1)
        for extremum, other in ((jnp.max, -jnp.inf), (jnp.min, jnp.inf))
    )
    target = values[min(k, m) - 1]
    gap = jnp.maximum(jnp.maximum(target - highest, lowest - target), 0)
    gamma = safe_divide(gap, highest - lowest, otherwise=0)
    room = (m - index).astype(gamma.dtype)
    # If there is less room than is lost, a small positive rate.
    lost_matvecs = _STARTUP + _STARTUP_SHARE * m
    speed = jnp.arccosh(1 + 2 * gamma) * jnp.maximum(1 - lost_matvecs / room, 1 / (lost_matvecs * room))
    best = jnp.argmax(jnp.where((index >= least) & (index <= most), speed, -1)).astype(jnp.int32)
    return jnp.where(jnp.all(before == best), least, best)
