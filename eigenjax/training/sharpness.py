"""Largest eigenvalue as a term of a loss.

    lambda(A) = max <v, A v> / <v, v>,      d lambda = <v, dA v>

The derivative needs only the eigenvector: no linear solve, one pull-back through one matvec. If A is the Hessian of a
network, this is a third derivative of the loss, taken once.
"""

from typing import Any

import jax

from eigenjax.arguments import check_bool, check_int
from eigenjax.calls import explained, prefixed
from eigenjax.implicit import eigsh
from eigenjax.operators.convert import as_operator
from eigenjax.operators.matrices import vector_of
from eigenjax.solvers.warm_start import example_vector


@explained
def sharpness_penalty(
    op: Any,
    *,
    v0: Any = None,
    key: jax.Array | None = None,
    tol: Any = None,
    max_matvecs: int | None = None,
    has_aux: bool = False,
    like: Any = None,
) -> Any:
    """Compute the largest eigenvalue of a symmetric operator, differentiable in the operator's arrays.

        d lambda = <v, dA v>

    Added to a loss with a positive factor, it penalizes sharp minima.

    Args:
        op: whatever `as_operator` takes, such as `hessian(loss, params, batch)`, as a function of the parameters.
        v0: start vector or, for a warm start, the second result of the previous step.
        key: typed key of the start vector if v0 is None.
        tol: the pair is converged when its residual is at most tol times the largest |Ritz value|; None is sqrt(eps) of
            the accumulation dtype. The error is about residual^2 / gap in the value, residual / gap in the gradient.
        max_matvecs: most matvecs of the solve, static; None is the larger of 2,000 and 10 min(n, 1000). A solve
            that ends early gives a Rayleigh quotient and approximately its gradient; `converged` of the second result
            is then False.
        has_aux: static; return the `EigenResult` too.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        () the eigenvalue; with has_aux, a pair of it and the `EigenResult`, which has no gradient.

    Raises:
        ValueError: if max_matvecs, tol or v0 does not fit.
        TypeError: if `op` is nothing that `as_operator` takes, or an option has the wrong type.

    Cost: the matvecs of the solve, about ten from a random start, two from a result that is still accurate. The
    gradient adds one matvec and its pull-back, about two matvecs more. A second derivative of the loss also needs the
    derivative of the vector, a linear solve.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matrix = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> value, slope = jax.value_and_grad(sharpness_penalty)(matrix)
        >>> print(value.round(4), slope.round(4).tolist())
        3.0 [[0.5, 0.5], [0.5, 0.5]]

    Source: Lancaster (1964), On eigenvalues of matrices dependent on a parameter.
    """
    check_bool("sharpness_penalty", "has_aux", has_aux)
    if max_matvecs is not None:
        max_matvecs = check_int("sharpness_penalty", "max_matvecs", max_matvecs)
    with prefixed("sharpness_penalty"):
        op = as_operator(op, like=example_vector(vector_of(v0)) if like is None else like)
        result = eigsh(op, 1, which="LA", tol=tol, max_matvecs=max_matvecs, v0=v0, key=key, verify=False)
    value = result.eigenvalues[0]
    return (value, jax.lax.stop_gradient(result)) if has_aux else value
