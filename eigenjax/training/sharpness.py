"""The largest eigenvalue as a term of a loss.

    lambda(A) = max <v, A v> / <v, v>,      d lambda = <v, dA v>

The derivative needs the vector and nothing else: no linear solve, one pull-back through one product. Where A is the
Hessian of a network, that is a third derivative of the loss, taken once.
"""

from typing import Any

import jax

from eigenjax.arguments import check_bool, check_int, plain_int
from eigenjax.calls import explained
from eigenjax.implicit import eigsh
from eigenjax.operators.checks import prefixed
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
    """The largest eigenvalue of a symmetric operator, differentiable in the operator's arrays.

        d lambda = <v, dA v>

    Add it to a loss, times a number: gradient descent then looks for flatter ground.

    Args:
        op: whatever `as_operator` takes; such as `hessian(loss, params, batch)`, of the parameters that are varied.
        v0: where to start: a vector or, for a warm start, the second result of the step before.
        key: typed key of the start vector, where there is no v0.
        tol: of the pair, as in `eigsh`. The value is right to the square of the residual over the gap, the gradient
            to the residual over the gap.
        max_matvecs: products of the solve at most, static; None is what `eigsh` allows. A solve cut short gives the
            value and about the gradient of a Rayleigh quotient; it says so in `converged` of the second result.
        has_aux: static; gives the solve too.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        () the eigenvalue; with has_aux, the pair of it and the `EigenResult`, through which no gradient flows.

    Raises:
        ValueError, TypeError: as `eigsh`.

    Cost: the products of the solve (about ten cold, two of a result that still holds), and backwards one product and
    its pull-back, about two products more. Where the loss with it is differentiated once more, the derivative of the
    vector comes in: a linear solve.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matrix = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> value, slope = jax.value_and_grad(sharpness_penalty)(matrix)
        >>> print(value.round(4), slope.round(4).tolist())
        3.0 [[0.5, 0.5], [0.5, 0.5]]

    Source: Lancaster (1964), On eigenvalues of matrices dependent on a parameter.
    """
    check_bool("sharpness_penalty", "has_aux", has_aux)
    max_matvecs = plain_int(max_matvecs)
    if max_matvecs is not None:
        check_int("sharpness_penalty", "max_matvecs", max_matvecs)
    with prefixed("sharpness_penalty"):
        op = as_operator(op, like=example_vector(vector_of(v0)) if like is None else like)
        result = eigsh(op, 1, which="LA", tol=tol, max_matvecs=max_matvecs, v0=v0, key=key, verify=False)
    value = result.eigenvalues[0]
    return (value, jax.lax.stop_gradient(result)) if has_aux else value
