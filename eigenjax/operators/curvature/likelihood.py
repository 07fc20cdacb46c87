"""Likelihoods of a model's outputs: negative log-likelihoods, and random samples.

    Bernoulli  -log p = log(1 + exp(z)) - y z,            H = p (1 - p),  p = 1 / (1 + exp(-z))
    Poisson    -log p = exp(z) - y z + constant,          H = exp(z)
    Gaussian   -log p = |y - z|^2 / 2 + constant,         H = 1

Each class has `losses` (outputs, targets) -> (b,), negative log-likelihoods; `scores`, functions with the gradients of
the losses at what `sample` returns; `expected`, functions whose second derivative in the outputs is the expectation of
that of the losses.

A sample depends on the key and the example alone, not on the batch that contains the example.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.batching import batch_examples, num_examples, over_slices
from eigenjax.operators.curvature.linear_head import LinearHead, map_chunks
from eigenjax.operators.curvature.output_loss import CrossEntropy, check_labels
from eigenjax.operators.functions.captured import CapturedFunction, capture
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Above it the Poisson distribution is taken as normal: its skewness is 3e-3, and integers lose digits in float32.
_LARGEST_RATE = 1e5


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Categorical likelihood: labels with the probabilities softmax(z), independent at each position."""

    ignore_label: int | None = None

    @property
    def losses(self) -> CrossEntropy:
        """Function for the (b,) negative log-likelihoods of a batch's targets, summed over positions."""
        return CrossEntropy(self.ignore_label, "sum")

    scores = expected = losses

    def check_targets(self, targets: PyTree) -> None:
        """Raise a TypeError unless the targets are labels."""
        check_labels(targets)

    def draw(self, outputs: jax.Array | LinearHead, targets: jax.Array, keys: jax.Array) -> jax.Array:
        """Sample labels shaped like targets; ignored and out-of-range labels stay unchanged."""
        self.losses.check(outputs, targets)
        kernel = outputs.features if isinstance(outputs, LinearHead) else outputs
        draw = lambda key: jax.random.uniform(key, targets.shape[1:], tree.accumulation_dtype(kernel))
        arrays = jax.vmap(draw)(keys), targets
        if isinstance(outputs, LinearHead):
            return map_chunks(self._labels, outputs, *arrays)
        return self._labels(outputs, *arrays)

    def _labels(self, logits: jax.Array, uniform: jax.Array, targets: jax.Array) -> jax.Array:
        # By inversion: j where c_{j-1} <= u < c_j for the cumulative probabilities c.
        cumulative = jnp.cumsum(jax.nn.softmax(logits.astype(uniform.dtype), -1), -1)
        below = cumulative <= uniform[..., None] * cumulative[..., -1:]
        drawn = jnp.minimum(jnp.sum(below, -1, dtype=jnp.int32), logits.shape[-1] - 1)
        return jnp.where(self.losses.is_counted(targets, logits.shape[-1]), drawn, targets.astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Gaussian likelihood with means z and unit variance, independent entries; a sample is stored as y - z."""

    @property
    def losses(self) -> Callable:
        """Function for the (b,) negative log-likelihoods of a batch's targets."""
        return _half_squares

    @property
    def scores(self) -> Callable:
        """Function for (b,) values whose gradients are those of a sample's negative log-likelihood."""
        return _scores

    expected = losses

    def check_targets(self, targets: PyTree) -> None:
        """Accept any targets; their shapes are compared with those of the outputs later."""

    def draw(self, outputs: PyTree, _targets: PyTree, keys: jax.Array) -> PyTree:
        """Sample standard normal numbers shaped like the outputs."""
        return draw_leaves(lambda key, z: jax.random.normal(key, z.shape, z.dtype), materialized(outputs), keys)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """Bernoulli or Poisson likelihood with natural parameters z: independent entries, -log p = a(z) - y z + constant.

    A sample is stored as y - a'(z), the score.
    Entries of y outside of [0, largest] make the loss NaN.
    """

    name: str
    log_partition: Callable[[jax.Array], jax.Array]  # a, elementwise
    noise: Callable[[jax.Array, jax.Array], jax.Array]  # (key, z) -> y - E y, for a random y
    largest: float

    def losses(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """Compute the (b,) negative log-likelihoods of a batch's targets, without their constants."""
        outputs = materialized(outputs)
        _check_alike(outputs, targets)
        dtype = tree.accumulation_dtype(outputs)
        loss = lambda z, y: over_positions(self._of_entries(z.astype(dtype), y))
        return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(loss, outputs, targets)))

    expected = losses

    @property
    def scores(self) -> Callable:
        """Function for (b,) values whose gradients are those of a sample's negative log-likelihood."""
        return _scores

    def check_targets(self, targets: PyTree) -> None:
        """Raise a TypeError unless the targets are real numbers."""
        for leaf in jax.tree.leaves(targets):
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                raise TypeError(f"targets have dtype {leaf.dtype}: likelihood={self.name!r} needs real numbers")

    def draw(self, outputs: PyTree, _targets: PyTree, keys: jax.Array) -> PyTree:
        """Sample y - E y, shaped like the outputs, in their accumulation dtype."""
        # In 16 bits the random numbers themselves would be multiples of 1 / 128.
        wide = lambda z: z.astype(tree.accumulation_dtype(z))
        return draw_leaves(self.noise, jax.tree.map(wide, materialized(outputs)), keys)

    def _of_entries(self, z: jax.Array, y: jax.Array) -> jax.Array:
        y = y.astype(z.dtype)
        return self.log_partition(z) - jnp.where((y >= 0) & (y <= self.largest), y, jnp.nan) * z


