"""Problem: the loss, parameters and data whose curvature is analyzed, and loading a user's problem by name."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.curvature.modules import parameters_of
from eigenjax.report.inputs.errors import ReportError, in_one_line
from eigenjax.vectors.tree import PyTree


class History(NamedTuple):
    """Record of the loss and the curvature during training, at t steps of one run."""

    steps: Any
    """(t,) optimizer steps taken."""
    losses: Any
    """(t,) training losses."""
    eigenvalues: Any
    """(t,) largest eigenvalues of the Hessian."""
    learning_rate: float | None = None
    """Step size of plain gradient descent, stable while the largest eigenvalue is below 2 / learning_rate."""


class Problem(NamedTuple):
    """Loss, parameters and data, as returned by the function named in `python -m eigenjax spectrum --problem`.

    Example:
        >>> import jax.numpy as jnp
        >>> problem = Problem(lambda params: jnp.sum(params["w"] ** 4), {"w": jnp.ones(3)})
        >>> print(problem.loss(problem.params))
        3.0
    """

    loss: Callable[..., Any]
    """loss(params) -> scalar, or loss(params, data) -> scalar, the mean over the data's examples."""
    params: PyTree
    """Pytree of arrays, or a module of flax.nnx, whose `nnx.Param` vary."""
    data: PyTree = None
    """Pytree of arrays with a leading axis of examples; None for a loss of the parameters alone."""
    model: Callable[..., Any] | None = None
    """model(params, inputs) -> outputs, for the Gauss-Newton and Fisher matrices; the Hessian needs none."""
    loss_of_output: Callable[..., Any] | None = None
    """loss_of_output(outputs, targets) -> scalar mean, for the Gauss-Newton matrix."""
    history: History | None = None
    """Record of the training, drawn as the largest eigenvalue against the training step: a dict with the keys `steps`,
    `losses`, `eigenvalues` and, for plain gradient descent, `learning_rate`. None for no picture."""

    def arguments(self) -> tuple[PyTree, ...]:
        """Return the arguments of the loss: the parameters, and the data unless they are None."""
        return (self.params,) if self.data is None else (self.params, self.data)


def load_problem(name: str) -> Problem:
    """Call the function named `package.module:function`, which takes no arguments and returns a `Problem`.

    Args:
        name: name of the function; its module must be importable.

    Returns:
        The problem, after checking that its loss is a scalar.

    Raises:
        ReportError: if the name, the module, the function or its result is invalid.

    Example:
        >>> load_problem("json")
        Traceback (most recent call last):
        ...
        eigenjax.report.inputs.errors.ReportError: --problem json: expected package.module:function
        >>> load_problem("json:curvature")
        Traceback (most recent call last):
        ...
        eigenjax.report.inputs.errors.ReportError: --problem json:curvature: module json has no function curvature
    """
    problem = _call(_find(name), name)
    if not isinstance(problem, Problem):
        raise ReportError(
            f"--problem {name}: expected the function to return eigenjax.Problem(loss, params, data), and got "
            f"{type(problem).__name__}"
        )
    try:
        problem = problem._replace(history=_as_history(problem.history))
        check_problem(problem)
    except ReportError as error:
        raise ReportError(f"--problem {name}: {error}") from error
    # A module of flax.nnx, or a pytree with leaves that are not arrays: its arrays are the parameters.
    params, loss = parameters_of(problem.params, problem.loss)
    model = None if problem.model is None else parameters_of(problem.params, problem.model)[1]
    functions = {"loss": loss, "model": model, "loss_of_output": problem.loss_of_output}
    return problem._replace(params=params, **{part: _hashable(function) for part, function in functions.items()})


def _hashable(function: Callable | None) -> Callable | None:
    """Wrap a function that has no hash, because compiled programs are cached by the hash of their functions."""
    try:
        hash(function)
    except TypeError:
        assert function is not None
        return functools.partial(function)
    return function


