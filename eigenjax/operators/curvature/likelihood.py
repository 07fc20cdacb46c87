"""Likelihoods of a model's outputs: negative log-likelihoods, and random samples.

A sample depends on the key and the example alone, not on the batch that contains the example.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.batching import over_slices
from eigenjax.operators.curvature.linear_head import LinearHead, map_chunks
from eigenjax.operators.curvature.output_loss import CrossEntropy, check_labels
from eigenjax.operators.functions.captured import CapturedFunction
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Categorical likelihood: labels with the probabilities softmax(z), independent at each position."""

    ignore_label: int | None = None

    @property
    def losses(self) -> CrossEntropy:
        """Function for the (b,) negative log-likelihoods of a batch's targets, summed over positions."""
        return CrossEntropy(self.ignore_label, "sum")

    scores = mean = losses

    def check_targets(self, targets: PyTree) -> None:
        """Raise a TypeError unless the targets are labels."""
        check_labels(targets)

    def sample(self, outputs: jax.Array | LinearHead, targets: jax.Array, keys: jax.Array) -> jax.Array:
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

    @property
    def mean(self) -> Callable:
        """Function for the mean of the losses."""
        return _mean_half_square

    def check_targets(self, targets: PyTree) -> None:
        """Accept any targets; their shapes are compared with those of the outputs later."""

    def sample(self, outputs: PyTree, _targets: PyTree, keys: jax.Array) -> PyTree:
        """Sample standard normal numbers shaped like the outputs."""
        outputs = _materialized(outputs)
        leaves, treedef = jax.tree.flatten(outputs)
        draw = lambda key, leaf: jax.random.normal(key, leaf.shape[1:], leaf.dtype)
        drawn = [
            jax.vmap(lambda key, i=i, leaf=leaf: draw(jax.random.fold_in(key, i), leaf))(keys)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(treedef, drawn)


def sampled_targets(
    model: CapturedFunction, params: PyTree, data: PyTree, likelihood: Any, key: jax.Array, batch_size: int | None
) -> PyTree:
    """Sample one target for each example, in one pass of the model over the data and the memory of one microbatch."""
    return _draw(likelihood, batch_size, model, params, data, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(likelihood, batch_size, model, params, data, key):
    indices = jnp.arange(len(jax.tree.leaves(data)[0]), dtype=jnp.int32)

    def draw(batch):
        (inputs, targets), indices = batch
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        return (), likelihood.sample(model(params, inputs), targets, keys)

    return over_slices(draw, (data, indices), batch_size, ())[1]


def _half_squares(outputs: PyTree, targets: PyTree) -> jax.Array:
    outputs = _materialized(outputs)
    shapes = [jax.tree.map(jnp.shape, x) for x in (targets, outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"targets have the shapes {shapes[0]}, but the model's outputs {shapes[1]}: give equal ones")
    distance = jax.tree.map(lambda z, y: z - y.astype(z.dtype), outputs, targets)
    return _inner_products(distance, distance) / 2


def _mean_half_square(outputs: PyTree, targets: PyTree) -> jax.Array:
    return jnp.mean(_half_squares(outputs, targets))


def _scores(outputs: PyTree, noise: PyTree) -> jax.Array:
    # The gradient of |y - z|^2 / 2 at y = z + noise is that of -<noise, z>, since the noise does not depend on z.
    return -_inner_products(noise, outputs)


def _inner_products(x: PyTree, y: PyTree) -> jax.Array:
    y = _materialized(y)
    dtype = tree.accumulation_dtype((x, y))
    product = lambda x, y: jnp.sum(x.astype(dtype) * y.astype(dtype), tuple(range(1, x.ndim)))
    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(product, x, y)))


def _materialized(outputs: PyTree) -> PyTree:
    return outputs.logits() if isinstance(outputs, LinearHead) else outputs
