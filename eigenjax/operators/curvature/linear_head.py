"""Logits formed in chunks of positions: the last layer of a language model.

With T positions and V classes the logits h_t W + b are T x V numbers. For V = 50,000 they take most of the memory of a
model. A model that returns h, W and b instead lets the loss form a few rows at a time.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax

from eigenjax.operators.batching import over_slices, working_zeros
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Number of logits in a chunk, 16 MiB in float32. A matrix product reaches full speed well below this size. If the
# logits do not fit in memory, an array of this size is small compared to the parameters of the model.
_CHUNK_LOGITS = 2**22


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearHead:
    """Logits `features @ kernel + bias` that are not formed at once, the output of a model with many classes.

    `softmax_cross_entropy` accepts it, and so do `gauss_newton` and `fisher` with that loss. They then hold the logits
    of a few positions at a time, and recompute them when a derivative needs them. Any other loss receives the full
    logits.

    Args:
        features: (..., T, D), the input of the last layer. Chunks are cut from the axis T, so that leading axes may be
            sharded. Features (N, D) are cut along the axis of examples.
        kernel: (D, V); `embedding.T` for tied weights.
        bias: (V,), or None.
        chunk_size: number of the T positions in a chunk. None chooses chunks of four million logits; larger chunks are
            faster on an accelerator with much more memory than that.

    Example:
        >>> import jax.numpy as jnp
        >>> head = LinearHead(jnp.ones((2, 3)), jnp.eye(3), jnp.arange(3.0))
        >>> print(head.logits())
        [[1. 2. 3.]
         [1. 2. 3.]]
    """

    features: jax.Array
    kernel: jax.Array
    bias: jax.Array | None = None
    chunk_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    def logits(self) -> jax.Array:
        """Compute all logits, (..., T, V)."""
        logits = self.features @ self.kernel
        if self.bias is None:
            return logits
        return logits + jax.lax.expand_dims(self.bias, range(logits.ndim - 1))

    @property
    def num_classes(self) -> int:
        """Number of classes V."""
        return self.kernel.shape[1]

    @property
    def positions(self) -> tuple[int, ...]:
        """Shape (..., T) of the logits without their last axis."""
        return self.features.shape[:-1]

    def with_features(self, features: jax.Array) -> "LinearHead":
        """Return the same layer applied to other features."""
        return dataclasses.replace(self, features=features)


def map_chunks(function: Callable[..., PyTree], head: LinearHead, *arrays: PyTree) -> PyTree:
    """Apply a function to the logits of each position, chunk by chunk.

    Args:
        function: `function(logits, *arrays)` of a chunk; its arguments and its value have the axes (..., T) of
            positions.
        head: layer with (..., T, D) features.
        *arrays: (..., T, ...) each.

    Returns:
        The values of all positions. Cost: one pass over the logits, in the memory of one chunk; in derivatives too.
    """
    value = lambda features, *parts: ((), function(head.with_features(features).logits(), *parts))
    return _over_chunks(value, (head.features, *arrays), head, ())[1]


def head_product(function: Callable[..., jax.Array], head: LinearHead, tangent: LinearHead, *arrays: PyTree):
    """Compute J^T H J v chunk by chunk, for the logits as a function of features, kernel and bias.

    With z = h W + b, the tangent (dh, dW, db), and H the map `function` on tangents of the logits,

        u = H (dh W + h dW + db),    J^T u = (u W^T, h^T u, sum_t u_t).

    Args:
        function: `function(logits, tangent of the logits, *arrays)` of a chunk; returns u.
        head: point h, W and b at which J is taken.
        tangent: dh, dW and db, shaped like the head.
        *arrays: (..., T) each, cut into the same chunks.

    Returns:
        J^T H J v, shaped like the head. Cost: five matrix products of the features with a matrix of the kernel's size,
        in the memory of a few chunks of logits and one kernel.
    """

    def product(features, features_tangent, *parts):
        chunk, moved = head.with_features(features), tangent.with_features(features_tangent)
        logits, pushed = jax.jvp(LinearHead.logits, (chunk,), (moved,))
        curved = function(logits, pushed, *parts)
        (pulled,) = jax.vjp(LinearHead.logits, chunk)[1](curved.astype(logits.dtype))
        return (pulled.kernel, pulled.bias), pulled.features

    layer = (head.kernel, head.bias)
    zero = working_zeros(layer)
    (kernel, bias), features = _over_chunks(product, (head.features, tangent.features, *arrays), head, zero)
    kernel, bias = tree.cast_like((kernel, bias), layer)
    return dataclasses.replace(head, features=features, kernel=kernel, bias=bias)


def _over_chunks(function: Callable, parts: PyTree, head: LinearHead, zero: PyTree) -> tuple[PyTree, PyTree]:
    # function(*parts of a chunk) -> (summand, piece to concatenate)
    if not head.positions:
        return function(*parts)
    axis = len(head.positions) - 1
    return over_slices(lambda parts: function(*parts), parts, _chunk_size(head, head.positions[axis]), zero, axis)


def _chunk_size(head: LinearHead, length: int) -> int:
    if head.chunk_size is not None:
        return head.chunk_size
    outer_size = functools.reduce(int.__mul__, head.positions[:-1], 1)
    most = min(max(_CHUNK_LOGITS // (outer_size * head.num_classes), 1), length)
    # Prefer a divisor of the length that is not much smaller: no second program for a last, smaller chunk is needed.
    return next((size for size in range(most, most // 2, -1) if length % size == 0), most)
