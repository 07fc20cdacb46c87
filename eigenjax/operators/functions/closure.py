"""Functions with closures, converted to functions of everything that they close over.

A `custom_vjp` over a closure of tracers leaks them, and jit stores closed-over arrays in the program as constants. A
function is therefore traced once, and the arrays that the trace meets outside its arguments become arguments.
(`jax.closure_convert` converts floating-point tracers only, and leaves integer labels and concrete arrays in place.)
"""

import functools
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr

from eigenjax.operators.functions.trace_key import trace_key
from eigenjax.vectors.tree import PyTree

# Primitives that compute most of a loss; others in 16 bits, such as casts of stored data, leave its precision.
_PRODUCTS = ("dot_general", "conv_general_dilated")
# Live programs by their trace key.
_programs: weakref.WeakValueDictionary[Any, "TracedFunction"] = weakref.WeakValueDictionary()


class TracedFunction:
    """Function of (constants, *arguments) as JAX traced it; static, and equal only to itself.

    Method `shared` returns one common instance for equal programs.
    """

    def __init__(self, jaxpr: Any, result_structure: PyTree, source_name: str = "function"):
        self._jaxpr = jaxpr
        self.result_structure = result_structure
        self.source_name = source_name

    def __call__(self, constants: list[jax.Array], *arguments: PyTree) -> PyTree:
        """Compute the value of the function; the constants may differ from those of the trace."""
        leaves = eval_jaxpr(self._jaxpr, constants, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(self.result_structure), leaves)

    def takes(self, arguments: PyTree) -> bool:
        """Return whether the arguments have the shapes and dtypes of the trace."""
        expected = [(variable.aval.shape, variable.aval.dtype) for variable in self._jaxpr.invars]
        return [(jax.numpy.shape(x), jax.typeof(x).dtype) for x in jax.tree.leaves(arguments)] == expected

    def mentions(self, primitive: str) -> bool:
        """Return whether a primitive of this name occurs in the program or in an inner one."""
        return _mentions(self._jaxpr, primitive)

    @functools.cached_property
    def product_eps(self) -> float:
        """Largest machine epsilon of the operands and results of all matrix products and convolutions; 0 if none."""
        return _product_eps(self._jaxpr)

    def shared(self) -> "TracedFunction":
        """Return the first live program that computes the same, so that jit reuses its compiled code.

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
        except TypeError:  # static parts of the result cannot be hashed
            return self

    def rewritten(self, change: Callable[[Any], Any]) -> "TracedFunction":
        """Return the program with `change` applied to each equation, including those of inner programs."""
        return TracedFunction(_rewritten(self._jaxpr, change), self.result_structure, self.source_name)


def name_of(function: Callable) -> str:
    """Return the name of a function, or of the function inside a partial application or a method.

    >>> name_of(jax.numpy.sin), name_of(lambda x: x)
    ('sin', '<lambda>')
    """
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", None) or type(inner).__name__


def hoist(function: Callable, *examples: PyTree) -> tuple[TracedFunction, list[jax.Array]]:
    """Trace a function once, and return it together with the arrays that it closes over.

    Args:
        function: function of pytrees shaped like the examples.
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
    # A new lambda, because JAX caches traces by function, and the values that a function closes over may have changed.
    closed_jaxpr, result_structure = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*examples)
    # Copy NumPy arrays, so that later writes into them do not change the program.
    closed_jaxpr = _frozen(closed_jaxpr)
    return TracedFunction(closed_jaxpr.jaxpr, result_structure, name_of(function)), list(closed_jaxpr.consts)


def _frozen(part: Any) -> Any:
    """Return a program, or a parameter of one, with all its NumPy arrays copied; return it unchanged if it has none."""
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
    return any(equation.primitive.name == primitive for equation in _equations(jaxpr))


def _product_eps(jaxpr: Any) -> float:
    products = [equation for equation in _equations(jaxpr) if equation.primitive.name in _PRODUCTS]
    dtypes = {variable.aval.dtype for equation in products for variable in (*equation.invars, *equation.outvars)}
    return max((float(jnp.finfo(dtype).eps) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)), default=0.0)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a program and of all programs in it."""
    if hasattr(jaxpr, "jaxpr"):
        jaxpr = jaxpr.jaxpr
    for equation in getattr(jaxpr, "eqns", ()):
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                yield from _equations(part)


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
