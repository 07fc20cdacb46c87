"""Sums over data in microbatches, in the memory of one microbatch."""

import operator
from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp

from eigenjax.operators.functions.convolutions import fast_in_loops
from eigenjax.vectors import placement, tree
from eigenjax.vectors.tree import PyTree


def num_examples(data: PyTree, name: str = "data") -> int:
    """Return the common length of the leading axes.

    Raises:
        ValueError: if a leaf is a scalar, or the lengths differ or are zero; names the leaf.

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


def checked_batch_size(batch_size: Any) -> int | None:
    """Return the batch size as an int, or None; raise a ValueError unless it is None or a positive integer.

    >>> checked_batch_size(jnp.asarray(2)), checked_batch_size(None)
    (2, None)
    """
    if batch_size is None:
        return None
    is_integer = isinstance(batch_size, SupportsIndex) and not isinstance(batch_size, bool)
    size = operator.index(batch_size) if is_integer else 0
    if size < 1:
        raise ValueError(f"batch_size={batch_size!r}: give a positive integer, or None for all examples at once")
    return size


def as_arrays(data: PyTree, name: str = "data") -> PyTree:
    """Convert every leaf to an array; raise a TypeError that names a leaf that cannot be converted.

    A `jax.ShapeDtypeStruct` is returned unchanged.
    """

    def array(path, leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        try:
            return jnp.asarray(leaf)
        except TypeError as error:
            leaf_name = f"{name}{jax.tree_util.keystr(path)}"
            raise TypeError(f"{leaf_name} is no array of numbers ({type(leaf).__name__}): give arrays") from error

    return jax.tree_util.tree_map_with_path(array, data)


def as_weights(weights: Any) -> jax.Array | None:
    """Convert weights to an array; None stays None."""
    if weights is None:
        return None
    try:
        weights = jnp.asarray(weights)
    except (TypeError, ValueError) as error:
        raise TypeError(f"weights is of type {type(weights).__name__}: give an array of numbers") from error
    return weights


def check_weights(weights: jax.Array | None, count: int, *, trailing: bool = False) -> None:
    """Raise a ValueError unless weights is None or has the shape (count,), or (count, ...) if `trailing`."""
    if weights is not None and (weights.shape if not trailing else weights.shape[:1]) != (count,):
        shape = f"({count}, ...)" if trailing else f"({count},)"
        raise ValueError(f"weights has shape {weights.shape}, but data holds {count} examples: give {shape}")


def check_shape(value: Any, shape: tuple[int, ...], call: str) -> Any:
    """Return the value of a call; raise a TypeError unless it is a real array of this shape."""
    wanted = "a scalar" if shape == () else f"an array of the shape {shape}"
    if not jax.tree_util.all_leaves([value]):
        raise TypeError(
            f"{call} must return {wanted}, and returned a {type(value).__name__}: give it alone, or has_aux=True if it "
            "is a pair (value, aux)"
        )
    dtype = jax.dtypes.result_type(value)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{call} must return {wanted} of real floating-point numbers, and its dtype is {dtype}: give a function "
            "that does, by a cast or the real part"
        )
    if jnp.shape(value) != shape:
        remedy = "give the mean over the examples" if shape == () else "give one number for each example"
        raise TypeError(f"{call} must return the shape {shape}, and returned {jnp.shape(value)}: {remedy}")
    return value


def mean_share(
    value: jax.Array, part: tuple[int, int], weights: jax.Array | None, all_weights: jax.Array | None, call: str
) -> jax.Array:
    """Compute the contribution of a batch to the mean over all the data; consecutive batches add up to the mean.

        (b / N) value,   or with weights   (sum_i w_i value_i) / (sum over the data of w)

    Args:
        value: () the mean over the batch; with weights the values of single examples, shaped like the batch's weights.
        part: b and N, the numbers of examples of the batch and of all the data.
        weights: weights of the batch, with a leading axis of b examples.
        all_weights: weights of all the data.
        call: the call that returned the value, for error messages.
    """
    count, total = part
    if weights is None or all_weights is None:
        value = check_shape(value, (), call)
        return value if count == total else value * (count / total)
    value = check_shape(value, weights.shape, f"with weights=, {call}")
    return jnp.sum(weights.astype(value.dtype) * value) / jnp.sum(all_weights).astype(value.dtype)


def batch_examples(data: PyTree, batch_size: int | None) -> list[PyTree]:
    """Return example batches for `sum_over_batches`, as shapes, one for each distinct microbatch size.

    >>> [batch.shape for batch in batch_examples(jnp.ones((5, 2)), 2)]
    [(2, 2), (1, 2)]
    """
    if batch_size is None or batch_size >= num_examples(data):
        return [data]
    total = num_examples(data)
    cut = lambda size: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, 0, size), data)
    sizes = [batch_size, *([total % batch_size] if total % batch_size else [])]
    return [jax.eval_shape(lambda size=size: cut(size)) for size in sizes]


def working_zeros(vector: PyTree) -> PyTree:
    """Return zeros to accumulate in: shaped and sharded like a vector, in float32 or a wider dtype.

    >>> working_zeros(jnp.ones(2, jnp.bfloat16))
    Array([0., 0.], dtype=float32)
    """
    return jax.tree.map(jnp.zeros_like, tree.cast_like(vector, tree.working_structure(tree.structure_of(vector))))


def sum_over_batches(
    function: Callable[[PyTree], PyTree], data: PyTree, batch_size: int | None, zero: PyTree
) -> PyTree:
    """Sum function(batch) over consecutive microbatches; the last one is smaller if b does not divide N.

        sum_j f(data[j b : (j + 1) b]),    j = 0 .. ceil(N / b) - 1

    Args:
        function: called with a slice of the data; returns a pytree shaped like `zero`.
        data: pytree of arrays with a common leading axis N.
        batch_size: b; None, or N and more, calls the function once.
        zero: initial value of the sum, which has its dtypes.

    Returns:
        The sum. Cost: one pass over the data, in the memory of one microbatch and one sum. Derivatives need no more
        memory, because they recompute each microbatch instead of storing all of them.
    """
    return over_slices(lambda batch: (function(batch), ()), data, batch_size, zero)[0]


def over_slices(
    function: Callable[[PyTree], tuple[PyTree, PyTree]], data: PyTree, size: int | None, zero: PyTree, axis: int = 0
) -> tuple[PyTree, PyTree]:
    """Apply a function to consecutive slices of the data; add up its first result and concatenate its second.

    Args:
        function: called with a slice; returns a summand shaped like `zero`, and a piece that has the axis of the slice.
        data: pytree of arrays that share this axis.
        size: length of a slice; the last one is smaller if it does not divide the axis. None, or at least the whole
            length, calls the function once.
        zero: initial value of the sum, which has its dtypes.
        axis: axis of the slices.

    Returns:
        The sum, and the concatenated pieces. Derivatives recompute each slice instead of storing all of them.

    >>> total, pieces = over_slices(lambda x: (jnp.sum(x), 2 * x), jnp.arange(5.0), 2, jnp.zeros(()))
    >>> print(total, pieces)
    10.0 [0. 2. 4. 6. 8.]
    """
    # Without slicing, the data need not have this axis.
    length = 0 if size is None else jax.tree.leaves(data)[0].shape[axis]
    if size is None or size >= length:
        summand, piece = function(data)
        return tree.cast_like(summand, zero), piece
    function = jax.checkpoint(fast_in_loops(function), prevent_cse=False)

    def add(partial_sum, start, size):
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis)
        part = jax.tree.map(lambda x: _spread(cut(x), x) if axis == 0 else cut(x), data)
        summand, piece = function(part)
        return tree.add_scaled(partial_sum, 1.0, summand), piece

    num_full, remainder = divmod(length, size)

    def step(carry, _):
        start, partial_sum = carry
        partial_sum, piece = add(partial_sum, start, size)
        return (start + size, partial_sum), piece

    (_, total), pieces = jax.lax.scan(step, (jnp.int32(0), zero), length=num_full)
    pieces = jax.tree.map(lambda x: _side_by_side(x, axis), pieces)
    if remainder:
        total, last = add(total, num_full * size, remainder)
        pieces = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis), pieces, last)
    return total, pieces


def _spread(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Reshard a microbatch over all devices that hold the examples.

    Consecutive examples lie on one device. With Explicit axes the sharding is part of the slice's type. With Auto axes
    and no resharding, every device would compute the whole microbatch.
    """
    count, total = part.shape[0], whole.shape[0]
    if not jnp.issubdtype(whole.dtype, jnp.number) or total % count or placement.explicit_sharding(whole) is not None:
        return part
    # Every (total / count)-th example: equally many from each device, and none of them moves.
    return placement.placed_like(part, whole.reshape(count, total // count, *whole.shape[1:])[:, 0])


def _side_by_side(pieces: jax.Array, axis: int) -> jax.Array:
    moved = jnp.moveaxis(pieces, 0, axis)
    return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])
