"""When a restarted solve looks again: a look costs a small dense problem, a look too late costs products."""

import jax
import jax.numpy as jnp

# A look waits for this share of the steps that the last ones let expect: convergence quickens towards its end ...
_PATIENCE = 0.5
# ... and for no more than these.
LONGEST_WAIT = 3


def rows_to_wait(
    before: jax.Array, distance: jax.Array, steps: jax.Array, *, least: int = 1, most: int = LONGEST_WAIT
) -> jax.Array:
    """Rows to fill before the next look, () int32.

    Args:
        before: () how far the worst pair was from converged at the last look, log(residual / bound); inf at first.
        distance: () the same now.
        steps: () int32, steps between the two.
        least: of the rows, static.
        most: likewise.

    >>> print(rows_to_wait(jnp.float32(9.0), jnp.float32(4.0), jnp.int32(5)))
    2
    """
    rate = (before - distance) / jnp.maximum(steps, 1).astype(distance.dtype)
    known = jnp.isfinite(rate) & (rate > 0)
    expected = jnp.where(known, _PATIENCE * distance / jnp.where(known, rate, 1), least)
    return jnp.clip(expected, least, max(least, most)).astype(jnp.int32)
