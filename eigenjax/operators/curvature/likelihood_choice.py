"""Choice of a likelihood: by name, by functions of one example, or one for each head of a model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.curvature.likelihood import BERNOULLI, POISSON, Categorical, Gaussian, materialized
from eigenjax.vectors.tree import PyTree

NAMES = ("categorical", "gaussian", "bernoulli", "poisson")


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Likelihood of a model's outputs, given by functions of one example, for `fisher`.

    Args:
        log_prob: `log_prob(outputs, targets) -> ()`, log p(y | outputs) up to a constant, for the outputs and the
            targets of one example, without the leading axis.
        sample: `sample(key, outputs) -> targets`, one draw y ~ p(. | outputs), for kind="monte_carlo". None: not known.
        divergence: `divergence(outputs, others) -> ()`, the Kullback-Leibler divergence of p(. | others) from
            p(. | outputs), E log p(y | outputs) - E log p(y | others) with y ~ p(. | outputs), or this up to a function
            of `outputs` alone, such as the cross-entropy. Its second derivative in `others` is the Fisher information
            of the outputs, for kind="exact". None: not known.

    Example:
        >>> import eigenjax
        >>> # Outputs: mean and logarithm of the variance.
        >>> def log_prob(z, y):
        ...     return -((y - z[0]) ** 2) * jnp.exp(-z[1]) / 2 - z[1] / 2
        >>> def divergence(z, o):
        ...     return ((z[0] - o[0]) ** 2 + jnp.exp(z[1])) * jnp.exp(-o[1]) / 2 + o[1] / 2
        >>> model, data = (lambda w, x: x * w), (jnp.ones((3, 1)), jnp.zeros(3))
        >>> normal = Likelihood(log_prob, divergence=divergence)
        >>> print(eigenjax.to_dense(eigenjax.fisher(model, jnp.zeros(2), data, likelihood=normal)))
        [[1.  0. ]
         [0.  0.5]]

    Source: Kullback (1959), Information theory and statistics, section 2.6.
    """

    log_prob: Callable[[PyTree, PyTree], jax.Array]
    sample: Callable[[jax.Array, PyTree], PyTree] | None = None
    divergence: Callable[[PyTree, PyTree], jax.Array] | None = None

    def losses(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """Compute the (b,) negative log-likelihoods of a batch's targets."""
        return -_of_each(self.log_prob, "log_prob(outputs, targets)", materialized(outputs), targets)

    def scores(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """Compute the (b,) negative log-likelihoods of samples."""
        return self.losses(outputs, targets)

    def expected(self, outputs: PyTree, _targets: PyTree) -> jax.Array:
        """Compute the (b,) divergences from the outputs' own distributions."""
        assert self.divergence is not None
        outputs = materialized(outputs)
        fixed = jax.lax.stop_gradient(outputs)
        return _of_each(self.divergence, "divergence(outputs, others)", fixed, outputs)

    def check_targets(self, targets: PyTree) -> None:
        """Accept any targets; `log_prob` is traced with them later."""

    def draw(self, outputs: PyTree, _targets: PyTree, keys: jax.Array) -> PyTree:
        """Sample the targets of a batch, each with its own key."""
        assert self.sample is not None
        return jax.vmap(self.sample)(keys, materialized(outputs))


@dataclasses.dataclass(frozen=True)
class Joint:
    """Likelihood of several heads, independent given the inputs: the sum of their log-likelihoods."""

    parts: tuple[Any, ...]
    treedef: Any

    def losses(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """Compute the (b,) sums of the heads' negative log-likelihoods."""
        return self._sum("losses", outputs, targets)

    def scores(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """Compute the (b,) sums of the heads' scores."""
        return self._sum("scores", outputs, targets)

    def expected(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """Compute the (b,) sums whose second derivative is block diagonal in the heads."""
        return self._sum("expected", outputs, targets)

    def check_targets(self, targets: PyTree) -> None:
        """Check the targets of each head."""
        for part, of_head in zip(self.parts, self._heads(targets, "targets"), strict=True):
            part.check_targets(of_head)

    def draw(self, outputs: PyTree, targets: PyTree, keys: jax.Array) -> PyTree:
        """Sample the targets of each head, with keys of its own."""
        heads = zip(self.parts, self._heads(outputs, "outputs"), self._heads(targets, "targets"), strict=True)
        own = lambda number: jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        return self.treedef.unflatten([part.draw(z, y, own(number)) for number, (part, z, y) in enumerate(heads)])

    def _sum(self, function: str, outputs: PyTree, targets: PyTree) -> jax.Array:
        heads = zip(self.parts, self._heads(outputs, "outputs"), self._heads(targets, "targets"), strict=True)
        values = [getattr(part, function)(z, y) for part, z, y in heads]
        dtype = jnp.result_type(*values)
        return functools.reduce(jnp.add, [value.astype(dtype) for value in values])

    def _heads(self, whole: PyTree, name: str) -> list[PyTree]:
        try:
            return self.treedef.flatten_up_to(whole)
        except ValueError as error:
            raise ValueError(
                f"likelihood has the heads {self.treedef}, but the {name} have the structure "
                f"{jax.tree.structure(whole)}: give one likelihood for each head"
            ) from error


def chosen_likelihood(likelihood: Any, kind: str, ignore_label: int | None) -> Any:
    """Return the likelihood that a name, a function, a `Likelihood` or a pytree of these stands for.

    Raises:
        ValueError: for an unknown name, or a likelihood that lacks what this kind of Fisher information needs.
        TypeError: for anything else.
    """
    leaves, treedef = jax.tree.flatten(likelihood, is_leaf=lambda x: x is None)
    parts = tuple(_one(leaf, kind, ignore_label) for leaf in leaves)
    if ignore_label is not None and not any(isinstance(part, Categorical) for part in parts):
        raise ValueError(f"ignore_label={ignore_label!r} speaks of labels: it needs likelihood='categorical'")
    if not parts:
        raise ValueError(f"likelihood={likelihood!r} has no head: choose one of {', '.join(map(repr, NAMES))}")
    return parts[0] if jax.tree_util.treedef_is_leaf(treedef) else Joint(parts, treedef)


def _one(likelihood: Any, kind: str, ignore_label: int | None) -> Any:
    if isinstance(likelihood, str) and likelihood in NAMES:
        named = (Categorical(ignore_label), Gaussian(), BERNOULLI, POISSON)
        return dict(zip(NAMES, named, strict=True))[likelihood]
    choices = f"choose one of {', '.join(map(repr, NAMES))}, or give an eigenjax.Likelihood"
    if isinstance(likelihood, str):
        raise ValueError(f"likelihood={likelihood!r}: {choices}")
    likelihood = Likelihood(likelihood) if isinstance(likelihood, Callable) else likelihood
    if not isinstance(likelihood, Likelihood):
        raise TypeError(f"likelihood={likelihood!r}: {choices}")
    if kind == "exact" and likelihood.divergence is None:
        raise ValueError(
            "likelihood: kind='exact' takes the expectation over y, and log_prob alone does not tell it: give "
            "eigenjax.Likelihood(log_prob, divergence=...), or use kind='monte_carlo' or 'empirical'"
        )
    if kind == "monte_carlo" and likelihood.sample is None:
        raise ValueError("likelihood: kind='monte_carlo' draws y: give eigenjax.Likelihood(log_prob, sample=...)")
    return likelihood


def _of_each(function: Callable, call: str, *arguments: PyTree) -> jax.Array:
    values = jax.vmap(function)(*arguments)
    if not hasattr(values, "shape") or values.ndim != 1 or not jnp.issubdtype(values.dtype, jnp.floating):
        given = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", values)
        raise TypeError(f"likelihood: {call} returns {given} for one example: it must be one real number, of shape ()")
    return values
