"""Convergence information of the linear solves of a reverse pass, common to all problems."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.vectors.arithmetic import safe_divide

# The residual of a recurrence and the true one differ by less than this times eps.
_ATTAINABLE_ROUNDING = 100.0


class AdjointInfo(NamedTuple):
    """Convergence information of the linear solves of one reverse pass.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import adjoint_info, eigsh
        >>> matrix = jnp.diag(jnp.arange(400.0))
        >>> result = eigsh(matrix, 2)
        >>> print(adjoint_info(matrix, result, jnp.ones((2, 400))).converged)
        [ True  True]
    """

    converged: jax.Array
    """(k,) bool: the system was solved to its target. The accuracy of the pair is result.converged."""
    residuals: jax.Array
    """(k,) true residuals on the complement: ||P xbar_i - P (lambda_i - A) P z_i|| / ||xbar_i|| for `eigsh`. For `eigs`
    they are relative to the right-hand sides, which grow with the condition of the eigenvalue. 0 if the denominator is
    zero."""
    targets: jax.Array
    """(k,) targets of these residuals; a target for an error is converted into one for the residual."""
    num_matvecs: jax.Array
    """() int32, matvecs of the solves, without those of systems that had converged already. For `svds` those with A and
    A^H together; for `eigs` those with A^H, two for a complex vector of a real operator."""
    num_steps: jax.Array
    """() int32, steps of the slowest system: the number of block matvecs if all systems are solved simultaneously."""
    gauge: jax.Array
    """() `gauge_residual`: the part of the cotangent that is dropped because no derivative exists."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("residuals")


def solve_info(
    residual_norms: jax.Array,
    *,
    whole: jax.Array,
    targets: jax.Array,
    reach: jax.Array,
    steps: jax.Array,
    matvecs_per_step: int,
    gauge: jax.Array,
) -> AdjointInfo:
    """Build the convergence information of k systems.

    Args:
        residual_norms: (k,) norms of the true residuals.
        whole: (k,) norms that residuals and targets are divided by.
        targets: (k,) targets of the residuals, in the units of `residual_norms` and `whole`.
        reach: (k,) norm of the operator times that of the solution.
        steps: (k,) number of steps of each system.
        matvecs_per_step: number of matvecs per step.
        gauge: () the dropped part of the cotangent.
    """
    attainable = _ATTAINABLE_ROUNDING * jnp.finfo(whole.dtype).eps * (whole + reach)
    relative = lambda x: safe_divide(x, whole, otherwise=0)
    return AdjointInfo(
        # NaN compares False: not converged.
        converged=residual_norms <= jnp.maximum(targets, attainable),
        residuals=relative(residual_norms),
        targets=relative(targets),
        num_matvecs=jnp.sum(matvecs_per_step * steps, dtype=jnp.int32),
        num_steps=jnp.max(steps),
        gauge=gauge,
    )
