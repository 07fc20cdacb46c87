"""Schedule of convergence checks: a check costs a small dense problem, a late check costs matvecs."""

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import safe_divide

# The next check comes after this share of the steps that the current rate predicts, because convergence accelerates ...
_PATIENCE = 0.5
# ... and after at most this many rows.
LONGEST_WAIT = 3


def rows_to_wait(
    before: jax.Array, distance: jax.Array, steps: jax.Array, *, least: int = 1, most: int = LONGEST_WAIT
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
    expected = safe_divide(_PATIENCE * distance, rate, where=is_converging, otherwise=least)
    return jnp.clip(expected, least, max(least, most)).astype(jnp.int32)
