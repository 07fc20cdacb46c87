"""Matrix-free Fisher information of a model's parameters: exact, sampled, or with the given targets.

With l_n(y) = -log p(y | x_n), summed over the positions of example n, and g_n(y) its gradient in the parameters,

    exact        (1/N) sum_n  E_{y ~ p(. | x_n)} g_n(y) g_n(y)^T  =  (1/N) sum_n J_n^T H_n J_n
    monte_carlo  (1/N) sum_n  g_n(y_n) g_n(y_n)^T,    y_n drawn once from p(. | x_n)
    empirical    (1/N) sum_n  g_n(y_n) g_n(y_n)^T,    y_n as given

with H_n the expected second derivative of l_n in the outputs; for the likelihoods known by name that derivative does
not depend on y. No g_n is ever formed: with J_l the Jacobian of the (b,) losses l_n of a batch, the last two are
J_l^T (J_l v).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_bool
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.batching import (
    as_weights,
    batch_examples,
    check_weights,
    checked_batch_size,
    num_examples,
    sum_over_batches,
    working_zeros,
)
from eigenjax.operators.curvature.gauss_newton import (
    GaussNewtonOperator,
    capture_loss,
    capture_model,
    check_pair,
    outputs_for,
)
from eigenjax.operators.curvature.likelihood import sampled_targets
from eigenjax.operators.curvature.likelihood_choice import chosen_likelihood
from eigenjax.operators.curvature.modules import parameters_of, without_aux
from eigenjax.operators.curvature.output_loss import CrossEntropy
from eigenjax.operators.functions.captured import CapturedFunction, check_callable
from eigenjax.operators.functions.linearization import Linearization, linearized
from eigenjax.operators.parts.selection import Select, merge, partition
from eigenjax.vectors import placement, tree
from eigenjax.vectors.tree import PyTree

KINDS = ("exact", "monte_carlo", "empirical")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GradientCovarianceOperator(LinearOperator):
    """Second moment (1/N) sum g g^T of the gradients of the examples' losses, or their covariance if `centered`."""

    varying: PyTree
    constant: PyTree
    data: tuple[PyTree, PyTree]
    weights: jax.Array | None
    model: CapturedFunction
    loss: CapturedFunction | CrossEntropy
    batch_size: int | None = dataclasses.field(metadata={"static": True})
    centered: bool = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the varying parameters."""
        return tree.structure_of(self.varying)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute sum_n w_n g_n (<g_n, v> - m), with m = 0 or, centered, m = sum_n w_n <g_n, v>."""
        vector = placement.placed_like(vector, self.varying)
        mean = self._mean_slope(vector) if self.centered else None

        def matvec_of_batch(batch):
            line, shares = self._linearized(*batch)
            slopes = line.push(vector)
            slopes = slopes if mean is None else slopes - mean.astype(slopes.dtype)
            return line.pull(shares.astype(slopes.dtype) * slopes)

        zero = working_zeros(self.varying)
        return placement.placed_like(tree.cast_like(self._sum(matvec_of_batch, zero), vector), self.varying)

    # Symmetric.
    adjoint_mv = mv

    def _mean_slope(self, vector: PyTree) -> jax.Array:
        # A separate pass: subtracting the mean before the sum avoids cancellation between two large vectors.
        def slope(batch):
            line, shares = self._linearized(*batch)
            slopes = line.push(vector)
            return jnp.sum(shares.astype(slopes.dtype) * slopes)

        return self._sum(slope, jnp.zeros((), tree.accumulation_dtype(self.structure)))

    def _linearized(self, batch: tuple[PyTree, PyTree], weights: jax.Array | None) -> tuple[Linearization, jax.Array]:
        losses = lambda p: (self.loss(self._outputs(p, batch[0]), batch[1]), None)
        if weights is None or self.weights is None:
            shares = jnp.full(num_examples(batch), 1 / num_examples(self.data))
        else:
            shares = weights / jnp.sum(self.weights)
        return linearized(losses, self.varying), shares

    def _outputs(self, varying: PyTree, inputs: PyTree) -> PyTree:
        return outputs_for(self.loss, self.model(merge(varying, self.constant), inputs))

    def _sum(self, function: Callable, zero: PyTree) -> PyTree:
        return sum_over_batches(function, (self.data, self.weights), self.batch_size, zero)


