"""Result of `eigs` with an inverse: the pairs of A from those of (A - s)^-1.

    theta = 1 / (lambda - s),    ||(A - s)^-1 x - theta x||  <=  tol |theta|

decides whether a pair has converged. The residuals A x - lambda x are recomputed, and contradict it if one is above
100 tol ||A||, as it is with a poor inverse.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.complexified import on_complex
from eigenjax.result import EigenResult, Status
from eigenjax.solvers.convergence.residuals import rounding_unit
from eigenjax.solvers.convergence.status import ROUNDING_FLOOR, tolerance
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.pseudorandom import arbitrary_vector

# The residual of A exceeds that of the inverse by the share of other eigenvectors in it.
_SLACK = 100.0


def of_inverse(op: LinearOperator, result: EigenResult, sigma: Any, tol: Any, seed: jax.Array) -> EigenResult:
    """Return the result of an operator from that of its shifted inverse.

    Args:
        op: A.
        result: pairs of (A - s)^-1, with residuals.
        sigma: () s, real.
        tol: tolerance relative to |theta|, or `Tolerances`.
        seed: seed of a random vector, for a lower bound of ||A||.
    """
    thetas, sizes = result.eigenvalues, jnp.abs(result.eigenvalues)
    own = result.converged & (result.residuals <= tolerance(tol, sizes.dtype, safe_divide(1, sizes)) * sizes)
    values = jnp.asarray(sigma).astype(thetas.dtype) + safe_divide(1, thetas, where=sizes > 0, otherwise=jnp.inf)
    structure = tree.working_structure(op.structure)
    multiply = on_complex(lambda v: matvec(op, v), structure)
    images = jax.lax.map(multiply, result.eigenvectors)
    defect = lambda value, image, x: tree.norm(tree.add_scaled(image, -value, x))
    residuals = jax.vmap(defect)(values, images, result.eigenvectors)
    drawn = arbitrary_vector(seed, structure)
    norm_estimate = jnp.maximum(jnp.max(tree.norms(images)), tree.norm(matvec(op, drawn)) / tree.norm(drawn))
    share = jnp.maximum(_SLACK * tolerance(tol, sizes.dtype, norm_estimate), ROUNDING_FLOOR * rounding_unit(op))
    is_small = residuals <= share * norm_estimate
    finite = jnp.all(jnp.isfinite(residuals))
    stagnated = jnp.all(result.converged) & ~jnp.all(own)
    status = jnp.select(
        [~finite, jnp.any(own & ~is_small), stagnated],
        [jnp.int32(code) for code in (Status.NONFINITE, Status.INCONSISTENT, Status.STAGNATED)],
        result.status,
    )
    parts = 1 if jnp.issubdtype(tree.accumulation_dtype(structure), jnp.complexfloating) else 2
    return result._replace(
        eigenvalues=values,
        residuals=residuals,
        converged=own & is_small & finite,
        status=status,
        num_matvecs=jnp.int32(parts * values.shape[0] + 1),
        num_solves=result.num_matvecs,
    )
