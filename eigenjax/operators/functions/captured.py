"""User functions with the values they read from outside their arguments captured as leaves.

A loss may read a global, a default argument, an attribute of the object it is bound to, or the state of a module. JAX
caches a function by its identity, and would reuse the values of the first call. A function is therefore traced
whenever an operator is built from it. Arrays that the trace meets become leaves, so that other arrays need no new
program. Other Python numbers make a new program. If nothing changed, the compiled program is reused.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.functions.closure import TracedFunction, hoist, name_of
from eigenjax.vectors.tree import PyTree


class _Source:
    """User's original function; all instances compare equal, so that it does not affect the compilation cache."""

    def __init__(self, function: Callable):
        self.function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return name_of(self.function)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CapturedFunction:
    """Function traced for one or more shapes of its arguments; the arrays that it reads from outside are leaves."""

    constants: tuple[list[jax.Array], ...]
    traces: tuple[TracedFunction, ...] = dataclasses.field(metadata={"static": True})
    source: _Source = dataclasses.field(metadata={"static": True})

    def __call__(self, *arguments: PyTree) -> PyTree:
        """Compute the value for arguments of one of the traced shapes."""
        for constants, traced in zip(self.constants, self.traces, strict=True):
            if traced.takes(arguments):
                return traced(constants, *arguments)
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(arguments)]
        raise ValueError(
            f"{self.source!r} was traced for other shapes of its arguments than {shapes}: an operator keeps the shapes "
            "of parameters and data that it was built with; build another one"
        )

    @property
    def source_name(self) -> str:
        """Name of the original function."""
        return repr(self.source)

    def __repr__(self) -> str:
        return f"CapturedFunction({self.source_name})"

    @property
    def results(self) -> tuple[PyTree, ...]:
        """Structures of the results, one for each traced shape."""
        return tuple(traced.result_structure for traced in self.traces)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Untraced:
    """Function that Python runs at every call, without a cached trace."""

    function: Callable

    def __call__(self, *arguments: PyTree) -> PyTree:
        return self.function(*arguments)


def capture(function: Callable, examples: Iterable[tuple], name: str) -> CapturedFunction:
    """Trace a function at examples of its arguments.

    Args:
        function: function of pytrees.
        examples: tuples of arguments, arrays or shapes; one for each shape that it will be called with.
        name: name of the argument that holds the function, for error messages.

    Returns:
        The function, callable with arguments of these shapes.

    Raises:
        TypeError: if it is not callable, or returns something other than arrays.

    Cost: one trace for each example; nothing is computed.

    Example:
        >>> offset = jnp.ones(2)
        >>> shifted = capture(lambda x: x + offset, [(jnp.zeros(2),)], "function")
        >>> print(shifted(jnp.ones(2)), [x.shape for x in jax.tree.leaves(shifted)])
        [2. 2.] [(2,)]
    """
    check_callable(function, name)
    traced = [_traced(function, arguments, name) for arguments in examples]
    constants = tuple(constants for _, constants in traced)
    return CapturedFunction(constants, tuple(program.shared() for program, _ in traced), _Source(function))


class NamedFunction:
    """Static function that equals another one if both compute the same and capture the same arrays.

    Captured arrays become constants of the programs that call it.
    """

    def __init__(self, function: Callable, *examples: PyTree):
        traced, constants = hoist(function, *examples)
        self._function, self._program, self._constants = function, traced.shared(), constants

    @property
    def result(self) -> PyTree:
        """Structure of the value for the examples."""
        return self._program.result_structure

    def __call__(self, *arguments: PyTree) -> PyTree:
        """Compute the value in Python, without the trace."""
        return self._function(*arguments)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NamedFunction) or self._program is not other._program:
            return False
        return all(x is y for x, y in zip(self._constants, other._constants, strict=True))

    def __hash__(self) -> int:
        return hash((id(self._program), *map(id, self._constants)))


def check_callable(function: Any, name: str) -> None:
    """Raise a TypeError that names the argument if it is not callable."""
    if not callable(function):
        raise TypeError(f"{name} is of type {type(function).__name__}: give a function; are the arguments in order?")


def _traced(function: Callable, arguments: tuple, name: str) -> tuple[TracedFunction, list[jax.Array]]:
    _check_signature(function, arguments, name)
    try:
        traced, constants = hoist(function, *arguments)
    except jax.errors.JAXTypeError as error:
        # JAX raises this error when a traced value is converted to bool, int, float or NumPy.
        raise TypeError(
            f"{name} ({name_of(function)}) asks for the numbers in an array, which are not known while it is traced: "
            "use jnp in place of np, jnp.where or jax.lax.cond in place of if, and x.astype in place of float(x). "
            f"JAX says: {str(error).splitlines()[0]}"
        ) from error
    except TypeError as error:
        if "not a valid JAX type" not in str(error):
            raise
        raise TypeError(f"{name} ({name_of(function)}) returns what is no array: {error}") from error
    if not jax.tree.leaves(traced.result_structure):
        raise TypeError(f"{name} ({name_of(function)}) returns no array, but {traced.result_structure!r}")
    return traced, constants


def _check_signature(function: Callable, arguments: tuple, name: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin may have no signature
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{name} is called with {len(arguments)} arguments, and {name_of(function)}{signature} does not take them "
            f"({error}); a loss is called as loss(params), with data= as loss(params, batch)"
        ) from error


def with_sources(tree: PyTree) -> PyTree:
    """Replace every traced function in a pytree, such as an operator, by the original Python function."""
    is_captured = lambda x: isinstance(x, CapturedFunction)
    plain = lambda x: _Untraced(x.source.function) if is_captured(x) else x
    return jax.tree.map(plain, tree, is_leaf=is_captured)
