"""Result of `eigs` with an inverse, or with B: the pairs of A x = lambda B x from those of another operator.

    B^-1 A            theta = lambda
    (A - s B)^-1 B    theta = 1 / (lambda - s),    ||(A - s B)^-1 B x - theta x||  <=  tol |theta|

The residual of that operator decides whether a pair has converged. The residuals A x - lambda B x are recomputed, and
contradict it if one is above 100 tol (||A|| + |lambda| ||B||), as it is with a poor inverse.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.complexified import complex_matvec, is_real
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult, Status
from eigenjax.solvers.convergence.status import ROUNDING_FLOOR, tolerance
from eigenjax.solvers.pencil.quotient import InverseProduct, parts
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.pseudorandom import arbitrary_vector

# The residual of A exceeds that of the inverse by the share of other eigenvectors in it.
_SLACK = 100.0


def has_b(op: LinearOperator) -> bool:
    """Return whether an operator is B^-1 A."""
    return parts(op)[1] is not None


def inverse_product(op: LinearOperator, inverse: LinearOperator) -> LinearOperator:
    """Return (A - s B)^-1 B, or the inverse itself without B."""
    b = parts(op)[1]
    return inverse if b is None else InverseProduct(inverse, b)


def of_inverse(result: EigenResult, sigma: Any, tol: Any) -> EigenResult:
    """Return the eigenvalues s + 1 / theta, converged relative to their own |theta|.

    Args:
        result: pairs of (A - s B)^-1 B, with residuals.
        sigma: () s.
        tol: tolerance relative to |theta|, or `Tolerances`.
    """
    thetas, sizes = result.eigenvalues, jnp.abs(result.eigenvalues)
    own = result.converged & (result.residuals <= tolerance(tol, sizes.dtype, safe_divide(1, sizes)) * sizes)
    values = jnp.asarray(sigma).astype(thetas.dtype) + safe_divide(1, thetas, where=sizes > 0, otherwise=jnp.inf)
    stagnated = jnp.all(result.converged) & ~jnp.all(own)
    return result._replace(
        eigenvalues=values,
        converged=own,
        status=jnp.where(stagnated, jnp.int32(Status.STAGNATED), result.status),
        num_matvecs=jnp.int32(0),
        num_solves=result.num_matvecs,
    )


def with_true_residuals(op: LinearOperator, result: EigenResult, tol: Any, seed: jax.Array) -> EigenResult:
    """Return a result with the residuals A x - lambda B x, recomputed, and what they contradict.

    Args:
        op: A, or B^-1 A.
        result: pairs, with unit vectors.
        tol: tolerance of the solve, or `Tolerances`.
        seed: seed of a random vector, for lower bounds of ||A|| and ||B||.

    Cost: k + 1 matvecs with A and with B, 2 k + 1 if they are real.
    """
    (a, b, indefinite), values = parts(op), result.eigenvalues
    structure = tree.working_structure(a.structure)
    images = jax.lax.map(functools.partial(complex_matvec, a), result.eigenvectors)
    masses = result.eigenvectors
    if b is not None:
        masses = jax.lax.map(functools.partial(complex_matvec, b), result.eigenvectors)
    defect = lambda value, image, mass: tree.norm(tree.add_scaled(image, -value, mass))
    residuals = jax.vmap(defect)(values, images, masses)
    drawn = arbitrary_vector(seed, structure)
    size = lambda op, images: jnp.maximum(jnp.max(tree.norms(images)), tree.norm(matvec(op, drawn)) / tree.norm(drawn))
    scales = size(a, images) + (0.0 if b is None else size(b, masses) * jnp.abs(values))
    share = jnp.maximum(_SLACK * tolerance(tol, residuals.dtype, scales), ROUNDING_FLOOR * rounding_unit(op))
    is_small = residuals <= share * scales
    finite = jnp.all(jnp.isfinite(residuals))
    # B is only known to be indefinite by a failed factorization, which an inverse does without.
    failed = indefinite & (result.num_solves is None)
    contradicted = jnp.any(result.converged & ~is_small)
    status = jnp.select(
        [failed, ~finite, contradicted],
        [jnp.int32(code) for code in (Status.INCONSISTENT, Status.NONFINITE, Status.INCONSISTENT)],
        result.status,
    )
    products = (2 if is_real(a.structure) else 1) * values.shape[0] + 1
    return result._replace(
        residuals=residuals,
        converged=result.converged & is_small & finite & ~failed,
        status=status,
        num_matvecs=result.num_matvecs + jnp.int32(products),
    )
