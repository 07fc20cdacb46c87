"""Check that a problem is finite at its parameters; otherwise its Hessian has no eigenvalues."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.report.inputs.errors import ReportError, in_one_line
from eigenjax.report.inputs.problem import Problem, batches_of
from eigenjax.vectors.tree import PyTree

# Number of nonfinite arrays that an error message names.
_NAMED = 3


def check_finite(problem: Problem, *, batch_size: int | None = None) -> None:
    """Raise an error if the parameters, or the loss or its gradient at them, are not finite.

    Data may contain NaN or Inf that the loss masks. They are named only if the loss or its gradient is not finite.

    Args:
        problem: the loss, parameters and data, with arrays as leaves.
        batch_size: examples at a time; None for all at once.

    Raises:
        ReportError: names what is not finite.

    Cost: one evaluation of the loss and its gradient.

    Example:
        >>> check_finite(Problem(lambda w: jnp.sum(jnp.log(w)), jnp.array([1.0, 0.0])))
        Traceback (most recent call last):
        ...
        eigenjax.report.inputs.errors.ReportError: the loss is -inf at the parameters: its derivatives are no ...
    """
    found = list(_not_finite(problem.params, "params"))
    if found:
        raise ReportError(
            f"{_named(found)}: give the parameters of a training that did not diverge, within the range of --dtype"
        )
    # Override JAX's debugging settings: here a NaN must be reported, not raised.
    with jax.debug_nans(False), jax.debug_infs(False):
        for place, batch in enumerate(batches_of(problem.data, batch_size)):
            among = "" if batch_size is None else f" of examples {place * batch_size} and following"
            _check_batch(problem, batch, among)


def _check_batch(problem: Problem, batch: PyTree, among: str) -> None:
    try:
        loss, gradient = jax.device_get(_loss_and_gradient(problem.loss, problem.params, batch))
    except Exception as error:
        raise ReportError(f"the gradient of the loss cannot be evaluated: {in_one_line(error)}") from error
    if not np.isfinite(loss):
        problem_is = f"the loss{among} is {loss:.4g} at the parameters"
    else:
        found = list(_not_finite(gradient, "gradient of the loss with respect to params"))
        if not found:
            return
        problem_is = f"the loss{among} is {loss:.4g} at the parameters, but {_named(found)}"
    in_data = list(_not_finite(batch, "data"))
    cause = f"; {_named(in_data)}" if in_data else ""
    raise ReportError(f"{problem_is}{cause}: its derivatives are no numbers, so check the loss, params and data")


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_gradient(loss: Callable, params: PyTree, batch: PyTree) -> tuple[jax.Array, PyTree]:
    arguments = (params,) if batch is None else (params, batch)
    value, gradient = jax.value_and_grad(loss, allow_int=True)(*arguments)
    # Derivatives with respect to integers have dtype float0, which a compiled program cannot return.
    return value, jax.tree.map(lambda g: None if g.dtype == jax.dtypes.float0 else g, gradient)


def _not_finite(tree: PyTree, name: str) -> Iterator[str]:
    """Yield, for each leaf with nonfinite numbers, a clause with their count and the first of them."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        bad = np.asarray(~jnp.isfinite(leaf))
        if bad.any():
            first = np.asarray(leaf).astype(complex)[bad][0]
            leaf_name = name + jax.tree_util.keystr(path)
            yield f"{bad.sum()} of {bad.size} numbers of {leaf_name} are not finite ({_number_text(first)})"


def _number_text(number: Any) -> str:
    return str(float(number.real)) if number.imag == 0 or np.isnan(number.real) else str(complex(number))


def _named(found: list[str]) -> str:
    more = f", and so in {len(found) - _NAMED} more arrays" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
