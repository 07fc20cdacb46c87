"""Checks of pytree arguments, and error messages that begin with the name of the called function."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.arguments import brief
from eigenjax.calls import unnamed


def check_arrays(function: str, name: str, value: Any, *, remedy: str) -> None:
    """Raise a TypeError unless a pytree holds at least one leaf, and all its leaves are arrays or numbers.

    >>> check_arrays("run", "v0", {"w": "ones"}, remedy="give a vector of the operator")
    Traceback (most recent call last):
    ...
    TypeError: run got v0['w']='ones', which is no array: give a vector of the operator
    """
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    if not leaves:
        raise TypeError(f"{function} got {name}={brief(value)}, which holds no arrays: {remedy}")
    for path, leaf in leaves:
        if not _is_numeric(leaf):
            leaf_name = name + jax.tree_util.keystr(path)
            raise TypeError(f"{function} got {leaf_name}={brief(leaf)}, which is no array: {remedy}")


def _is_numeric(leaf: Any) -> bool:
    try:
        dtype = np.asarray(leaf).dtype if not hasattr(leaf, "dtype") else leaf.dtype
    except (TypeError, ValueError):
        return False
    return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)


@contextlib.contextmanager
def prefixed(words: str) -> Iterator[None]:
    """Prefix the message of a TypeError or ValueError raised inside, for example with the called function's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # An exception subclass may not be constructible from a message alone, so it passes unchanged.
        if type(error) not in (TypeError, ValueError) or str(error).startswith(words):
            raise
        raise type(error)(f"{words}: {unnamed(error)}") from error
