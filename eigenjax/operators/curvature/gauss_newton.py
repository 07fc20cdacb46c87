"""Matrix-free generalized Gauss-Newton matrix of a loss of a model's outputs.

With z_i(p) the model's outputs for example i, J_i = dz_i/dp, and H_i the second derivative of loss_i in z_i,

    d^2 L / dp^2  =  (1/N) sum_i J_i^T H_i J_i  +  (1/N) sum_i sum_c (dl_i/dz_ic) d^2 z_ic / dp^2

and the first sum is the Gauss-Newton matrix: the Hessian of the loss of the linearized model. It is positive
semidefinite for a loss that is convex in the outputs. A matvec applies J, H and J^T from one linearization of the
model.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
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
from eigenjax.operators.curvature.hessian import hessian_product
from eigenjax.operators.curvature.linear_head import LinearHead
from eigenjax.operators.curvature.means import check_mean_once, check_no_sum_over_devices, mistake_of, spread_shape
from eigenjax.operators.curvature.modules import parameters_of, without_aux
from eigenjax.operators.curvature.output_loss import CrossEntropy, check_labels, recognized
from eigenjax.operators.functions.captured import CapturedFunction, capture, check_callable
from eigenjax.operators.functions.linearization import linearized
from eigenjax.operators.parts.selection import Select, merge, partition
from eigenjax.vectors import placement, tree
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GaussNewtonOperator(LinearOperator):
    """Gauss-Newton operator J^T H_L J of the mean loss over the data, in the varying parameters."""

    varying: PyTree
    constant: PyTree
    data: tuple[PyTree, PyTree]
    weights: jax.Array | None
    model: CapturedFunction
    loss: CapturedFunction | CrossEntropy
    batch_size: int | None = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the varying parameters."""
        return tree.structure_of(self.varying)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute G v, summed over microbatches, each weighted by its share of the mean."""
        zero, vector = working_zeros(self.varying), placement.placed_like(vector, self.varying)
        matvec_of_batch = lambda batch: self._product(batch[0], batch[1], vector)
        total = sum_over_batches(matvec_of_batch, (self.data, self.weights), self.batch_size, zero)
        return placement.placed_like(tree.cast_like(total, vector), self.varying)

    def mistake_of_loss(self) -> str | None:
        """Return an error message if the loss, evaluated on a few examples, is not a mean over examples; else None."""
        if isinstance(self.loss, CrossEntropy) or num_examples(self.data) < 2:
            return None
        spread = None if self.weights is not None else spread_shape(self.model.results[0], self.data[1])
        params = merge(self.varying, self.constant)
        found = mistake_of(_loss_of_batch(self.model, self.loss), params, self.data, thorough=True)
        if self.weights is not None:
            return _NO_LOSSES if found else None
        if found and spread:
            return _spread_remedy(self.model, self.data)
        return _NO_MEAN if found == "sum" and self.batch_size is not None else None

    # Symmetric.
    adjoint_mv = mv

    def _product(self, batch: tuple[PyTree, PyTree], weights: jax.Array | None, vector: PyTree) -> PyTree:
        outputs = lambda varying: self._outputs(merge(varying, self.constant), batch[0])
        floating = lambda varying: partition(outputs(varying), name="the model's output ")
        line = linearized(floating, self.varying)
        at = line.value, line.aux, line.push(vector), batch, weights
        if isinstance(self.loss, CrossEntropy):
            return line.pull(self._closed_form(self.loss, *at))
        return line.pull(self._by_derivatives(self.loss, *at))

    def _outputs(self, params: PyTree, inputs: PyTree) -> PyTree:
        return outputs_for(self.loss, self.model(params, inputs))

    def _by_derivatives(self, loss: Callable, outputs, others, tangent, batch, weights) -> PyTree:
        part = num_examples(batch), num_examples(self.data)

        def share(floating):
            value = loss(merge(floating, others), batch[1])
            return mean_share(value, part, weights, self.weights, "loss(outputs, targets)")

        return hessian_product(share, outputs, tangent)

    def _closed_form(self, loss: CrossEntropy, outputs, others, tangent, batch, weights) -> PyTree:
        whole, targets = merge(outputs, others), batch[1]
        loss.check(whole, targets)
        leaf = whole.features if isinstance(whole, LinearHead) else whole
        num_classes = whole.num_classes if isinstance(whole, LinearHead) else whole.shape[-1]
        dtype = tree.accumulation_dtype(leaf)
        counts = loss.position_weights(targets, weights, num_classes, dtype)
        total = loss.total(self.data[1], self.weights).astype(dtype)
        return loss.curvature(outputs, tangent, counts / total)


@explained
def gauss_newton(
    model: Callable[..., Any],
    loss: Callable[..., Any],
    params: PyTree,
    data: tuple[PyTree, PyTree],
    *,
    batch_size: int | None = None,
    select: Select | None = None,
    weights: jax.Array | None = None,
    has_aux: bool = False,
) -> LinearOperator:
    """Build the Gauss-Newton operator of a loss of a model's outputs.

        G = (1/N) sum_i J_i^T H_i J_i,    J_i = d model_i / dp,    H_i = d^2 loss_i / d outputs^2

    or with weights (sum_i w_i J_i^T H_i J_i) / (sum_i w_i).

    If some positions do not count, such as padding, a mean over the valid positions is not a mean over examples. The
    means of microbatches then do not average to the mean of all data. Three ways are exact, for any batch_size:

    - `functools.partial(softmax_cross_entropy, ignore_label=-1)`, which this function treats in closed form;
    - a loss that returns (b,) means over each example's positions, with `weights` (N,) the number of valid positions;
    - a loss that returns (b, T), one for each position, with `weights` (N, T) of ones and zeros.

    Args:
        model: `model(params, inputs) -> outputs`, an array of any rank, a pytree, or a `LinearHead`. Model and loss are
            traced here: later changes of globals or attributes that they read have no effect.
        loss: `loss(outputs, targets) -> scalar`, the mean over the batch's examples. With `softmax_cross_entropy` H_i
            has a closed form, which saves one or two arrays of logits (B, T, V). For a transformer with 4 x 256
            tokens and 50,257 classes it takes 642 MB instead of 1,052 MB. With a `LinearHead` only a few rows exist at
            a time (398 MB).
        params: pytree of arrays; integer leaves are constants. Or a flax.nnx module, for `model(module, inputs)`: its
            nnx.Param vary, vectors have the structure of their State, the rest is constant. The module is not modified.
        data: (inputs, targets), pytrees of arrays with a common leading axis of N examples.
        batch_size: number of examples in a microbatch; sums over microbatches in order, in the memory of one. The last,
            smaller one is weighted by its size, so the result equals the full-data one to rounding. A loss that is a
            sum is refused.
        select: the parameters that vary; the others are constants, and vectors have None in their place. A function
            `select(path, leaf) -> bool`, a string such as "*/kernel", a compiled regular expression, or a list of
            these.
        weights: (N,) or (N, ...), of any scale; the loss must then return losses of the shape (b,) or (b, ...). Entries
            of weight zero have no effect.
        has_aux: the model returns a pair (outputs, aux); aux is dropped.

    Returns:
        An operator on pytrees shaped and sharded like the selected parameters.

    Raises:
        ValueError: for data that are not a pair, an invalid batch_size, leaves or weights of differing lengths, an
            empty selection.
        TypeError: if model or loss is not callable, or the loss does not return a real scalar (an array with weights);
            for complex parameters.

    Cost: a matvec takes one forward pass with tangents and one gradient, the time of at most about three gradients.
    Memory is about that of a gradient of one microbatch.

    Example:
        >>> import jax.numpy as jnp
        >>> model = lambda params, inputs: inputs @ params["w"]
        >>> loss = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
        >>> data = (jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2))
        >>> op = gauss_newton(model, loss, {"w": jnp.ones(2)}, data)
        >>> print(op({"w": jnp.array([1.0, 1.0])})["w"])
        [1. 4.]

    Source: Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.
    """
    check_callable(model, "model")
    check_callable(loss, "loss")
    batch_size = checked_batch_size(batch_size)
    data, weights = check_pair(data), as_weights(weights)
    check_weights(weights, num_examples(data), trailing=True)
    named_loss = recognized(loss)
    if named_loss is not None:
        check_labels(data[1])
        shape = () if weights is None else weights.shape
        check_shape(jax.ShapeDtypeStruct(named_loss.shape(data[1]), jnp.float32), shape, _call(weights))
    params, model = parameters_of(params, without_aux(model, "model") if has_aux else model)
    varying, constant = partition(params, select)
    batches = batch_examples(data, batch_size)
    params = merge(varying, constant)
    traced = capture_model(model, params, batches)
    check_no_sum_over_devices(traced, "model")
    if named_loss is not None:
        for outputs, (_, targets) in zip(traced.results, batches, strict=True):
            named_loss.check(outputs, targets)
        return GaussNewtonOperator(varying, constant, data, weights, traced, named_loss, batch_size)
    traced_loss = capture_loss(loss, traced, batches)
    for result, batch in zip(traced_loss.results, batches, strict=True):
        shape = () if weights is None else (num_examples(batch), *weights.shape[1:])
        check_shape(result, shape, _call(weights))
    _check_mean(traced, traced_loss, params, data, weights, batch_size)
    return GaussNewtonOperator(varying, constant, data, weights, traced, traced_loss, batch_size)


def _check_mean(model, loss, params, data, weights, batch_size) -> None:
    check_no_sum_over_devices(loss, "loss")
    spread = None if weights is not None else spread_shape(model.results[0], data[1])
    is_cut = batch_size is not None and 1 < batch_size < num_examples(data)
    if weights is not None or is_cut or spread:
        remedy = _NO_LOSSES if weights is not None else _NO_MEAN if not spread else _spread_remedy(model, data)
        refused = ("sum", "mixed") if spread else ("sum",)
        check_mean_once(loss, _loss_of_batch(model, loss), params, data, remedy, refused=refused)


def _loss_of_batch(model: CapturedFunction, loss: CapturedFunction) -> Callable:
    def evaluate(params, batch):
        outputs = model.source.function(params, batch[0])
        outputs = outputs.logits() if isinstance(outputs, LinearHead) else outputs
        return loss.source.function(outputs, batch[1])

    return evaluate


def _spread_remedy(model: CapturedFunction, data: PyTree) -> str:
    outputs, targets = model.results[0].shape, data[1].shape
    return (
        f"the model's outputs have the shape {outputs} and the targets {targets}, which the loss combines to one with "
        "more entries than either, each output with each target: give targets of the shape of the outputs, such as "
        "targets[:, None], so that loss(outputs, targets) is the mean over examples"
    )


_NO_MEAN = (
    "loss(outputs, targets) is a sum over examples: on a few of them it is the sum, not the mean, of its values on "
    "their halves. With batch_size= it must be the mean: use jnp.mean, or divide by the number of examples in the batch"
)
_NO_LOSSES = (
    "with weights= loss(outputs, targets) must return the losses of single examples, and what it returns for an "
    "example changes with the other examples in the batch: do not divide by their number, and do not mix them"
)


def check_pair(data: Any) -> tuple[PyTree, PyTree]:
    """Return inputs and targets as arrays; raise a ValueError for data that are not a pair."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        given = f"{type(data).__name__} of {len(data)}" if isinstance(data, tuple | list) else type(data).__name__
        raise ValueError(f"data is of type {given}: give the pair (inputs, targets)")
    inputs, targets = as_arrays(tuple(data))
    num_examples((inputs, targets))
    return inputs, targets


def capture_model(model: Callable, params: PyTree, batches: list[tuple[PyTree, PyTree]]) -> CapturedFunction:
    """Trace the model for microbatches of these shapes."""
    return capture(model, [(params, inputs) for inputs, _ in batches], "model")


def capture_loss(loss: Callable, model: CapturedFunction, batches: list[tuple[PyTree, PyTree]]) -> CapturedFunction:
    """Trace the loss for the model's outputs, with full logits if the model returns a `LinearHead`."""
    formed = lambda outputs: jax.eval_shape(LinearHead.logits, outputs) if isinstance(outputs, LinearHead) else outputs
    outputs = map(formed, model.results)
    return capture(loss, [(z, targets) for z, (_, targets) in zip(outputs, batches, strict=True)], "loss")


def outputs_for(loss: CapturedFunction | CrossEntropy, outputs: PyTree) -> PyTree:
    """Return a model's outputs for a loss; only `CrossEntropy` takes a `LinearHead`, any other one the full logits."""
    is_formed = isinstance(outputs, LinearHead) and not isinstance(loss, CrossEntropy)
    return outputs.logits() if is_formed else outputs


def _call(weights: jax.Array | None) -> str:
    return ("" if weights is None else "with weights=, ") + "loss(outputs, targets)"
