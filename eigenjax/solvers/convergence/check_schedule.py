"""Schedule of convergence checks: a check costs a small dense problem, a late check costs matvecs.

On an H100 a check takes as long as three to five steps of a basis of 10^6 components, and on a CPU as many steps of
some thousand. With the waits below a solve makes one check for every three to five matvecs, half as many as with waits
of at most 3, for up to 0.5% more matvecs (24 solves of six spectra, n = 2000, with and without a search).
"""

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import safe_divide

# The next check comes after this share of the steps that the current rate predicts, because convergence accelerates ...
_PATIENCE = 0.5
# ... and after at most this many rows. (Of a spectrum with a few outliers 16 to 20 matvecs find all pairs.)
_LONGEST_WAIT = 8
# Rows after a check that shows no progress.
_WITHOUT_PROGRESS = 3


def rows_to_wait(
    before: jax.Array, distance: jax.Array, steps: jax.Array, *, least: int = 1, most: int = _LONGEST_WAIT
) -> jax.Array:
    """Return the number of rows to fill before the next convergence check, () int32.

    Args:
        before: () log(residual / bound) of the worst pair at the last convergence check; inf at first.
        distance: () the same logarithm at the current check.
        steps: () int32, steps between the two checks.
        least: minimum of the rows, static.
        most: maximum of the rows, static.

    >>> print(rows_to_wait(jnp.float32(9.0), jnp.float32(4.0), jnp.int32(5)))
    2
    """
    rate = (before - distance) / jnp.maximum(steps, 1).astype(distance.dtype)
    is_converging = jnp.isfinite(rate) & (rate > 0)
    otherwise = jnp.where(jnp.isfinite(rate), _WITHOUT_PROGRESS, least).astype(rate.dtype)
    expected = jnp.where(is_converging, safe_divide(_PATIENCE * distance, rate, where=is_converging), otherwise)
    return jnp.clip(expected, least, max(least, most)).astype(jnp.int32)
