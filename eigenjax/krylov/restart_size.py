"""How many vectors a restart keeps.

Of the cycle after it, m - p products long, the last pair wanted converges as a Chebyshev polynomial grows outside the
interval that holds what was dropped: with gamma the distance to that interval over its length, by

    arccosh(1 + 2 gamma) (1 - s / (m - p))

a product, where s products are lost at the beginning of each cycle. More vectors kept widen the gap, and leave less
room; the p with the fastest growth is taken.

What is dropped are the zeros of the polynomial that the next cycle begins with. They do most where they have not been
before: with one p for all restarts they gather in the same places, and a grid Laplacian takes up to twice the products
(in a numpy model of this solver: a fixed share of the basis, KrylovKit's 3 m / 5 among them, takes 1.10 times those of
a space that is never restarted in the mean over fourteen spectra, and 1.8 at worst, with k = 5 and m = 20; this rule
1.02 and 1.15). The p of the fastest growth varies by itself for most of a solve. Where it has been the same in the last
two restarts, the least is kept instead, for a long cycle.

(The product of gap and length, of nu-TRLan, Yamazaki et al. 2010, counts convergence by the cycle, not by the product.)
"""

import jax
import jax.numpy as jnp

# The products lost, s: one, and of longer cycles one more for every ten vectors. Measured, with m = 20 to 80.
_STARTUP, _STARTUP_SHARE = 1.0, 0.1
# A restart keeps between these shares of the basis, and all pairs wanted: Ritz values farther off say little.
_LEAST_KEPT = 0.5
_MOST_KEPT = 0.8


def most_kept(k: int, krylov_dim: int, block_size: int) -> int:
    """An upper limit, static: there is room for a block, and for two if possible."""
    roomy = min(int(_MOST_KEPT * krylov_dim), krylov_dim - 2 * block_size)
    return max(roomy, min(k + 1, krylov_dim - block_size))


def num_kept(values: jax.Array, num_filled: jax.Array, k: int, most: int, before: jax.Array) -> jax.Array:
    """The best p, () int32.

    Args:
        values: (m,) approximate eigenvalues, the most wanted first.
        num_filled: () int32, how many of them are there.
        k: pairs wanted.
        most: of `most_kept`.
        before: (2,) int32, what the last two restarts kept.

    >>> values = jnp.array([9.0, 8.9, 8.8, 8.7, 8.6, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0])
    >>> print(num_kept(values, jnp.array(16), 1, most=12, before=jnp.array([9, 8])))
    8
    """
    m = values.shape[0]
    least = min(max(k + 1, int(_LEAST_KEPT * m)), most)
    index = jnp.arange(m, dtype=jnp.int32)
    last = jnp.maximum(num_filled - 1, 0)
    values = jnp.where(index <= last, values, values[last])
    # Of all that is dropped when so many are kept.
    highest, lowest = jax.lax.cummax(values, reverse=True), jax.lax.cummin(values, reverse=True)
    target = values[min(k, m) - 1]
    gap = jnp.maximum(jnp.maximum(target - highest, lowest - target), 0)
    spread = highest - lowest
    gamma = jnp.where(spread > 0, gap / jnp.where(spread > 0, spread, 1), 0)
    room = (m - index).astype(gamma.dtype)
    # Where there is less room than is lost, a little is better than nothing.
    lost = _STARTUP + _STARTUP_SHARE * m
    speed = jnp.arccosh(1 + 2 * gamma) * jnp.maximum(1 - lost / room, 1 / (lost * room))
    best = jnp.argmax(jnp.where((index >= least) & (index <= most), speed, -1)).astype(jnp.int32)
    return jnp.where(jnp.all(before == best), least, best)