@jax.custom_jvp
def _probability(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(z)


@jax.custom_jvp
def _softplus(z: jax.Array) -> jax.Array:
    return jax.nn.softplus(z)


# JAX's own derivative p (1 - p) of a probability is zero from z = 17 on in float32, where 1 - p is rounded to zero.
_probability.defjvps(lambda dz, _, z: dz * _probability(z) * _probability(-z))
_softplus.defjvps(lambda dz, _, z: dz * _probability(z))


def _bernoulli_noise(key: jax.Array, z: jax.Array) -> jax.Array:
    drawn = jax.random.bernoulli(key, _probability(z))
    return jnp.where(drawn, _probability(-z), -_probability(z))


def _poisson_noise(key: jax.Array, z: jax.Array) -> jax.Array:
    rate = jnp.exp(z)
    small = jnp.minimum(rate, _LARGEST_RATE)
    drawn = jax.random.poisson(key, small).astype(z.dtype) - small
    normal = jnp.exp(z / 2) * jax.random.normal(key, z.shape, z.dtype)
    return jnp.where(rate <= _LARGEST_RATE, drawn, normal)


BERNOULLI = Exponential("bernoulli", _softplus, _bernoulli_noise, 1.0)
POISSON = Exponential("poisson", jnp.exp, _poisson_noise, float("inf"))


def draw_leaves(draw: Callable[[jax.Array, jax.Array], jax.Array], outputs: PyTree, keys: jax.Array) -> PyTree:
    """Sample each leaf of the outputs, with a key derived from that of the example and the number of the leaf."""
    leaves, treedef = jax.tree.flatten(outputs)
    drawn = [
        jax.vmap(lambda key, z, i=i: draw(jax.random.fold_in(key, i), z))(keys, leaf) for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, drawn)


def sampled_targets(
    model: CapturedFunction, params: PyTree, data: PyTree, likelihood: Any, key: jax.Array, batch_size: int | None
) -> PyTree:
    """Sample one target for each example, in one pass of the model over the data and the memory of one microbatch."""
    targets = [targets for _, targets in batch_examples(data, batch_size)]
    keys = [jax.ShapeDtypeStruct((num_examples(y),), key.dtype) for y in targets]
    draw = capture(likelihood.draw, zip(model.results, targets, keys, strict=True), "likelihood")
    return _drawn(batch_size, draw, model, params, data, key)


@functools.partial(jax.jit, static_argnums=0)
def _drawn(batch_size, draw, model, params, data, key):
    indices = jnp.arange(num_examples(data), dtype=jnp.int32)

    def draw_batch(batch):
        (inputs, targets), indices = batch
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        return (), draw(model(params, inputs), targets, keys)

    return over_slices(draw_batch, (data, indices), batch_size, ())[1]


def _half_squares(outputs: PyTree, targets: PyTree) -> jax.Array:
    outputs = materialized(outputs)
    _check_alike(outputs, targets)
    distance = jax.tree.map(lambda z, y: z - y.astype(z.dtype), outputs, targets)
    return _inner_products(distance, distance) / 2


def _scores(outputs: PyTree, noise: PyTree) -> jax.Array:
    # The gradient of a(z) - y z at y = a'(z) + noise, and that of |y - z|^2 / 2, is that of -<noise, z>.
    return -_inner_products(noise, outputs)


def _check_alike(outputs: PyTree, targets: PyTree) -> None:
    shapes = [jax.tree.map(jnp.shape, x) for x in (targets, outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"targets have the shapes {shapes[0]}, but the model's outputs {shapes[1]}: give equal ones")


def over_positions(x: jax.Array) -> jax.Array:
    """Sum over all axes but the first, that of the examples."""
    return jnp.sum(x, tuple(range(1, x.ndim)))


def _inner_products(x: PyTree, y: PyTree) -> jax.Array:
    y = materialized(y)
    dtype = tree.accumulation_dtype((x, y))
    product = lambda x, y: over_positions(x.astype(dtype) * y.astype(dtype))
    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(product, x, y)))


def materialized(outputs: PyTree) -> PyTree:
    """Return a model's outputs, with all logits in place of a `LinearHead`."""
    return outputs.logits() if isinstance(outputs, LinearHead) else outputs
