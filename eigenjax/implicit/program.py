"""How a solver becomes one compiled program: its options sorted into static ones and arrays.

A program is compiled once per operator type, shape and static options, and its derivative rule takes two arguments:
the operator, and the options that are arrays.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.core import Tracer

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.matrices import vector_of
from eigenjax.operators.options import plain_int
from eigenjax.solvers.warm_start import example_vector

# Options that are arrays, and so arguments of the compiled program; all others are static.
_TRACED = ("tol", "momentum", "sigma", "v0", "key", "preconditioner", "adjoint_tol")
# What every differentiable solver takes more than the solver does, and the defaults.
_LIKE = "like"
_OF_THE_DERIVATIVE = {"derivative": "reverse", "adjoint_tol": None, "adjoint_max_iter": None}
_SERVES = {"reverse": "jax.grad, to any order", "forward": "jvp, jacfwd, jax.hessian and jax.grad"}


class Method(NamedTuple):
    """A solver and its static options: what a compiled program is specific to."""

    solver: Callable[..., Any]
    knowing: Callable[..., tuple[Any, Any]] | None
    options: tuple[tuple[str, Any], ...]
    kinds: tuple[type, ...]
    adjoint_max_iter: int | None
    chosen: str | None  # how the pairs are chosen, by `which`; None where a number says so, or nothing is known

    def solve(self, op: Any, traced: dict[str, Any]) -> Any:
        """Runs the solver; what it does inside is not looked at."""
        options = {name: value for name, value in traced.items() if name not in _OF_THE_DERIVATIVE}
        return self.solver(op, **dict(self.options), **options)

    def solve_and_keep(self, op: Any, traced: dict[str, Any]) -> tuple[Any, Any]:
        """Likewise, and what the solver knows besides; None where it has nothing to tell."""
        if self.knowing is None:
            return self.solve(op, traced), None
        return self._replace(solver=self.knowing).solve(op, traced)


class Bound(NamedTuple):
    """A call of a differentiable solver, sorted."""

    method: Method
    derivative: str
    op: Any
    traced: dict[str, Any]


def square(op: Any, options: dict[str, Any]) -> LinearOperator:
    """The operator of a solver of eigenproblems."""
    like = options.pop("like", None)
    return as_operator(op, like=example_vector(options.get("v0")) if like is None else like)


def bind(
    solver: Callable[..., Any],
    op: Any,
    args: tuple,
    options: dict[str, Any],
    *,
    knowing: Callable[..., tuple[Any, Any]] | None = None,
    take: Callable[[Any, dict[str, Any]], Any] = square,
) -> Bound:
    """Sorts what a solver was called with.

    Args:
        solver: `solver(op, ...)`.
        op: of the call.
        args: of the call, those after the operator.
        options: of the call, those of the derivative among them.
        knowing: of the same options, all of them given: what the solver returns, and what it knows besides.
        take: (op, options of the solver) -> the operator as a pytree; it may take options away.

    Raises:
        ValueError: if `derivative` is unknown, or adjoint_max_iter less than one.
        TypeError: if an option that has to be static is traced.
    """
    of_the_derivative = {name: plain_int(options.pop(name, default)) for name, default in _OF_THE_DERIVATIVE.items()}
    derivative, adjoint_tol, adjoint_max_iter = of_the_derivative.values()
    if derivative not in _SERVES:
        choices = " or ".join(f"{name!r} ({serves})" for name, serves in _SERVES.items())
        raise ValueError(f"derivative={derivative!r}: choose {choices}")
    check_max_iter(adjoint_max_iter)
    like = options.pop(_LIKE, None)
    arguments = inspect.signature(solver).bind(op, *args, **options)
    # Defaults filled in, so that an option left out and the same one given are one program.
    arguments.apply_defaults()
    bound = arguments.arguments
    if "v0" in bound:
        bound["v0"] = vector_of(bound["v0"])
    bound[_LIKE] = like
    op = take(bound.pop("op"), bound)
    traced = {name: bound.pop(name, None) for name in _TRACED if name in bound} | {"adjoint_tol": adjoint_tol}
    static = tuple((name, _static(name, value)) for name, value in sorted(bound.items()))
    # With their types: True is 1 to a cache of programs, and 2.0 is 2, but not to a solver's checks.
    kinds = tuple(type(value) for _, value in static)
    if traced.get("preconditioner") is not None:
        traced["preconditioner"] = as_operator(traced["preconditioner"], like=op.structure)
    chosen = dict(static).get("which") if traced.get("sigma") is None else None
    return Bound(Method(solver, knowing, static, kinds, adjoint_max_iter, chosen), derivative, op, traced)


def signature(solver: Callable[..., Any]) -> inspect.Signature:
    """That of the solver made differentiable."""
    own = inspect.signature(solver)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {_LIKE: None, **_OF_THE_DERIVATIVE}.items()
    ]
    return own.replace(parameters=[*own.parameters.values(), *extra])


def check_max_iter(adjoint_max_iter: Any) -> None:
    """Raises an error unless it is a positive int or None."""
    if adjoint_max_iter is None:
        return
    if not isinstance(adjoint_max_iter, int) or isinstance(adjoint_max_iter, bool):
        raise TypeError(f"adjoint_max_iter={adjoint_max_iter!r}: give an int, or None; it is static under jit")
    if adjoint_max_iter < 1:
        raise ValueError(f"adjoint_max_iter={adjoint_max_iter}: give 1 or more, or None")


def _static(name: str, value: Any) -> Any:
    if isinstance(value, Tracer):
        raise TypeError(f"{name} is traced, and must be known when the program is compiled: give a Python value")
    return plain_int(value)
