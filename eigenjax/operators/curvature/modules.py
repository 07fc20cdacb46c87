"""Models that are objects: separation of their varying arrays, and functions of these arrays alone.

A module of `flax.nnx` holds parameters and other state (running averages, keys). Its `nnx.Param` vary, as with
`nnx.grad`, and the rest is constant. Each call gets a copy of the module, so that the original is not modified. Leaves
of other pytrees that are not arrays, such as the activation functions of an equinox module, are constants too.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from eigenjax.arguments import brief
from eigenjax.vectors.tree import PyTree


def parameters_of(params: Any, *functions: Callable) -> tuple[PyTree, *tuple[Callable, ...]]:
    """Return the parameters as a pytree of arrays, and the functions as functions of these arrays.

    Args:
        params: a pytree of arrays, returned unchanged with the functions; a flax.nnx module, which gives the State of
            its nnx.Param; or a pytree with leaves that are not arrays, which gives None in their places.
        *functions: functions whose first argument is the parameters.

    Returns:
        The arrays and the functions.

    Example:
        >>> model = {"kernel": np.ones(2), "activation": np.tanh}
        >>> params, apply = parameters_of(model, lambda model, x: model["activation"](model["kernel"] * x))
        >>> print(params, apply(params, 0.0))
        {'activation': None, 'kernel': array([1., 1.])} [0. 0.]
    """
    arrays, whole = _split(params)
    return arrays, *(_of_parameters(function, whole) for function in functions)


def _split(params: Any) -> tuple[PyTree, Callable[[PyTree], Any] | None]:
    # A module exists only if flax is imported already; importing it here would cost time for nothing.
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(params, nnx.Module):
        graph, varying, other_state = nnx.split(params, nnx.Param, ...)
        return varying, lambda arrays: nnx.merge(graph, arrays, other_state, copy=True)
    leaves, treedef = jax.tree.flatten(params)
    is_array = [_is_array(leaf) for leaf in leaves]
    if all(is_array):
        return params, None
    others = [None if keep else leaf for leaf, keep in zip(leaves, is_array, strict=True)]
    arrays = treedef.unflatten(leaf if keep else None for leaf, keep in zip(leaves, is_array, strict=True))

    def whole(arrays: PyTree) -> Any:
        remaining = iter(jax.tree.leaves(arrays))
        return treedef.unflatten(next(remaining) if keep else x for x, keep in zip(others, is_array, strict=True))

    return arrays, whole


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex | jax.ShapeDtypeStruct) or (
        not callable(leaf) and not isinstance(leaf, str | bytes)
    )


def _of_parameters(function: Callable, whole: Callable[[PyTree], Any] | None) -> Callable:
    if whole is None or not callable(function):
        return function
    # A method or a callable object may lack attributes that `wraps` copies; it skips those.
    return functools.wraps(function)(lambda arrays, *args: function(whole(arrays), *args))


def without_aux(function: Callable, name: str) -> Callable:
    """Wrap a function that returns a pair so that it returns the first of the two values.

    Raises:
        TypeError: at the call, if the function does not return a pair.
    """

    def first(*arguments: Any) -> Any:
        value = function(*arguments)
        if not isinstance(value, tuple) or len(value) != 2:
            raise TypeError(
                f"with has_aux=True {name} must return a pair (value, aux), and returned {brief(value)}: leave has_aux "
                "out, or return such a pair"
            )
        return value[0]

    return functools.wraps(function)(first) if callable(function) else function
