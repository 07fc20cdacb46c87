"""Matrix-free Hessian of a loss: H v costs a few gradients and never forms H.

    H v = d/de grad L(p + e v) at e = 0

computed forward over reverse (Pearlmutter 1994): one `jax.jvp` of one `jax.grad`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.batching import (
    as_arrays,
    as_weights,
    batch_examples,
    check_shape,
    check_weights,
    checked_batch_size,
    mean_share,
    num_examples,
    sum_over_batches,
    working_zeros,
)
from eigenjax.operators.curvature.means import check_mean_once, check_no_sum_over_devices, mistake_of
from eigenjax.operators.curvature.modules import parameters_of, without_aux
from eigenjax.operators.functions.captured import CapturedFunction, capture, check_callable
from eigenjax.operators.functions.linearization import first_evaluable
from eigenjax.operators.parts.selection import Select, merge, partition
from eigenjax.vectors import placement, tree
from eigenjax.vectors.tree import PyTree

Scalar = Callable[[PyTree], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HessianOperator(LinearOperator):
    """Hessian of the mean loss over the data, in the varying parameters."""

    varying: PyTree
    constant: PyTree
    data: PyTree
    weights: jax.Array | None
    loss: CapturedFunction
    batch_size: int | None = dataclasses.field(metadata={"static": True})
    mode: str = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the varying parameters."""
        return tree.structure_of(self.varying)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute H v, summed over microbatches, each weighted by its share of the mean."""
        product, vector = _PRODUCTS[self.mode], placement.placed_like(vector, self.varying)
        if self.data is None:
            image = product(lambda p: self._share(p, None, None), self.varying, vector)
            return placement.placed_like(image, self.varying)
        zero = working_zeros(self.varying)
        total = sum_over_batches(
            lambda batch: product(lambda p: self._share(p, *batch), self.varying, vector),
            (self.data, self.weights),
            self.batch_size,
            zero,
        )
        return placement.placed_like(tree.cast_like(total, vector), self.varying)

    def mistake_of_loss(self) -> str | None:
        """Return an error message if the loss, evaluated on a few examples, is not a mean over examples; else None."""
        if self.data is None or num_examples(self.data) < 2 or (self.weights is None and self.batch_size is None):
            return None
        params = merge(self.varying, self.constant)
        found = mistake_of(self.loss.source.function, params, self.data, thorough=True)
        if self.weights is not None:
            return _NO_LOSSES if found else None
        return _NO_MEAN if found == "sum" else None

    # A second derivative is symmetric.
    adjoint_mv = mv

    def _share(self, varying: PyTree, batch: PyTree, weights: jax.Array | None) -> jax.Array:
        params = merge(varying, self.constant)
        if batch is None:
            return check_shape(self.loss(params), (), "loss(params)")
        part = num_examples(batch), num_examples(self.data)
        return mean_share(self.loss(params, batch), part, weights, self.weights, "loss(params, batch)")


@explained
def hessian(
    loss: Callable[..., Any],
    params: PyTree,
    data: PyTree = None,
    *,
    batch_size: int | None = None,
    weights: jax.Array | None = None,
    select: Select | None = None,
    mode: str = "auto",
    has_aux: bool = False,
) -> LinearOperator:
    """Build the Hessian operator of a loss in its parameters.

        H = d^2/dp^2 (1/N) sum_i loss_i(p),   or with weights   (sum_i w_i loss_i(p)) / (sum_i w_i)

    Args:
        loss: `loss(params) -> scalar`, or with data `loss(params, batch) -> scalar`, the mean over the batch's
            examples. It is traced here, so later changes of a global or of an attribute that it reads have no effect.
            Arrays that it reads become leaves of the operator; other Python numbers make another program. Functions
            that are jitted inside it, and everything under your own jit, read the values that JAX has cached.
        params: pytree of arrays; integer leaves are constants. Or a flax.nnx module, for `loss(module, batch)`: its
            nnx.Param vary, vectors have the structure of their State, the rest is constant. The module is not modified.
        data: pytree of arrays with a common leading axis of N examples.
        batch_size: number of examples in a microbatch; sums over microbatches in order, in the memory of one. The last,
            smaller one is weighted by its size, so the result equals the full-data one to rounding. A loss that is a
            sum is refused.
        weights: (N,) weights of the examples, of any scale; loss(params, batch) must then return the (b,) losses of the
            batch's examples. An example of weight zero has no effect.
        select: the parameters that vary; the others are constants, and vectors have None in their place. A function
            `select(path, leaf) -> bool` of JAX's key path; a string that the leaf's path must match, such as "*/kernel"
            or "params/Dense_0/*"; a compiled regular expression, searched for in the path; or a list of these. The path
            is the keys joined by "/", and * stands for any characters including "/".
        mode: "forward_over_reverse"; "linearize", which also supports most losses with a `custom_vjp`, and stores the
            intermediates of the gradient; "reverse_over_reverse", for a loss without forward mode; "auto": the first of
            the three that the loss supports.
        has_aux: the loss returns a pair (value, aux); aux is dropped.

    Returns:
        An operator on pytrees shaped and sharded like the selected parameters.

    Raises:
        ValueError: for an unknown mode, an invalid batch_size, data or weights of differing lengths, an empty
            selection.
        TypeError: if the loss is not callable or does not return a real scalar ((b,) with weights); for complex
            parameters.

    On a mesh, jit with sharded arrays and shard_map with check_vma=True give the Hessian of all data. Under pmap and
    shard_map(check_vma=False) JAX differentiates a pmean as if each device's part stood alone; such a loss is refused.

    Cost: a matvec takes the time of about three gradients and the memory of two. When a loss is first used with
    batch_size or weights, it is evaluated on eight examples.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = lambda params, batch: jnp.mean((batch @ params["w"]) ** 2)
        >>> op = hessian(loss, {"w": jnp.ones(2)}, jnp.array([[1.0, 0.0], [0.0, 2.0]]))
        >>> print(op({"w": jnp.array([1.0, 1.0])})["w"])
        [1. 4.]

    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian.
    """
    if mode not in _PRODUCTS:
        raise ValueError(f"mode={mode!r}: choose one of {', '.join(map(repr, _PRODUCTS))}")
    check_callable(loss, "loss")
    batch_size = checked_batch_size(batch_size)
    data, weights = as_arrays(data), as_weights(weights)
    if data is None and (batch_size is not None or weights is not None):
        raise ValueError("batch_size= and weights= speak of examples: pass data= too")
    if data is not None:
        check_weights(weights, num_examples(data))
    params, loss = parameters_of(params, without_aux(loss, "loss") if has_aux else loss)
    varying, constant = partition(params, select)
    params = merge(varying, constant)
    examples = [(params,)] if data is None else [(params, batch) for batch in batch_examples(data, batch_size)]
    traced = capture(loss, examples, "loss")
    for result, example in zip(traced.results, examples, strict=True):
        shape = () if weights is None else (num_examples(example[-1]),)
        check_shape(result, shape, _call(data, weights))
    check_no_sum_over_devices(traced, "loss")
    if data is not None and (weights is not None or (batch_size is not None and 1 < batch_size < num_examples(data))):
        check_mean_once(traced, loss, params, data, _NO_MEAN if weights is None else _NO_LOSSES)
    return HessianOperator(varying, constant, data, weights, traced, batch_size, mode)


_NO_MEAN = (
    "loss(params, batch) is a sum over examples: on a few of them it is the sum, not the mean, of its values on their "
    "halves. With batch_size= it must be the mean: use jnp.mean, or divide by the number of examples in the batch"
)
_NO_LOSSES = (
    "with weights= loss(params, batch) must return the losses of single examples, and what it returns for an example "
    "changes with the other examples in the batch: do not divide by their number, and do not mix them"
)


@explained
def hvp(loss: Callable[..., Any], params: PyTree, v: PyTree, *args: Any, has_aux: bool = False) -> PyTree:
    """Compute one matvec with the Hessian of loss(params, *args) in params.

    Args:
        loss: `loss(params, *args) -> scalar`.
        params: pytree of floating-point arrays, or a flax.nnx module, of which the nnx.Param vary.
        v: vector with the structure of params.
        *args: further arguments of the loss.
        has_aux: the loss returns a pair (value, aux); aux is dropped.

    Returns:
        H v, shaped like params. Cost: about three gradients.

    Raises:
        ValueError: if the structure or a shape of v differs from params; names the leaf.
        TypeError: if a dtype of v differs from params; names the leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> print(hvp(lambda p, c: c * jnp.sum(p**3), jnp.array([1.0, 2.0]), jnp.ones(2), 2.0))
        [12. 24.]
    """
    check_callable(loss, "loss")
    params, loss = parameters_of(params, without_aux(loss, "loss") if has_aux else loss)
    check_vector(v, tree.structure_of(params), name="v")
    scalar = lambda p: check_shape(loss(p, *args), (), "loss(params, *args)")
    return placement.placed_like(hessian_product(scalar, params, placement.placed_like(v, params)), params)


def _call(data: PyTree, weights: jax.Array | None) -> str:
    return ("" if weights is None else "with weights=, ") + f"loss({'params' if data is None else 'params, batch'})"


def _forward_over_reverse(function: Scalar, params: PyTree, vector: PyTree) -> PyTree:
    return jax.jvp(jax.grad(function), (params,), (vector,))[1]


def _linearize(function: Scalar, params: PyTree, vector: PyTree) -> PyTree:
    return jax.linearize(jax.grad(function), params)[1](vector)


def _reverse_over_reverse(function: Scalar, params: PyTree, vector: PyTree) -> PyTree:
    return jax.vjp(jax.grad(function), params)[1](vector)[0]


def hessian_product(function: Scalar, params: PyTree, vector: PyTree) -> PyTree:
    """Compute H v of a scalar function by the first mode that JAX can evaluate.

    The modes are tried in the order forward over reverse, linearized, reverse over reverse.
    """
    ways = (_forward_over_reverse, _linearize, _reverse_over_reverse)
    return first_evaluable([functools.partial(way, function, params) for way in ways], vector)


_PRODUCTS = {
    "auto": hessian_product,
    "forward_over_reverse": _forward_over_reverse,
    "linearize": _linearize,
    "reverse_over_reverse": _reverse_over_reverse,
}
