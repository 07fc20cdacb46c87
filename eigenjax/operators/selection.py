"""The part of the parameters that an operator acts on; the rest are constants.

A part keeps the structure of the whole, with None (an empty pytree) in place of what does not belong to it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.tree import PyTree


def partition(
    params: PyTree, select: Callable[[Any, Any], bool] | None = None, name: str = "params"
) -> tuple[PyTree, PyTree]:
    """Splits parameters into those that vary and those that do not.

    Args:
        params: pytree of arrays.
        select: `select(path, leaf) -> bool` with JAX's key path of the leaf; None selects all floating leaves.
            Integer, boolean and key leaves never vary, whatever it says.
        name: of the pytree, for errors.

    Returns:
        `varying, constant`, each with None where the other has the leaf.

    Raises:
        ValueError: if nothing is selected.
        TypeError: if a complex leaf is selected.

    Example:
        >>> partition({"table": jnp.arange(2), "bias": jnp.ones(1)})
        ({'bias': Array([1.], dtype=float32), 'table': None}, {'bias': None, 'table': Array([0, 1], dtype=int32)})
    """
    arrays = jax.tree.map(jnp.asarray, params)
    mask = jax.tree_util.tree_map_with_path(lambda path, leaf: _varies(path, leaf, select, name), arrays)
    if not any(jax.tree.leaves(mask)):
        paths = ", ".join(jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(arrays)[0])
        raise ValueError(f"no floating-point leaf of {name} is selected; its leaves are: {paths or 'none'}")
    varying = jax.tree.map(lambda keep, leaf: leaf if keep else None, mask, arrays)
    constant = jax.tree.map(lambda keep, leaf: None if keep else leaf, mask, arrays)
    return varying, constant


def merge(varying: PyTree, constant: PyTree) -> PyTree:
    """The whole that `partition` split."""
    return jax.tree.map(lambda x, y: y if x is None else x, varying, constant, is_leaf=lambda x: x is None)


def _varies(path: Any, leaf: jax.Array, select: Callable[[Any, Any], bool] | None, name: str) -> bool:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact) or not (select is None or select(path, leaf)):
        return False
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise TypeError(
            f"{name}{jax.tree_util.keystr(path)} is complex ({leaf.dtype}): the second derivative of a real loss is "
            "not a complex-linear operator; give the real and imaginary parts as two real leaves"
        )
    return True
