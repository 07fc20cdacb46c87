"""What is told of the linear solves of a reverse pass, whatever the problem they belong to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing

# What a recurrence says of its residual and the true one differ by a few units of rounding.
_ROUNDING = 100.0


class AdjointInfo(NamedTuple):
    """What is known of the linear solves of one reverse pass."""

    converged: jax.Array
    """(k,) bool: the system was solved as well as asked. Whether the pair is good is result.converged."""
    residuals: jax.Array
    """(k,) recomputed, on the complement, of `eigsh` ||P xbar_i - P (lambda_i - A) P z_i||, over ||xbar_i||
    (of `eigs`, whose right-hand sides grow with the condition of the eigenvalue: over these); 0 where that is zero."""
    targets: jax.Array
    """(k,) what they were asked to be; where it is an error that was asked for, what that comes to."""
    num_matvecs: jax.Array
    """() int32, products of the solves, of the systems that had not converged by then. Of `svds` those with A and A^H
    together, of `eigs` those with A^H, two for a complex vector of a real operator."""
    num_steps: jax.Array
    """() int32, of the system that took most: how often k products were made at once, where all go side by side."""
    gauge: jax.Array
    """() `gauge_residual`: how much of the cotangent was dropped because no derivative exists."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("residuals")


def judged(
    misses: jax.Array,
    *,
    whole: jax.Array,
    targets: jax.Array,
    reach: jax.Array,
    steps: jax.Array,
    products: int,
    gauge: jax.Array,
) -> AdjointInfo:
    """The information about k systems.

    Args:
        misses: (k,) recomputed residuals.
        whole: (k,) norms that they are small beside.
        targets: (k,) what they were asked to be, all three in the same units.
        reach: (k,) the norm of the operator times that of the solution.
        steps: (k,) of each system.
        products: that a step makes.
        gauge: () what was dropped.
    """
    attainable = _ROUNDING * jnp.finfo(whole.dtype).eps * (whole + reach)
    relative = lambda x: jnp.where(whole > 0, x / jnp.where(whole > 0, whole, 1), 0)
    return AdjointInfo(
        # NaN compares False.
        converged=misses <= jnp.maximum(targets, attainable),
        residuals=relative(misses),
        targets=relative(targets),
        num_matvecs=jnp.sum(products * steps, dtype=jnp.int32),
        num_steps=jnp.max(steps),
        gauge=gauge,
    )
