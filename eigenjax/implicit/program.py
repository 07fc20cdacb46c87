"""Options of a call of a solver, checked and sorted into static ones and arrays.

A program is compiled once per operator type, shape and static options. Its derivative rule takes two arguments: the
operator, and the options that are arrays. The solver's signature annotates these options with `TRACED`.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from jax.core import Tracer

from eigenjax import arguments, calls
from eigenjax.calls import prefixed
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.convert import operator_of
from eigenjax.operators.matrices import vector_of
from eigenjax.operators.packed import PackedOperator, packed_operator
from eigenjax.solvers.warm_start import example_vector, packed_start

# Options that `differentiable` adds to those of the solver, and their defaults.
_LIKE = "like"
_DERIVATIVE_OPTIONS = {"derivative": "reverse", "adjoint_tol": None, "adjoint_max_iter": None}
_CHECKS = (
    ("tol", 0.0, "give a number from 0 up, or None for the square root of the rounding"),
    ("adjoint_tol", 0.0, "give a number from 0 up, or None for what the residuals are worth"),
    ("atol", 0.0, "give a number from 0 up, in units of the eigenvalues"),
    ("sigma", None, "give one finite {kind}number, the one that eigenvalues are wanted near; jax.vmap takes several"),
    ("momentum", None, "give one finite real number, such as 0.25 times the square of the next eigenvalue"),
)
# Solvers whose eigenvalues are complex, so that sigma may be.
_COMPLEX_SIGMA = ("eigs",)
# Options that are operators on the same vectors.
_PARTNERS = {"preconditioner": "M^-1", "inverse": "(A - sigma)^-1"}
_NUMBERS = tuple(name for name, *_ in _CHECKS)
_STATIC_REMEDY = "give a Python value that can be hashed; it is static under jit"
_TRANSFORMS = {"reverse": "jax.grad, to any order", "forward": "jvp, jacfwd, jax.hessian and jax.grad"}


class Rule(NamedTuple):
    """Derivative of one kind of problem, as functions; `differentiable` registers it with JAX."""

    take: Callable[..., Any]  # (op, options) -> the operator as a pytree; it may remove options
    pack: Callable[..., Any]  # (op, traced) -> both, on packed vectors
    save: Callable[..., Any]  # (method, op, solved, adjoint_tol) -> what the derivative needs of the solution
    cotangent: Callable[..., Any]  # (method, saved, cotangent of the result) -> cotangent of the operator
    tangent: Callable[..., Any]  # (method, saved, tangent of the operator) -> tangents of fields; None is zero
    finish: Callable[..., Any]  # (method, op, traced, result) -> result with its phases, unpacked


class Method(NamedTuple):
    """Solver with its static options: the key of a compiled program."""

    solver: Callable[..., Any]  # the solver
    rule: Rule  # its derivative
    recycles: bool  # whether the solver returns recycled Ritz pairs too, as `WithRecycled`
    options: tuple[tuple[str, Any], ...]  # static options, sorted by name
    kinds: tuple[type, ...]  # their types
    adjoint_max_iter: int | None  # maximal number of matvecs of a linear system for one pair; None is the default
    chosen: str | None  # the `which` of the solve; None if there is a sigma or no `which`

    def solve(self, op: Any, traced: dict[str, Any], keep_recycled: bool) -> WithRecycled:
        """Run the solver, a black box; return its result, with the recycled Ritz pairs if `keep_recycled`."""
        options = {name: value for name, value in traced.items() if name not in _DERIVATIVE_OPTIONS}
        solved = self.solver(op, **dict(self.options), **options)
        if not self.recycles:
            return WithRecycled(solved, None)
        return solved if keep_recycled else solved._replace(recycled=None)


class Bound(NamedTuple):
    """Call of a differentiable solver with its arguments sorted."""

    method: Method  # the solver and its static options
    derivative: str  # "reverse" or "forward"
    op: Any  # the operator, a pytree
    traced: dict[str, Any]  # the options that are arrays, by name


def square(op: Any, options: dict[str, Any]) -> LinearOperator:
    """Convert the first argument of an eigensolver to an operator."""
    like = options.pop("like", None)
    return operator_of(op, example_vector(options.get("v0")) if like is None else like)


def pack_square(op: LinearOperator, traced: dict[str, Any]) -> tuple[LinearOperator, dict[str, Any]]:
    """Convert the operator and the array options of an eigensolver to packed vectors."""
    packed_op = packed_operator(op, traced)
    if not isinstance(packed_op, PackedOperator):
        return op, traced
    traced = traced | {"v0": _packed_start(packed_op, traced["v0"])}
    wrap = lambda given: None if given is None else PackedOperator(given, packed_op.packing)
    return packed_op, traced | {name: wrap(traced[name]) for name in _PARTNERS if name in traced}


_packed_start = jax.jit(packed_start)


def bind(solver: Callable[..., Any], rule: Rule, recycles: bool, args: tuple, options: dict[str, Any]) -> Bound:
    """Check and sort the arguments of a call of a differentiable solver.

    Args:
        solver: `solver(op, ...)`.
        rule: its derivative.
        recycles: the solver returns recycled Ritz pairs too.
        args: the positional arguments of the call.
        options: the keyword arguments of the call, including those of the derivative.

    Raises:
        ValueError: if `derivative` is unknown, adjoint_max_iter is less than one, or a numerical option is out of
            range, such as tol=-1.
        TypeError: if the call does not fit the solver's signature, or a static option is traced.
    """
    name = solver.__name__
    calls.check_call(name, signature(solver), args, options)
    derivative_options = (options.pop(key, default) for key, default in _DERIVATIVE_OPTIONS.items())
    derivative, adjoint_tol, adjoint_max_iter = map(arguments.plain_int, derivative_options)
    if derivative not in _TRANSFORMS:
        choices = " or ".join(f"{name!r} ({transforms})" for name, transforms in _TRANSFORMS.items())
        raise ValueError(f"{name} got derivative={derivative!r}: choose {choices}")
    check_max_iter(adjoint_max_iter)
    like = options.pop(_LIKE, None)
    call = inspect.signature(solver).bind(*args, **options)
    # With defaults filled in, an omitted option and its default share one program.
    call.apply_defaults()
    bound = call.arguments
    _check_arrays(name, bound)
    if "v0" in bound:
        bound["v0"] = vector_of(bound["v0"])
    bound[_LIKE] = like
    with prefixed(name):
        op = rule.take(bound.pop("op"), bound)
    traced = {name: bound.pop(name) for name in _traced_options(solver) if name in bound} | {"adjoint_tol": adjoint_tol}
    _check_numbers(name, traced)
    if traced.get("sigma") is not None and bound.get("which") not in ("LM", call.signature.parameters["which"].default):
        message = f"{name} got which={bound['which']!r} and sigma"
        raise ValueError(f"{message}: sigma asks for the eigenvalues nearest to it, so leave which out")
    traced |= {key: arguments.on_device(traced[key]) for key in _NUMBERS if key in traced}
    static = tuple((key, _static(name, key, value)) for key, value in sorted(bound.items()))
    # The cache of programs does not distinguish True from 1, or 2.0 from 2, but the checks of a solver do. So the key
    # contains the types.
    kinds = tuple(type(value) for _, value in static)
    traced |= {key: _partner(name, key, traced[key], op.structure) for key in _PARTNERS if key in traced}
    op, traced = rule.pack(op, traced)
    is_interior = any(traced.get(key) is not None for key in ("sigma", "interval"))
    chosen = None if is_interior else dict(static).get("which")
    return Bound(Method(solver, rule, recycles, static, kinds, adjoint_max_iter, chosen), derivative, op, traced)


def signature(solver: Callable[..., Any]) -> inspect.Signature:
    """Return the public signature of the solver, which includes the options that `differentiable` adds."""
    solver_signature = inspect.signature(solver)
    plain = [
        parameter.replace(annotation=get_args(parameter.annotation)[0]) if _is_traced(parameter) else parameter
        for parameter in solver_signature.parameters.values()
    ]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {_LIKE: None, **_DERIVATIVE_OPTIONS}.items()
    ]
    result = get_args(solver_signature.return_annotation) or (solver_signature.return_annotation,)
    return solver_signature.replace(parameters=[*plain, *extra], return_annotation=result[0])


def explain_forward_mode(solver: Callable[..., Any], given: Any, error: TypeError) -> None:
    """Raise a TypeError that names derivative="forward" if JAX refused forward mode; else do nothing.

    Args:
        solver: the solver called.
        given: the arguments of its compiled program.
        error: the error raised by the program.
    """
    if "custom_vjp" in str(error) and any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        name = solver.__name__
        raise TypeError(
            f"{name} has a derivative for reverse mode (jax.grad), and forward mode was asked for: pass "
            f'{name}(..., derivative="forward") for {_TRANSFORMS["forward"]}'
        ) from error


def check_max_iter(adjoint_max_iter: Any) -> None:
    """Raise an error unless the value is a positive int or None."""
    if adjoint_max_iter is not None:
        wanted = "an int, or None; it is static under jit"
        arguments.check_int(None, "adjoint_max_iter", adjoint_max_iter, wanted=wanted, why=", or None")


def _traced_options(solver: Callable[..., Any]) -> list[str]:
    """List the options that are arguments of the compiled program; all others are static."""
    return [name for name, parameter in inspect.signature(solver).parameters.items() if _is_traced(parameter)]


def _is_traced(parameter: inspect.Parameter) -> bool:
    return arguments.TRACED in get_args(parameter.annotation)[1:]


def _static(solver: str, name: str, value: Any) -> Any:
    if isinstance(value, Tracer):
        raise TypeError(arguments.static_remedy(solver, name))
    value = arguments.plain_int(value)
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{solver} got {name}={arguments.brief(value)}: {_STATIC_REMEDY}") from None
    return value


def _partner(solver: str, name: str, given: Any, structure: Any) -> LinearOperator | None:
    if given is None:
        return None
    inverse = _PARTNERS[name]
    message = f"{solver} got {name}={arguments.brief(given)}: give {inverse} as an operator, or as a callable"
    with prefixed(f"{message} v -> {inverse} v"):
        op = operator_of(given, structure)
    check_vector(op.structure, structure, name=name)
    return op


def _check_arrays(solver: str, options: dict[str, Any]) -> None:
    key, v0 = options.get("key"), options.get("v0")
    if key is not None and not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"{solver} got key={arguments.brief(key)}: give a typed key, such as jax.random.key(0)")
    for leaf in jax.tree.leaves(v0):
        if not isinstance(leaf, int | float | complex | np.generic | np.ndarray | jax.Array):
            message = f"{solver} got v0 with {arguments.brief(leaf)} in it"
            raise TypeError(f"{message}: give arrays shaped like a vector of the operator, or a result of before")


def _check_numbers(solver: str, options: dict[str, Any]) -> None:
    for name, least, remedy in _CHECKS:
        is_complex = name == "sigma" and solver in _COMPLEX_SIGMA
        remedy = remedy.format(kind="" if is_complex else "real ")
        arguments.check_number(solver, name, options.get(name), least=least, remedy=remedy, is_complex=is_complex)