def check_problem(problem: Problem) -> None:
    """Raise an error for a problem whose loss is not one floating-point number; costs one abstract trace.

    >>> check_problem(Problem(lambda w: 2 * w, jnp.ones(3)))
    Traceback (most recent call last):
    ...
    eigenjax.report.inputs.errors.ReportError: the loss must return one number, and returns an array of shape (3,)
    """
    if not callable(problem.loss):
        raise ReportError(f"the loss must be a function, and is a {type(problem.loss).__name__}")
    num_parameters(problem.params)
    num_examples(problem.data)
    for name in ("model", "loss_of_output"):
        function = getattr(problem, name)
        if function is not None and not callable(function):
            raise ReportError(f"{name} must be a function or None, and is a {type(function).__name__}")
    if problem.history is not None:
        _check_history(problem.history)
    try:
        value = jax.eval_shape(problem.loss, *problem.arguments())
    except Exception as error:
        raise ReportError(f"the loss cannot be evaluated: {in_one_line(error)}") from error
    if getattr(value, "shape", None) != ():
        given = f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise ReportError(f"the loss must return one number, and returns {given}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ReportError(f"the loss must return a floating-point number, and returns {value.dtype}")


def _as_history(history: Any) -> Any:
    """Convert a dict to a `History`."""
    if not isinstance(history, dict):
        return history
    try:
        return History(**history)
    except TypeError as error:
        raise ReportError(
            f"history has the keys {sorted(map(str, history))}: give steps, losses, eigenvalues, and learning_rate if "
            "there is one"
        ) from error


def _check_history(history: Any) -> None:
    if not isinstance(history, History):
        raise ReportError(
            f"history must be a dict of steps, losses and eigenvalues, or None, and is a {type(history).__name__}"
        )
    lengths = set()
    for name in ("steps", "losses", "eigenvalues"):
        try:
            values = np.asarray(getattr(history, name), np.float64)
        except (TypeError, ValueError):
            raise ReportError(f"history.{name} must be (t,) numbers") from None
        if values.ndim != 1 or not values.size:
            raise ReportError(f"history.{name} must be (t,) numbers, and has the shape {values.shape}")
        lengths.add(len(values))
    if len(lengths) > 1:
        raise ReportError(f"steps, losses and eigenvalues of history must be as many, and are {sorted(lengths)}")
    rate = history.learning_rate
    if rate is not None and not (isinstance(rate, int | float | np.number) and 0 < rate < np.inf):
        raise ReportError(f"history.learning_rate must be a positive number or None, and is {rate!r}")


def num_parameters(params: PyTree) -> int:
    """Count the floating-point numbers in the parameters: the dimension of the Hessian.

    >>> num_parameters({"kernel": jnp.ones((2, 3)), "steps": jnp.zeros((), int)})
    6
    """
    try:
        leaves = [(jnp.result_type(leaf), np.size(leaf)) for leaf in jax.tree.leaves(params)]
    except (TypeError, ValueError) as error:
        raise ReportError("params must be a pytree of arrays") from error
    size = sum(size for dtype, size in leaves if jnp.issubdtype(dtype, jnp.inexact))
    if size == 0:
        raise ReportError("params hold no floating-point numbers")
    return size


def num_examples(data: PyTree) -> int | None:
    """Return the length of the leading axis that all arrays of the data share; None without data.

    >>> num_examples((jnp.ones((5, 2)), jnp.zeros(5, int))), num_examples(None)
    (5, None)
    """
    if data is None:
        return None
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or None in lengths or 0 in lengths:
        raise ReportError(f"all arrays of data must share a leading axis of examples, and have the shapes {shapes}")
    return lengths.pop()


def batches_of(data: PyTree, batch_size: int | None) -> Iterator[PyTree]:
    """Yield consecutive batches of the data, the last one possibly smaller; all data if batch_size is None.

    >>> [len(batch) for batch in batches_of(jnp.ones((5, 2)), 2)], list(batches_of(None, 2))
    ([2, 2, 1], [None])
    """
    count = num_examples(data)
    if count is None or batch_size is None:
        yield data
        return
    for start in range(0, count, batch_size):
        yield jax.tree.map(lambda leaf: leaf[start : start + batch_size], data)  # noqa: B023, called at once


def _find(name: str) -> Callable:
    module_name, separator, function_name = name.partition(":")
    if not (module_name and separator and function_name):
        raise ReportError(f"--problem {name}: expected package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The message names the module that is missing: this one, or one that it imports.
        raise ReportError(f"--problem {name}: {error}") from error
    except Exception as error:
        raise ReportError(f"--problem {name}: importing {module_name} failed: {in_one_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ReportError(f"--problem {name}: module {module_name} has no function {function_name}")
    return function


def _call(function: Callable, name: str) -> Any:
    if not _takes_no_arguments(function):
        raise ReportError(f"--problem {name}: the function must take no arguments, and has required ones")
    try:
        return function()
    except Exception as error:
        raise ReportError(f"--problem {name}: the function failed: {in_one_line(error)}") from error


def _takes_no_arguments(function: Callable) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
