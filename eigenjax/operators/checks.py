"""Checks of pytrees given, and messages that begin with the function that was called."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.arguments import shown
from eigenjax.calls import unnamed


def check_arrays(function: str, name: str, value: Any, *, remedy: str) -> None:
    """Raise a TypeError unless a pytree holds arrays or numbers, at least one.

    >>> check_arrays("run", "v0", {"w": "ones"}, remedy="give a vector of the operator")
    Traceback (most recent call last):
    ...
    TypeError: run got v0['w']='ones', which is no array: give a vector of the operator
    """
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    if not leaves:
        raise TypeError(f"{function} got {name}={shown(value)}, which holds no arrays: {remedy}")
    for path, leaf in leaves:
        if not _is_numeric(leaf):
            where = name + jax.tree_util.keystr(path)
            raise TypeError(f"{function} got {where}={shown(leaf)}, which is no array: {remedy}")


def _is_numeric(leaf: Any) -> bool:
    try:
        dtype = np.asarray(leaf).dtype if not hasattr(leaf, "dtype") else leaf.dtype
    except (TypeError, ValueError):
        return False
    return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)


@contextlib.contextmanager
def prefixed(words: str) -> Iterator[None]:
    """Begin the message of a TypeError or ValueError with who met it, such as the function that was called."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # Of a type of its own an error may not be made anew.
        if type(error) not in (TypeError, ValueError) or str(error).startswith(words):
            raise
        raise type(error)(f"{words}: {unnamed(error)}") from error
