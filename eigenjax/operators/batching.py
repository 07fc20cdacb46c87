"""Sums over data in the memory of one microbatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.tree import PyTree


def num_examples(data: PyTree, name: str = "data") -> int:
    """The common length of the leading axes.

    Raises:
        ValueError: if there is none; names the leaf.

    >>> num_examples((jnp.ones((5, 2)), jnp.ones(5)))
    5
    """
    lengths = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(data)[0]:
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"{name}{jax.tree_util.keystr(path)} is a scalar: it needs a leading axis of examples")
        lengths[jax.tree_util.keystr(path)] = jnp.shape(leaf)[0]
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"{name} needs the same number of examples, at least one, in every leaf, and has {lengths}")
    return next(iter(lengths.values()))


def check_batch_size(batch_size: Any) -> None:
    """Raises a ValueError unless batch_size is None or a positive integer."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size={batch_size!r}: give a positive integer, or None for all examples at once")


def sum_over_batches(
    function: Callable[[PyTree], PyTree], data: PyTree, batch_size: int | None, zero: PyTree
) -> PyTree:
    """The sum of function(batch) over consecutive microbatches, the last one smaller if it must be.

        sum_j f(data[j b : (j + 1) b]),    j = 0 .. ceil(N / b) - 1

    Args:
        function: of a slice of the data; returns a pytree shaped like zero.
        data: pytree of arrays with a common leading axis N.
        batch_size: b; None, or N and more, calls the function once.
        zero: what to add to: its dtypes are those of the sum.

    Returns:
        The sum. Cost: one pass over the data, in the memory of one microbatch and one sum; the same holds for its
        derivatives, which compute a microbatch again instead of storing all of them.
    """
    total = num_examples(data)
    if batch_size is None or batch_size >= total:
        return tree.cast_like(function(data), zero)
    function = jax.checkpoint(function, prevent_cse=False)

    def add(partial_sum, start, length):
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), data)
        return tree.add_scaled(partial_sum, 1.0, function(batch))

    num_full, rest = divmod(total, batch_size)
    starts = jnp.arange(num_full) * batch_size
    full, _ = jax.lax.scan(lambda s, start: (add(s, start, batch_size), None), zero, starts)
    return add(full, num_full * batch_size, rest) if rest else full
