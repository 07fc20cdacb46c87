"""Losses of a model's outputs with a closed-form second derivative.

For the softmax cross-entropy of logits z with label y, p = softmax(z),

    l = log sum_j exp(z_j) - z_y,    dl/dz = p - e_y,    H_l u = p * (u - <p, u>)

Each row of H_l u needs only one row of logits. No derivative is traced, and with a `LinearHead` a few rows exist at a
time.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.operators.curvature.linear_head import LinearHead, head_product, map_chunks
from eigenjax.vectors import tree

REDUCTIONS = ("mean", "example", "none")


@explained
def softmax_cross_entropy(
    outputs: jax.Array | LinearHead, targets: jax.Array, *, ignore_label: int | None = None, reduction: str = "mean"
) -> jax.Array:
    """Compute the negative log-likelihood of integer labels under softmax(outputs).

        l = log sum_j exp(z_j) - z_y

    `gauss_newton` treats this loss in closed form, also with options: `functools.partial(softmax_cross_entropy,
    ignore_label=-1)`. It divides by the number of valid positions in all the data: with microbatches too, the operator
    is that of the mean over all valid positions.

    Args:
        outputs: (..., V) logits, or a `LinearHead`: then only a chunk of the logits is formed at a time, in this value
            and in its derivatives of any order.
        targets: (...) integer labels, 0 to V - 1; any other label makes the loss NaN.
        ignore_label: positions with this label do not count.
        reduction: "mean" over all valid positions, (); "example", the mean over each example's valid positions,
            (b,) for a leading axis of b; "none", shaped like targets, zero where ignored.

    Returns:
        The loss, in float32 or a wider dtype. A mean over no valid position is zero.

    Raises:
        TypeError: if targets are not integers.
        ValueError: if the shapes do not fit, or for an unknown reduction.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.array([[0.0, 0.0], [5.0, 0.0]])
        >>> print(softmax_cross_entropy(logits, jnp.array([1, -1]), ignore_label=-1).round(4))
        0.6931
    """
    return CrossEntropy(ignore_label, reduction)(outputs, targets)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Loss `softmax_cross_entropy` with fixed options, hashable and comparable: a static part of an operator.

    In addition to the public reductions, "sum" sums over the positions of an example.
    """

    ignore_label: int | None = None
    reduction: str = "mean"

    def __post_init__(self):
        if self.reduction not in (*REDUCTIONS, "sum"):
            raise ValueError(f"reduction={self.reduction!r}: choose one of {', '.join(map(repr, REDUCTIONS))}")
        if self.ignore_label is not None and not isinstance(self.ignore_label, int):
            raise TypeError(f"ignore_label={self.ignore_label!r}: give an integer, or None")

    def __call__(self, outputs: jax.Array | LinearHead, targets: jax.Array) -> jax.Array:
        """Compute the reduced loss."""
        self.check(outputs, targets)
        targets = targets.astype(jnp.int32)
        if isinstance(outputs, LinearHead):
            losses = map_chunks(self._of_positions, outputs, targets)
        else:
            losses = self._of_positions(outputs, targets)
        valid = self.is_valid(targets)
        if self.reduction == "none":
            return losses
        axes = None if self.reduction == "mean" else tuple(range(1, losses.ndim))
        total = jnp.sum(losses, axes)
        return total if self.reduction == "sum" else total / _count(valid, axes).astype(total.dtype)

    @property
    def source_name(self) -> str:
        """Name of the loss."""
        return "softmax_cross_entropy"

    def shape(self, targets: jax.Array) -> tuple[int, ...]:
        """Return the shape of the reduced loss."""
        return {"mean": (), "none": targets.shape}.get(self.reduction, targets.shape[:1])

    def is_valid(self, targets: jax.Array) -> jax.Array:
        """Return which positions count, as booleans shaped like targets."""
        if self.ignore_label is None:
            return jnp.ones_like(targets, bool)
        return targets.astype(jnp.int32) != self.ignore_label

    def is_counted(self, targets: jax.Array, num_classes: int) -> jax.Array:
        """Return which positions count and have a label in range."""
        return self.is_valid(targets) & _is_label(targets, num_classes)

    def total(self, targets: jax.Array, weights: jax.Array | None) -> jax.Array:
        """Sum the weights of all positions of all the data: () an integer, or in the dtype of the weights."""
        if weights is not None:
            return jnp.sum(weights)
        valid = self.is_valid(targets)
        return jnp.asarray(len(targets)) if self.reduction == "sum" else _count(valid, None)

    def position_weights(self, targets: jax.Array, weights: jax.Array | None, num_classes: int, dtype: Any):
        """Return the weight of each position in the total sum, shaped like targets; NaN for a label out of range."""
        valid = self.is_valid(targets)
        counts = jnp.where(_is_label(targets, num_classes) | ~valid, valid.astype(dtype), jnp.nan)
        if weights is None:
            return counts
        if self.reduction == "example":
            weights = weights / _count(valid, tuple(range(1, valid.ndim))).astype(weights.dtype)
        return counts * weights.astype(dtype).reshape(weights.shape + (1,) * (counts.ndim - weights.ndim))

    @staticmethod
    def curvature(outputs: Any, tangent: Any, position_weights: jax.Array) -> Any:
        """Compute the Gauss-Newton matvec of sum_t w_t l_t in the outputs.

        For logits the result is w p (u - <p, u>). For a `LinearHead` it is J^T of this, with u the tangent of its
        logits.
        """
        if isinstance(outputs, LinearHead):
            return head_product(_curvature, outputs, tangent, position_weights)
        return _curvature(outputs, tangent, position_weights)

    def check(self, outputs: Any, targets: Any) -> None:
        """Raise an error unless the outputs are logits and the targets are matching labels."""
        check_labels(targets)
        shape = outputs.positions if isinstance(outputs, LinearHead) else jnp.shape(outputs)[:-1]
        if not isinstance(outputs, LinearHead) and not (hasattr(outputs, "ndim") and outputs.ndim > 0):
            raise TypeError(f"outputs must be an array of logits or a LinearHead, and is a {type(outputs).__name__}")
        if jnp.shape(targets) != shape:
            raise ValueError(
                f"targets have shape {jnp.shape(targets)}, but the logits' leading axes are {shape}: give one label "
                "for each row of logits"
            )

    def _of_positions(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        logits = logits.astype(tree.accumulation_dtype(logits))
        # A comparison and a sum instead of a gather: they fuse, also in derivatives, and keep the axis V sharded.
        classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
        chosen = jnp.sum(jnp.where(classes == targets[..., None], logits, 0), -1)
        losses = jax.nn.logsumexp(logits, -1) - chosen
        losses = jnp.where(_is_label(targets, logits.shape[-1]), losses, jnp.nan)
        return jnp.where(self.is_valid(targets), losses, 0)


def recognized(loss: Callable) -> CrossEntropy | None:
    """Return the loss as a `CrossEntropy` if it is `softmax_cross_entropy`, with or without options; else None."""
    if loss is softmax_cross_entropy:
        return CrossEntropy()
    if isinstance(loss, functools.partial) and loss.func is softmax_cross_entropy and not loss.args:
        return CrossEntropy(**loss.keywords)
    return loss if isinstance(loss, CrossEntropy) else None


def check_labels(targets: Any) -> None:
    """Raise a TypeError unless targets is an array of integers."""
    if not hasattr(targets, "dtype") or not jnp.issubdtype(targets.dtype, jnp.integer):
        given = getattr(targets, "dtype", type(targets).__name__)
        raise TypeError(
            f"targets are {given}: a categorical loss takes one array of integer labels; for one-hot rows give "
            "jnp.argmax(targets, -1), and for several heads to fisher a likelihood for each, likelihood={...} with the "
            "keys of the targets"
        )


def _curvature(logits: jax.Array, tangent: jax.Array, position_weights: jax.Array) -> jax.Array:
    dtype = tree.accumulation_dtype(logits)
    probabilities, direction = jax.nn.softmax(logits.astype(dtype), -1), tangent.astype(dtype)
    centered = direction - jnp.sum(probabilities * direction, -1, keepdims=True)
    return (position_weights[..., None].astype(dtype) * probabilities * centered).astype(logits.dtype)


def _is_label(targets: jax.Array, num_classes: int) -> jax.Array:
    # Compare in 32 bits, because the number of classes may exceed the range of the labels' own dtype.
    targets = targets.astype(jnp.int32)
    return (targets >= 0) & (targets < num_classes)


def _count(valid: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    return jnp.maximum(jnp.sum(valid, axes, dtype=jnp.int32), 1)
