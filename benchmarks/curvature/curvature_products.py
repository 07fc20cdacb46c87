"""Claim: a matvec with a Hessian, Gauss-Newton or empirical Fisher operator takes the time of about three gradients.

`ratio` is the time of one matvec over that of one gradient of the same loss over the same data; `ratio_of_8` that of
eight matvecs by vmap over eight single ones. The models are a multilayer network, a convolutional one with BatchNorm
(with its running averages, and with those of the batch), and a transformer with tied embeddings whose logits are not
formed.

    python -m benchmarks.curvature.curvature_products
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.curvature.curvature_memory import Transformer
from benchmarks.support import timing
from eigenjax import fisher, gauss_newton, hessian, softmax_cross_entropy

VECTORS = 8


class Problem(NamedTuple):
    """Model of params and inputs, with data."""

    model: Callable[..., Any]
    params: Any
    data: tuple[Any, Any]


class Convolutional(nn.Module):
    """Two blocks of convolution and BatchNorm, each halving the image."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map (B, 16, 16, 3) images to (B, 10) outputs."""
        for factor in (1, 2):
            x = nn.Conv(factor * self.features, (3, 3), strides=2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(jnp.mean(x, (1, 2)))


def multilayer(params: Any, inputs: jax.Array) -> jax.Array:
    """Compute the outputs of a network with tanh between layers."""
    for kernel, bias in params[:-1]:
        inputs = jnp.tanh(inputs @ kernel + bias)
    return inputs @ params[-1][0] + params[-1][1]


def multilayer_problem(widths: Sequence[int], examples: int) -> Problem:
    """Draw random weights and data."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32)
    params = [(draw(a, b), jnp.zeros(b)) for a, b in itertools.pairwise(widths)]
    labels = jnp.asarray(rng.integers(0, widths[-1], examples), jnp.int32)
    return Problem(multilayer, params, (jnp.asarray(rng.normal(size=(examples, widths[0])), jnp.float32), labels))


def convolutional_problem(features: int, examples: int, train: bool) -> Problem:
    """Draw images of noise; BatchNorm's averages are constants of the model."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(examples, 16, 16, 3)), jnp.float32)
    network = Convolutional(features)
    variables = network.init(jax.random.key(0), images[:1], train=False)

    def model(params, images):
        whole = {"params": params, "batch_stats": variables["batch_stats"]}
        return (
            network.apply(whole, images, train=True, mutable=["batch_stats"])[0]
            if train
            else network.apply(whole, images, train=False)
        )

    return Problem(model, variables["params"], (images, jnp.asarray(rng.integers(0, 10, examples), jnp.int32)))


def transformer_problem(batch: int, length: int, vocabulary: int, **sizes: int) -> Problem:
    """Draw random tokens."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, vocabulary, (2, batch, length)), jnp.int32)
    network = Transformer(vocabulary, length, **sizes)
    return Problem(network.head, network.init(jax.random.key(0), tokens[0]), (tokens[0], tokens[1]))


def products(model: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Return functions of (params, data, vector) by name."""
    loss = lambda params, data: softmax_cross_entropy(model(params, data[0]), data[1])
    return {
        "Hessian": lambda params, data, v: hessian(loss, params, data)(v),
        "Gauss-Newton": lambda params, data, v: gauss_newton(model, softmax_cross_entropy, params, data)(v),
        "empirical Fisher": lambda params, data, v: fisher(model, params, data, kind="empirical")(v),
    }


def measure(name: str, problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each operator."""
    model, params, data = problem
    loss = lambda params, data: softmax_cross_entropy(model(params, data[0]), data[1])
    many = jax.tree.map(lambda x: jnp.stack([(i + 1.0) * x for i in range(VECTORS)]), params)
    programs = {"gradient": functools.partial(jax.jit(jax.grad(loss)), params, data)}
    for kind, product in products(model).items():
        programs[kind] = functools.partial(jax.jit(product), params, data, params)
        programs[f"{kind}, {VECTORS}"] = functools.partial(
            jax.jit(jax.vmap(product, (None, None, 0))), params, data, many
        )
    timings = timing.interleaved(programs, repeats)
    rows = []
    for kind in products(model):
        one, together = timings[kind], timings[f"{kind}, {VECTORS}"]
        rows.append(
            {
                "network": name,
                "product": kind,
                "gradient_s": timings["gradient"].median,
                "product_s": one.median,
                "ratio": timing.ratio(one, timings["gradient"]),
                "ratio_of_8": timing.ratio(together, one) / VECTORS,
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 9, argv)
    if args.quick:
        dense, images = multilayer_problem((8, 8, 4), 16), functools.partial(convolutional_problem, 4, 4)
        language = transformer_problem(2, 8, 64, width=16, layers=1)
    else:
        dense = multilayer_problem((784, 512, 512, 10), 1024)
        images = functools.partial(convolutional_problem, 32, 128)
        language = transformer_problem(4, 128, 8192)
    problems = {
        "multilayer": dense,
        "convolutional, eval": images(train=False),
        "convolutional, train": images(train=True),
        "transformer": language,
    }
    rows = [row for name, problem in problems.items() for row in measure(name, problem, args.repeats)]
    timing.record("curvature_products", rows, args)


if __name__ == "__main__":
    main()
