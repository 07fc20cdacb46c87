"""Functions with closures, made into functions of all that they close over.

A `custom_vjp` over a closure of tracers leaks them, and jit bakes closed-over arrays into the program as
constants. So the function is traced once, and the arrays that the trace met outside its arguments become arguments.
(`jax.closure_convert` does this for floating-point tracers only; integer labels and concrete arrays stay behind.)
"""

import operator
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr

from eigenjax.operators.functions.trace_key import trace_key
from eigenjax.vectors.tree import PyTree

# Programs that are still in use, by what they compute.
_programs: weakref.WeakValueDictionary[Any, "TracedFunction"] = weakref.WeakValueDictionary()


class TracedFunction:
    """A function of (constants, *arguments) as JAX traced it; static, equal to itself only (`shared`: to its likes)."""

    def __init__(self, jaxpr: Any, result_structure: PyTree, source_name: str = "function"):
        self._jaxpr = jaxpr
        self.result_structure = result_structure
        self.source_name = source_name

    def __call__(self, constants: list[jax.Array], *arguments: PyTree) -> PyTree:
        """The function's value, with other constants if wished."""
        leaves = eval_jaxpr(self._jaxpr, constants, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(self.result_structure), leaves)

    def takes(self, arguments: PyTree) -> bool:
        """Whether these have the shapes and dtypes that it was traced with."""
        expected = [(variable.aval.shape, variable.aval.dtype) for variable in self._jaxpr.invars]
        return [(jax.numpy.shape(x), jax.typeof(x).dtype) for x in jax.tree.leaves(arguments)] == expected

    def mentions(self, primitive: str) -> bool:
        """Whether a primitive of this name occurs in the program, or in one within it."""
        return _mentions(self._jaxpr, primitive)

    def shared(self) -> "TracedFunction":
        """The first program of those still in use that computes the same: jit then has it compiled already.

        >>> trace = lambda: hoist(lambda x: 2 * x, 1.0)[0].shared()
        >>> first = trace()
        >>> trace() is first
        True
        """
        leaves, treedef = jax.tree.flatten(self.result_structure)
        results = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        key = self.source_name, trace_key(self._jaxpr), treedef, results
        try:
            return _programs.setdefault(key, self)
        except TypeError:  # a result whose static parts cannot be compared
            return self

    def rewritten(self, change: Callable[[Any], Any]) -> "TracedFunction":
        """The program with each of its equations changed, and those of programs within it."""
        return TracedFunction(_rewritten(self._jaxpr, change), self.result_structure, self.source_name)


def name_of(function: Callable) -> str:
    """The name of a function, or of what a partial application or a method is made of.

    >>> name_of(jax.numpy.sin), name_of(lambda x: x)
    ('sin', '<lambda>')
    """
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", None) or type(inner).__name__


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
    # A NumPy array stands for its numbers at the time of the trace, whatever is written into it later.
    closed_jaxpr = _frozen(closed_jaxpr)
    return TracedFunction(closed_jaxpr.jaxpr, result_structure, name_of(function)), list(closed_jaxpr.consts)


def _frozen(part: Any) -> Any:
    """Return a program, or a parameter of one, with copies of all NumPy arrays in it; itself where there are none."""
    if isinstance(part, np.ndarray):
        return part.copy()
    # JAX 0.11 has one class for both; in 0.10 a closed one holds the other.
    if isinstance(part, Jaxpr):
        equations = [_frozen_equation(equation) for equation in part.eqns]
        part = part if all(map(operator.is_, equations, part.eqns)) else part.replace(eqns=equations)
    elif isinstance(part, ClosedJaxpr):
        jaxpr = _frozen(part.jaxpr)
        part = part if jaxpr is part.jaxpr else part.replace(jaxpr=jaxpr)
    if isinstance(part, ClosedJaxpr):
        constants = [_frozen(constant) for constant in part.consts]
        is_same = all(map(operator.is_, constants, part.consts))
        return part if is_same else part.replace(jaxpr=part.jaxpr, consts=constants)
    if type(part) is tuple:
        copies = tuple(map(_frozen, part))
        return part if all(map(operator.is_, copies, part)) else copies
    return part


def _frozen_equation(equation: Any) -> Any:
    params = {name: _frozen(value) for name, value in equation.params.items()}
    is_same = all(params[name] is value for name, value in equation.params.items())
    return equation if is_same else equation.replace(params=params)


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
