"""Detection of losses that are not means over examples, by evaluating them on a few examples and on halves of these.

    mean:  l(whole) = (l(first half) + l(second half)) / 2          sum:  l(whole) = l(first half) + l(second half)

Each microbatch is weighted by its share b / N of the mean. For a loss that is a sum, the result would be b / N times
the Hessian of that sum. No single matvec reveals this error.
"""

import math
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from eigenjax.operators.batching import num_examples
from eigenjax.operators.functions.captured import CapturedFunction, capture
from eigenjax.operators.functions.closure import TracedFunction
from eigenjax.vectors.tree import PyTree

# Number of examples that a loss is evaluated on, divisible by four for quarters.
_FEW = 8
# Values of a loss count as equal up to the larger of 1e-3 and 16 * eps, relative to the largest.
_SUM_ROUNDING, _EPSILONS = 1e-3, 16

# Programs that passed the check, whose result depends on the program and hardly on the numbers.
_passed: weakref.WeakSet[TracedFunction] = weakref.WeakSet()


def check_mean_once(
    loss: CapturedFunction,
    function: Callable,
    params: PyTree,
    data: PyTree,
    remedy: str,
    *,
    refused: tuple[str, ...] = ("sum",),
) -> None:
    """Raise a ValueError if a loss is certainly not a mean over examples.

    Traced values and programs that passed the check already are skipped.

    Args:
        loss: the traced loss; its program is checked once.
        function: (params, batch) -> the loss, of any number of examples.
        params: the parameters.
        data: the examples.
        remedy: error message for a loss that is refused.
        refused: results of `mistake_of` that are refused.
    """
    if loss.traces[0] in _passed or not _is_concrete((loss.constants, params, data)):
        return
    if mistake_of(function, params, data) in refused:
        raise ValueError(remedy)
    _passed.add(loss.traces[0])


def mistake_of(function: Callable, params: PyTree, data: PyTree, *, thorough: bool = False) -> str | None:
    """Evaluate the loss on a few examples, and return "sum", "mixed" (neither sum nor mean) or None.

    Args:
        function: (params, batch) -> scalar, or one loss for each example.
        params: the parameters.
        data: two examples or more.
        thorough: also detect a sum plus a term that does not depend on the examples, with more evaluations.

    Returns:
        "sum", "mixed" or None. Losses of single examples are a "sum" if they are divided by the number of examples.

    Cost: two evaluations of eight examples, three if thorough, and the compilation of a program for them.

    >>> params, data = jnp.ones(2), jnp.arange(8.0).reshape(4, 2)
    >>> mistake_of(lambda p, x: jnp.sum(x @ p), params, data), mistake_of(lambda p, x: jnp.mean(x @ p), params, data)
    ('sum', None)
    """
    parts = 4 if thorough else 2
    count = min(num_examples(data), _FEW) // parts * parts
    if not count:
        return None if parts == 2 else mistake_of(function, params, data)
    try:
        whole, halves, quarters = _values(function, params, data, count, parts)
    except (TypeError, ValueError):  # the loss accepts only its own number of examples
        return None
    if not all(np.all(np.isfinite(x)) for x in (whole, *halves, *quarters)):
        return None
    largest = max(float(np.max(np.abs(x))) for x in (whole, *halves))
    bound = largest * max(_SUM_ROUNDING, _EPSILONS * float(jnp.finfo(whole.dtype).eps))
    near = lambda x, y: bool(np.all(np.abs(np.asarray(x, float) - np.asarray(y, float)) <= bound))
    if np.ndim(whole):
        joined = np.concatenate(halves)
        return None if near(whole, joined) else "sum" if near(2 * whole, joined) else "mixed"
    if near(whole, sum(halves) / 2):
        return None
    # For a sum plus a constant term, whole - (sum of halves) is minus that term, which both halves contain.
    is_sum = near(whole, sum(halves)) or (quarters and near(whole - sum(halves), halves[0] - sum(quarters)))
    return "sum" if is_sum else "mixed"


def _values(function: Callable, params: PyTree, data: PyTree, count: int, parts: int) -> tuple[Any, list, list]:
    cut = lambda start, size: jax.tree.map(lambda x: jax.lax.slice_in_dim(x, start, start + size), data)
    half, quarter = count // 2, count // 4
    spans = [(0, count), (0, half), (half, half), *([(0, quarter), (quarter, quarter)] if parts == 4 else [])]
    sizes = dict.fromkeys(size for _, size in spans)
    examples = [(params, jax.eval_shape(lambda size=size: cut(0, size))) for size in sizes]
    traced = capture(function, examples, "loss")
    values = _evaluated(traced, params, [cut(*span) for span in spans])
    whole, first, second, *quarters = map(np.asarray, jax.device_get(values))
    return whole, [first, second], quarters


@jax.jit
def _evaluated(traced: CapturedFunction, params: PyTree, batches: list[PyTree]) -> list[jax.Array]:
    return [traced(params, batch) for batch in batches]


def _is_concrete(tree: PyTree) -> bool:
    leaves = jax.tree.leaves(tree)
    return all(isinstance(x, np.ndarray) or not isinstance(x, Tracer) for x in leaves) and all(
        getattr(x, "is_fully_addressable", True) for x in leaves
    )


def spread_shape(outputs: PyTree, targets: PyTree) -> tuple[int, ...] | None:
    """Return the shape of outputs - targets if broadcasting makes it larger than both, as (N, 1) with (N,); else None.

    >>> spread_shape(jnp.ones((5, 1)), jnp.ones(5)), spread_shape(jnp.ones((5, 1)), jnp.ones((5, 1)))
    ((5, 5), None)
    """
    shapes = [getattr(x, "shape", None) for x in (outputs, targets)]
    if not all(isinstance(shape, tuple) for shape in shapes):
        return None
    try:
        shape = np.broadcast_shapes(*shapes)  # type: ignore[arg-type]
    except ValueError:
        return None
    return shape if math.prod(shape) > max(math.prod(x) for x in shapes) else None  # type: ignore[arg-type]


def check_no_sum_over_devices(function: CapturedFunction, name: str) -> None:
    """Raise a ValueError if a function sums over devices in a way that differentiates only one device's part."""
    # With check_vma=True JAX uses another primitive, whose derivative is right.
    if any(traced.mentions("psum") for traced in function.traces):
        raise ValueError(
            f"{name} adds up over devices (psum, pmean) under pmap, vmap or shard_map(check_vma=False), where JAX "
            "differentiates each device's part alone: matvecs would be those of its own data. Use "
            "shard_map(check_vma=True), jit with sharded arrays, or leave the pmean out and take it of each matvec"
        )
