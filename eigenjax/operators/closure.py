"""Functions with closures, made into functions of all that they close over.

A `custom_vjp` over a closure of tracers leaks them, and jit bakes closed-over arrays into the program as
constants. So the function is traced once, and the arrays that the trace met outside its arguments become arguments.
(`jax.closure_convert` does this for floating-point tracers only; integer labels and concrete arrays stay behind.)
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr

from eigenjax.tree import PyTree

# How deep `closes_over_arrays` follows functions in closures of functions.
_MAX_DEPTH = 6


class TracedFunction:
    """A function of (constants, *arguments) as JAX traced it; static, equal to itself only."""

    def __init__(self, jaxpr: Any, result_structure: PyTree):
        self._jaxpr = jaxpr
        self.result_structure = result_structure

    def __call__(self, constants: list[jax.Array], *arguments: PyTree) -> PyTree:
        """The function's value, with other constants if wished."""
        leaves = eval_jaxpr(self._jaxpr, constants, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(self.result_structure), leaves)

    def mentions(self, primitive: str) -> bool:
        """Whether a primitive of this name occurs in the program, or in one within it."""
        return _mentions(self._jaxpr, primitive)

    def rewritten(self, change: Callable[[Any], Any]) -> "TracedFunction":
        """The program with each of its equations changed, and those of programs within it."""
        return TracedFunction(_rewritten(self._jaxpr, change), self.result_structure)


def hoist(function: Callable, *examples: PyTree) -> tuple[TracedFunction, list[jax.Array]]:
    """Traces a function once and hands out what it closes over.

    Args:
        function: of pytrees shaped as the examples.
        *examples: pytrees of arrays or `jax.ShapeDtypeStruct`.

    Returns:
        `traced, constants` with `traced(constants, *arguments) == function(*arguments)`.

    Example:
        >>> import jax.numpy as jnp
        >>> weights = jnp.array([1.0, 2.0])
        >>> traced, constants = hoist(lambda v: weights * v, jnp.ones(2))
        >>> print(traced([3 * constants[0]], jnp.ones(2)))
        [3. 6.]
    """
    # A fresh lambda, because JAX remembers traces by function, and what a function closes over may have changed.
    closed_jaxpr, result_structure = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*examples)
    return TracedFunction(closed_jaxpr.jaxpr, result_structure), list(closed_jaxpr.consts)


def _mentions(jaxpr: Any, primitive: str) -> bool:
    if hasattr(jaxpr, "jaxpr"):
        jaxpr = jaxpr.jaxpr
    for equation in getattr(jaxpr, "eqns", ()):
        inner = [part for value in equation.params.values() for part in (value if _is_sequence(value) else [value])]
        if equation.primitive.name == primitive or any(_mentions(part, primitive) for part in inner):
            return True
    return False


def _rewritten(jaxpr: Any, change: Callable[[Any], Any]) -> Any:
    equations = []
    for equation in jaxpr.eqns:
        params = {name: _rewritten_param(value, change) for name, value in equation.params.items()}
        equations.append(change(equation.replace(params=params)))
    return jaxpr.replace(eqns=equations)


def _rewritten_param(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, ClosedJaxpr):
        return value.replace(jaxpr=_rewritten(value.jaxpr, change))
    if isinstance(value, Jaxpr):
        return _rewritten(value, change)
    return tuple(_rewritten_param(part, change) for part in value) if type(value) is tuple else value


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list)


def closes_over_arrays(function: Callable) -> bool:
    """Whether arrays or tracers are found in the closure of a function, its defaults, or the object it is bound to.

    >>> import jax.numpy as jnp
    >>> x = (lambda: jnp.ones(2))()
    >>> closes_over_arrays(functools.partial(jnp.dot, x)), closes_over_arrays(jnp.dot)
    (True, False)
    """
    return _holds_arrays(function, _MAX_DEPTH, set())


def _holds_arrays(value: Any, depth: int, seen: set[int]) -> bool:
    if isinstance(value, jax.Array | np.ndarray):
        return True
    if depth == 0 or id(value) in seen or isinstance(value, type | types.ModuleType | str):
        return False
    seen.add(id(value))
    return any(_holds_arrays(part, depth - 1, seen) for part in _parts(value))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        cells = inspect.getclosurevars(value).nonlocals
        return [*cells.values(), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0] is not value:
        return leaves
    return [getattr(value, "__wrapped__", None), *getattr(value, "__dict__", {}).values()]
