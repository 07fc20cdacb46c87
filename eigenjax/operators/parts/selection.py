"""Selection of the parameters that an operator acts on; the rest are constants.

A selected part keeps the structure of the whole, with None (an empty pytree) in place of the other leaves.

A leaf is named by its path: the keys of JAX's key path joined by "/", such as "params/Dense_0/kernel" or
"layers/0/bias". Keys are dictionary keys, positions in lists and tuples, and names of attributes. The final `.value`
of a Variable in an nnx State is left out. A bare array has the empty path.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.vectors.tree import PyTree

Predicate = Callable[[Any, Any], bool]
Select = Predicate | str | re.Pattern[str] | Sequence[Predicate | str | re.Pattern[str]]

# Largest number of paths in an error message, enough to show their pattern.
_PATHS_SHOWN = 20


def path_string(path: Any) -> str:
    """Convert a key path of JAX to a string.

    >>> [(path, _)] = jax.tree_util.tree_flatten_with_path({"layers": [jnp.ones(1)]})[0]
    >>> path_string(path)
    'layers/0'
    """
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def paths_of(params: PyTree) -> list[str]:
    """Return the paths of all leaves, in order.

    >>> paths_of({"dense": {"kernel": 1.0, "bias": 2.0}})
    ['dense/bias', 'dense/kernel']
    """
    return [path_string(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]


def chosen(params: PyTree, select: Select) -> list[bool]:
    """Return which leaves are selected, in order.

    Args:
        params: pytree of arrays or of shapes.
        select: a function `select(path, leaf) -> bool` of JAX's key path; a string that the whole path must match, in
            which "*" stands for any characters including "/", "?" for one and "[ab]" for one of these; a compiled
            regular expression, searched for in the path; or a list of any of these, of which one must match.

    Returns:
        A boolean for each leaf.

    Raises:
        ValueError: if a string or a regular expression matches no leaf; lists the paths.
        TypeError: if `select` is none of the above.

    Example:
        >>> params = {"Dense_0": {"kernel": 1.0, "bias": 2.0}, "Dense_1": {"kernel": 3.0}}
        >>> chosen(params, "*/kernel"), chosen(params, ["*/bias", re.compile("_1")])
        ([False, True, True], [True, False, True])
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    if callable(select):
        return [bool(select(path, leaf)) for path, leaf in leaves]
    if isinstance(select, str | re.Pattern):
        return _matching([path_string(path) for path, _ in leaves], select)
    if isinstance(select, list | tuple) and select:
        return [any(votes) for votes in zip(*(chosen(params, one) for one in select), strict=True)]
    raise TypeError(
        f"select={select!r}: give a function select(path, leaf) -> bool, a string such as '*/kernel', a compiled "
        "regular expression, or a list of these that is not empty"
    )


def listed(paths: Sequence[str]) -> str:
    """Format paths for an error message, with at most the first 20."""
    first_paths = ", ".join(repr(path) for path in paths[:_PATHS_SHOWN])
    more = len(paths) - _PATHS_SHOWN
    return (first_paths or "none") + (f" and {more} more" if more > 0 else "")


def partition(params: PyTree, select: Select | None = None, name: str = "params") -> tuple[PyTree, PyTree]:
    """Split parameters into those that vary and those that are constant.

    Args:
        params: pytree of arrays.
        select: the leaves that vary: a function `select(path, leaf) -> bool`, a string such as "*/kernel", a compiled
            regular expression, or a list of these; None selects all floating leaves. Integer, boolean and key leaves
            never vary, even if selected.
        name: name of the pytree, for error messages.

    Returns:
        `varying, constant`, each with None where the other has the leaf.

    Raises:
        ValueError: if nothing is selected, or a pattern matches nothing.
        TypeError: if a complex leaf is selected, or `select` has another type.

    Example:
        >>> partition({"table": jnp.arange(2), "bias": jnp.ones(1)})
        ({'bias': Array([1.], dtype=float32), 'table': None}, {'bias': None, 'table': Array([0, 1], dtype=int32)})
    """
    arrays = jax.tree_util.tree_map_with_path(functools.partial(_array, name), params)
    is_floating = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(arrays)]
    if not any(is_floating):
        found = ", ".join(sorted({str(leaf.dtype) for leaf in jax.tree.leaves(arrays)})) or "no leaves"
        raise ValueError(
            f"{name} holds no floating-point leaf that could vary ({found}): integer leaves are constants; give "
            "arrays of floats, such as x.astype(float)"
        )
    wanted = is_floating if select is None else chosen(arrays, select)
    mask = [floating and keep for floating, keep in zip(is_floating, wanted, strict=True)]
    if not any(mask):
        raise ValueError(f"no floating-point leaf of {name} is selected; its leaves are: {listed(paths_of(arrays))}")
    _check_real(arrays, mask, name)
    return split(arrays, mask)


def _array(name: str, path: Any, leaf: Any) -> jax.Array:
    try:
        return jnp.asarray(leaf)
    except TypeError as error:
        leaf_name = f"{name}{jax.tree_util.keystr(path)}"
        raise TypeError(
            f"{leaf_name} is of type {type(leaf).__name__}: give arrays, or leave it out of {name}"
        ) from error


def split(params: PyTree, mask: Sequence[bool]) -> tuple[PyTree, PyTree]:
    """Split a pytree into the leaves whose flag is True and the others, each with None in place of the rest."""
    leaves, treedef = jax.tree.flatten(params)
    part = lambda side: treedef.unflatten(x if keep is side else None for x, keep in zip(leaves, mask, strict=True))
    return part(True), part(False)


def merge(varying: PyTree, constant: PyTree) -> PyTree:
    """Merge the two parts that `partition` returns into the whole pytree."""
    return jax.tree.map(lambda x, y: y if x is None else x, varying, constant, is_leaf=lambda x: x is None)


def part_like(whole: PyTree, structure: PyTree) -> PyTree:
    """Return the leaves of a pytree that a partial structure has, with None in place of the others.

    >>> part_like({"a": 1.0, "b": 2.0}, {"a": jnp.ones(1), "b": None})
    {'a': 1.0, 'b': None}
    """
    return jax.tree.map(lambda x, y: None if x is None else y, structure, whole, is_leaf=lambda x: x is None)


def _matching(paths: list[str], pattern: str | re.Pattern[str]) -> list[bool]:
    if isinstance(pattern, re.Pattern):
        found = [pattern.search(path) is not None for path in paths]
    else:
        found = [fnmatch.fnmatchcase(path, pattern) for path in paths]
    if not any(found):
        raise ValueError(
            f"select: {pattern!r} matches none of the leaves {listed(paths)}; a string must match the whole path "
            "(* stands for any characters), a compiled regular expression a part of it"
        )
    return found


def _check_real(arrays: PyTree, mask: Sequence[bool], name: str) -> None:
    for (path, leaf), keep in zip(jax.tree_util.tree_flatten_with_path(arrays)[0], mask, strict=True):
        if keep and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} is complex ({leaf.dtype}): the second derivative of a real loss "
                "is not a complex-linear operator; give the real and imaginary parts as two real leaves"
            )
