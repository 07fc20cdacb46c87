"""What a differentiable solver is compiled for: its arguments, told apart into the static and the traced ones."""

import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.core import Tracer

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.warm_start import example_vector

ADJOINT_OPTIONS = ("adjoint_tol", "adjoint_max_iter")


class Method(NamedTuple):
    """A solver and its static options: what a compiled program is specific to."""

    solver: Callable[..., EigenResult]
    options: tuple[tuple[str, Any], ...]
    kinds: tuple[type, ...]
    adjoint_max_iter: int | None


def bound(
    solver: Callable[..., EigenResult],
    traced_names: tuple[str, ...],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> tuple[Method, LinearOperator, dict[str, Any]]:
    """The method, the operator and the traced options of one call.

    Args:
        solver: `solver(op, k, **options)`.
        traced_names: options that are arrays, and so arguments of the compiled program; all others are static.
        arguments: of the call, the operator first.
        options: of the call, those of the adjoint solve among them.
    """
    own = {name: value for name, value in options.items() if name not in ADJOINT_OPTIONS}
    signature = inspect.signature(solver).bind(*arguments, **own)
    # Defaults filled in, so that an option left out and the same one given are one program.
    signature.apply_defaults()
    values = signature.arguments
    op = values.pop("op")
    traced = {name: values.pop(name) for name in traced_names if name in values}
    traced["adjoint_tol"] = options.get("adjoint_tol")
    static = tuple((name, _static(name, value)) for name, value in sorted(values.items()))
    # With their types: True is 1 to a cache of programs, and 2.0 is 2, but not to a solver's checks.
    kinds = tuple(type(value) for _, value in static)
    op = as_operator(op, like=example_vector(traced.get("v0")))
    return Method(solver, static, kinds, options.get("adjoint_max_iter")), op, traced


def run(method: Method, op: LinearOperator, traced: dict[str, Any]) -> EigenResult:
    """Calls the solver."""
    options = {name: value for name, value in traced.items() if name not in ADJOINT_OPTIONS}
    return method.solver(op, **dict(method.options), **options)


def signature_with_adjoint_options(solver: Callable[..., EigenResult]) -> inspect.Signature:
    """That of the differentiable solver."""
    signature = inspect.signature(solver)
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ADJOINT_OPTIONS]
    return signature.replace(parameters=[*signature.parameters.values(), *extra])


def _static(name: str, value: Any) -> Any:
    if isinstance(value, Tracer):
        raise TypeError(f"{name} is traced, and must be known when the program is compiled: give a Python value")
    return operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value
