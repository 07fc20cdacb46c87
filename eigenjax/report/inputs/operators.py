"""Operators of a problem by name: the Hessian, the Gauss-Newton matrix or the Fisher information matrix."""

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.curvature.fisher import fisher
from eigenjax.operators.curvature.gauss_newton import gauss_newton
from eigenjax.operators.curvature.hessian import hessian
from eigenjax.report.inputs.errors import ReportError, in_one_line
from eigenjax.report.inputs.problem import Problem

NAMES = {
    "hessian": "Hessian",
    "gauss-newton": "Gauss-Newton matrix",
    "fisher": "Fisher information matrix",
}


def operator_of(problem: Problem, name: str = "hessian", *, batch_size: int | None = None) -> LinearOperator:
    """Build the operator with the given name, and trace one matvec abstractly to check it.

    Args:
        problem: the loss, parameters and data. The Fisher and Gauss-Newton matrices also need a model, the
            Gauss-Newton matrix a loss of its outputs.
        name: "hessian", "gauss-newton" or "fisher". The Fisher matrix is the exact one, with a categorical
            likelihood for integer targets and a Gaussian likelihood otherwise.
        batch_size: examples at a time; None for all at once.

    Returns:
        The operator.

    Raises:
        ReportError: if the problem lacks a part that the operator needs, or the matvec cannot be traced.

    Example:
        >>> import jax.numpy as jnp
        >>> data = (jnp.ones((2, 1)), jnp.ones(2))
        >>> problem = Problem(lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2), jnp.ones(1), data)
        >>> print(operator_of(problem)(jnp.ones(1)))
        [2.]
        >>> operator_of(problem, "fisher")
        Traceback (most recent call last):
        ...
        eigenjax.report.inputs.errors.ReportError: --operator fisher: the problem has no model: ...
    """
    lacks = lacking(problem, name)
    if lacks:
        raise ReportError(
            f"--operator {name}: the problem has no {lacks}: let the function return "
            "eigenjax.Problem(loss, params, (inputs, targets), model, loss_of_output)"
        )
    try:
        op = _operator(problem, name, batch_size)
        jax.eval_shape(op, op.structure)
    except Exception as error:
        raise ReportError(f"the {NAMES[name]} of this loss cannot be taken: {in_one_line(error)}") from error
    return op


def lacking(problem: Problem, name: str) -> str | None:
    """Name the part of the problem that the operator needs and the problem lacks; None if it has all."""
    if name == "hessian":
        return None
    if problem.model is None:
        return "model"
    if name == "gauss-newton" and problem.loss_of_output is None:
        return "loss_of_output"
    is_pair = isinstance(problem.data, list | tuple) and len(problem.data) == 2
    return None if is_pair else "data that are a pair (inputs, targets)"


def likelihood_of(problem: Problem) -> str:
    """Choose the likelihood of the Fisher matrix: categorical for integer targets, else Gaussian with unit variance."""
    targets = jax.tree.leaves(problem.data[1])
    is_label = all(jnp.issubdtype(jnp.result_type(leaf), jnp.integer) for leaf in targets)
    return "categorical" if is_label else "gaussian"


def _operator(problem: Problem, name: str, batch_size: int | None) -> LinearOperator:
    if name == "hessian":
        return hessian(problem.loss, problem.params, problem.data, batch_size=batch_size)
    assert problem.model is not None
    inputs, targets = problem.data
    if name == "fisher":
        likelihood = likelihood_of(problem)
        model, data = problem.model, (inputs, targets)
        return fisher(model, problem.params, data, likelihood=likelihood, batch_size=batch_size)
    assert problem.loss_of_output is not None
    return gauss_newton(problem.model, problem.loss_of_output, problem.params, (inputs, targets), batch_size=batch_size)