@explained
def fisher(
    model: Callable[..., Any],
    params: PyTree,
    data: tuple[PyTree, PyTree],
    *,
    kind: str = "exact",
    likelihood: Any = "categorical",
    key: jax.Array | None = None,
    batch_size: int | None = None,
    select: Select | None = None,
    weights: jax.Array | None = None,
    ignore_label: int | None = None,
    centered: bool = False,
    has_aux: bool = False,
) -> LinearOperator:
    """Build the Fisher information operator of a model's parameters.

        F = (1/N) sum_n E g_n g_n^T,    g_n = d/dp -log p(y_n | x_n, p)

    or with weights (sum_n w_n E g_n g_n^T) / (sum_n w_n). An example is one entry of the leading axis.
    The outputs may have more axes of positions, such as (N, T, V) of a language model. The log-likelihood of an example
    is then the sum over its positions, and g_n is the gradient of that sum. The exact Fisher is T times the
    Gauss-Newton matrix of the mean loss of a token. To make each token an example, let the model return (N T, V).

    Args:
        model: `model(params, inputs) -> outputs`. Categorical: logits (N, V), (N, T, V), ..., or a `LinearHead`, whose
            logits are never formed all at once. Others: any pytree of entries.
        params: pytree of arrays; integer leaves are constants. Or a flax.nnx module, for `model(module, inputs)`: its
            nnx.Param vary, vectors have the structure of their State, the rest is constant. The module is not modified.
        data: (inputs, targets), pytrees of arrays with a common leading axis of N examples. Targets are labels (N,),
            (N, T), ..., or values shaped as the outputs. The exact and the sampled Fisher depend on them only through
            ignored labels.
        kind: "exact", the expectation over the model's own labels, which equals the Gauss-Newton matrix of the negative
            log-likelihood; "monte_carlo", one label drawn for each position, unbiased; "empirical", the given targets,
            which does not estimate the Fisher away from a perfect fit.
        likelihood: "categorical", softmax of logits; "gaussian", of unit variance: -log p = |y - z|^2 / 2 + constant;
            "bernoulli", of logits, for y in [0, 1]; "poisson", of logarithms of rates, for counts y. Entries are
            independent, and those out of range make the empirical Fisher NaN. Or a `Likelihood` of functions of one
            example, or a function log_prob(outputs, targets) of one (enough for "empirical"). For a model of several
            heads a pytree of these, such as {"class": "categorical", "count": "poisson"}, with outputs and targets that
            begin with its structure: heads are independent.
        key: typed random key, for "monte_carlo" only. Labels are drawn once, here, in one pass over the data, each with
            a key derived from its example. All matvecs thus use one symmetric matrix, for every batch_size.
        batch_size: number of examples in a microbatch; sums over microbatches in the memory of one. The last may be
            smaller.
        select: the parameters that vary; the others are constants, and vectors have None in their place. A function
            `select(path, leaf) -> bool`, a string such as "*/kernel", a compiled regular expression, or a list of
            these.
        weights: (N,) weights of the examples, of any scale.
        ignore_label: positions with this label are left out of their example; of several heads, those of the
            categorical ones.
        centered: subtract the mean gradient g, which makes the empirical Fisher the covariance of the gradients,
            (1/N) sum_n (g_n - g)(g_n - g)^T. Costs an additional forward pass.
        has_aux: the model returns a pair (outputs, aux); aux is dropped.

    Returns:
        A positive semidefinite operator on pytrees shaped and sharded like the selected parameters.

    Raises:
        ValueError: for an unknown kind or likelihood, a `Likelihood` that lacks what the kind needs, a key that is
            missing or not needed, data that are not a pair, incompatible options, an invalid batch_size, targets not
            shaped as the outputs.
        TypeError: for targets or a key of the wrong dtype, and complex parameters.

    Cost: a matvec takes one forward pass with tangents and one gradient, the time of at most about three gradients.
    Memory is that of 1.25 gradients of one microbatch. No array of the size of b gradients is stored.

    Example:
        >>> import jax.numpy as jnp
        >>> model = lambda w, x: x @ w
        >>> data = (jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0]))
        >>> print(fisher(model, jnp.zeros(2), data, likelihood="gaussian")(jnp.ones(2)))
        [0.5 2. ]
        >>> covariance = fisher(model, jnp.zeros(2), data, likelihood="gaussian", kind="empirical", centered=True)
        >>> print(covariance(jnp.ones(2)))
        [-0.25  0.5 ]

    Source: Martens (2020), New insights and perspectives on the natural gradient method; Kunstner, Balles, Hennig
    (2019), Limitations of the empirical Fisher approximation.
    """
    check_callable(model, "model")
    _check_options(kind, key, centered)
    batch_size = checked_batch_size(batch_size)
    data, weights = check_pair(data), as_weights(weights)
    check_weights(weights, num_examples(data))
    family = chosen_likelihood(likelihood, kind, ignore_label)
    family.check_targets(data[1])
    params, model = parameters_of(params, without_aux(model, "model") if has_aux else model)
    varying, constant = partition(params, select)
    batches = batch_examples(data, batch_size)
    model = capture_model(model, merge(varying, constant), batches)
    if kind == "exact":
        # For labels out of range the losses are NaN, and an error is raised for targets of another shape.
        mean = family.expected if weights is not None else functools.partial(_mean, family.expected)
        loss = _captured(mean, family.expected, model, batches)
        return GaussNewtonOperator(varying, constant, data, weights, model, loss, batch_size)
    losses = _captured(family.losses, family.losses, model, batches)
    if key is not None:
        data = data[0], sampled_targets(model, merge(varying, constant), data, family, key, batch_size)
        losses = _captured(family.scores, family.scores, model, batch_examples(data, batch_size))
    return GradientCovarianceOperator(varying, constant, data, weights, model, losses, batch_size, centered)


def _captured(function: Callable, losses: Any, model: CapturedFunction, batches: list) -> Any:
    """Return a loss with a closed form as it is, and trace any other one."""
    if not isinstance(losses, CrossEntropy):
        return capture_loss(function, model, batches)
    for outputs, (_, targets) in zip(model.results, batches, strict=True):
        losses.check(outputs, targets)
    return losses


def _mean(losses: Callable, outputs: PyTree, targets: PyTree) -> jax.Array:
    return jnp.mean(losses(outputs, targets))


def _check_options(kind, key, centered) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(map(repr, KINDS))}")
    if kind == "monte_carlo" and key is None:
        raise ValueError("kind='monte_carlo' draws labels: pass key=jax.random.key(seed)")
    if kind != "monte_carlo" and key is not None:
        raise ValueError(f"key= is for kind='monte_carlo', and kind={kind!r} draws nothing: leave it out")
    if key is not None and not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        raise TypeError(f"key has dtype {jnp.asarray(key).dtype}: give a typed one, jax.random.key(seed)")
    check_bool("fisher", "centered", centered)
    if centered and kind != "empirical":
        raise ValueError(f"centered=True is for kind='empirical': under kind={kind!r} gradients have mean zero")
