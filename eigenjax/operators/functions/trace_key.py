"""Keys of traced programs: equal for programs that compute the same, however often they are traced.

JAX compares traced programs by identity, so that a function traced twice is compiled twice. The key names each
variable by its position, and holds every primitive, parameter, literal and type, including those of inner programs.
Rules of `custom_jvp` and `custom_vjp` are functions that JAX calls later. They are traced for the key, which holds
their programs too.
"""

import dataclasses
import os
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal

# Parameters that hold the rules of custom derivatives, for each primitive.
_RULES = {
    "custom_jvp_call": {"jvp_jaxpr_fun"},
    "custom_vjp_call": {"fwd_jaxpr_thunk", "bwd", "out_trees"},
}
# Order of the derivatives that a solver takes of a loss: nested rules are followed to this depth.
_ORDER = 2
# Largest size of constants in inner programs that are compared by value; larger ones are compared by identity.
_COMPARED_BYTES = 2**16
_JAX = os.path.dirname(jax.__file__)


def trace_key(jaxpr: Any) -> Any:
    """Return the hashable key of a program.

    >>> of = lambda factor: trace_key(jax.make_jaxpr(lambda x: factor * jax.nn.relu(x))(1.0).jaxpr)
    >>> of(2.0) == of(2.0), of(2.0) == of(3.0)
    (True, False)
    """
    return _program(jaxpr, _ORDER)


class _ByIdentity:
    """Value that equals only itself; the reference keeps its address from being reused."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _program(jaxpr: Any, order: int) -> tuple:
    numbers: dict[Any, int] = {}
    index_of = lambda variable: numbers.setdefault(variable, len(numbers))
    atom = lambda x: _literal(x) if isinstance(x, Literal) else index_of(x)
    outer = tuple((index_of(variable), variable.aval) for variable in (*jaxpr.constvars, *jaxpr.invars))
    equations = tuple(
        (
            equation.primitive,
            tuple(atom(x) for x in equation.invars),
            tuple((index_of(x), x.aval) for x in equation.outvars),
            _params(equation, jaxpr, order),
        )
        for equation in jaxpr.eqns
    )
    return len(jaxpr.constvars), outer, equations, tuple(atom(x) for x in jaxpr.outvars)


def _literal(literal: Any) -> tuple:
    # Bytes distinguish 0.0 from -0.0 and make one NaN equal to another.
    return literal.aval, np.asarray(literal.val).tobytes()


def _params(equation: Any, jaxpr: Any, order: int) -> tuple:
    rules = _RULES.get(equation.primitive.name, set())
    params = tuple((name, _value(value, order)) for name, value in equation.params.items() if name not in rules)
    return (*params, _rule(equation, jaxpr, order - 1)) if rules and order and not _is_of_jax(equation) else params


def _is_of_jax(equation: Any) -> bool:
    """Return whether JAX itself defines this custom-derivative function, so that its rules read no mutable values."""
    inner = getattr(equation.params.get("call_jaxpr"), "jaxpr", None)
    source = str(getattr(getattr(inner, "debug_info", None), "func_src_info", ""))
    # JAX also defines `custom_gradient`, but its rule comes from the user.
    return f" at {_JAX}" in source and "custom_derivatives" not in source


def _value(value: Any, order: int) -> Any:
    if isinstance(value, ClosedJaxpr):
        return _program(value.jaxpr, order), tuple(map(_constant, value.consts))
    if isinstance(value, Jaxpr):
        return _program(value, order)
    if isinstance(value, float | complex):
        return type(value), repr(value)
    if isinstance(value, tuple | list):
        return type(value), tuple(_value(part, order) for part in value)
    if isinstance(value, dict):
        return tuple((name, _value(part, order)) for name, part in value.items())
    if isinstance(value, np.ndarray | jax.Array):
        return _constant(value)
    return _other(value, order)


def _other(value: Any, order: int) -> Any:
    if isinstance(value, types.FunctionType):
        cells = tuple(_captured(_content(cell), order) for cell in value.__closure__ or ())
        defaults = tuple(_captured(default, order) for default in value.__defaults__ or ())
        return value.__code__, cells, defaults
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value).__hash__ is None:
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value), _value(parts, order)
    try:
        hash(value)
    except TypeError:
        return _ByIdentity(value)
    return type(value), value


def _captured(value: Any, order: int) -> Any:
    """Return the key of a value captured by a function called at run time; a mutable object equals only itself."""
    if value is None or isinstance(value, bool | int | float | complex | str | types.FunctionType):
        return _value(value, order)
    return _ByIdentity(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _constant(value: Any) -> Any:
    if isinstance(value, jax.Array) or not hasattr(value, "nbytes") or value.nbytes > _COMPARED_BYTES:
        return _ByIdentity(value)
    array = np.asarray(value)
    return array.shape, str(array.dtype), array.tobytes() if array.dtype != object else _ByIdentity(value)


def _rule(equation: Any, jaxpr: Any, order: int) -> Any:
    """Return the key of an equation's custom derivative, or a unique key if the rule cannot be traced."""
    describe = lambda x: jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype, sharding=x.aval.sharding)
    inputs = list(dict.fromkeys(x for x in equation.invars if not isinstance(x, Literal)))
    outputs = [x for x in equation.outvars if not isinstance(x, DropVar)]
    unnamed = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    alone = jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=[equation], debug_info=unnamed)
    call = lambda *values: eval_jaxpr(alone, [], *values)
    primals, results = tuple(map(describe, inputs)), tuple(map(describe, outputs))
    try:
        if equation.primitive.name == "custom_jvp_call":
            program = jax.make_jaxpr(lambda x, t: jax.jvp(call, x, _tangents(x, t)))(primals, primals)
        else:
            program = jax.make_jaxpr(lambda x, u: jax.vjp(call, *x)[1](list(_tangents(u, u))))(primals, results)
    except Exception:
        # A rule may raise any exception; the user sees it when the function is differentiated.
        return _ByIdentity(equation)
    return _value(program, order)


def _tangents(primals: Any, tangents: Any) -> Any:
    """Return the tangents, with zero-size float0 arrays for integers and booleans."""
    is_inexact = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    zero = lambda x: np.zeros(x.shape, jax.dtypes.float0)
    return tuple(t if is_inexact(x) else zero(x) for x, t in zip(primals, tangents, strict=True))
