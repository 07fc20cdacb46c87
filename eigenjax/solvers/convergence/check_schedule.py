"""Schedule of convergence checks: a check costs a small dense problem, a late check costs matvecs.

On an H100 a check takes as long as three to five steps of a basis of 10^6 components, and on a CPU as many steps of
some thousand. The longest wait therefore grows with the number of matvecs so far, up to 8. Twenty-four solves of six
spectra (n = 2000) make half as many checks as with 3, for at most 1.4% more matvecs, and mostly none. A solve of twenty
matvecs, like that of a network with a few outliers, is checked as often as before, because its matvecs are what costs.
"""

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import safe_divide

# The next check comes after this share of the steps that the current rate predicts, because convergence accelerates ...
_PATIENCE = 0.5
# ... and after at most this share of the matvecs so far, within these bounds.
_LONGEST_SHARE = 10
_SHORT_WAIT, _LONGEST_WAIT = 3, 8
# Rows after a check that shows no progress, at most, and the matvecs for each of them.
_WITHOUT_PROGRESS, _STALLED_SHARE = 3, 20


def rows_to_wait(
    before: jax.Array,
    distance: jax.Array,
    last: jax.Array,
    count: jax.Array,
    *,
    least: int = 1,
    most: int | None = None,
) -> jax.Array:
    """Return the number of rows to fill before the next convergence check, () int32.

    Args:
        before: () log(residual / bound) of the worst pair at the last convergence check; inf at first.
        distance: () the same logarithm at the current check.
        last: () int32, steps before the last check.
        count: () int32, steps so far.
        least: minimum of the rows, static.
        most: maximum of the rows, static; None follows from `count`.

    >>> print(rows_to_wait(jnp.float32(9.0), jnp.float32(4.0), jnp.int32(10), jnp.int32(15)))
    2
    """
    rate = (before - distance) / jnp.maximum(count - last, 1).astype(distance.dtype)
    is_converging = jnp.isfinite(rate) & (rate > 0)
    stalled = jnp.minimum(count // _STALLED_SHARE, _WITHOUT_PROGRESS)
    otherwise = jnp.where(jnp.isfinite(rate), stalled, least).astype(rate.dtype)
    expected = jnp.where(is_converging, safe_divide(_PATIENCE * distance, rate, where=is_converging), otherwise)
    longest = jnp.clip(count // _LONGEST_SHARE, _SHORT_WAIT, _LONGEST_WAIT) if most is None else most
    return jnp.clip(expected, least, jnp.maximum(longest, least).astype(rate.dtype)).astype(jnp.int32)
