"""Claim: the curvature of a language model costs about the memory of its gradient, whatever its vocabulary.

Memory beside arguments (temporaries and results) for the gradient of a transformer with tied embeddings, and for
matvecs with its Gauss-Newton matrix, Hessian and empirical Fisher matrix. Each is with full logits or with a
`LinearHead`. The programs are compiled for shapes and do not run. `logits` is the memory in units of one array of
tokens x vocabulary. `over_plain` and `over_chunked` are relative to the gradient with full logits and with a
`LinearHead`.

    python -m benchmarks.curvature.curvature_memory
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.support import timing
from eigenjax import LinearHead, fisher, gauss_newton, hessian, softmax_cross_entropy


class Block(nn.Module):
    """Causal attention and a two-layer network, each around a residual connection."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, T, D) features to features of the same shape."""
        mask = nn.make_causal_mask(jnp.zeros(x.shape[:2], x.dtype))
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        return x + nn.Dense(self.width)(hidden)


class Transformer(nn.Module):
    """Transformer from tokens to features; the embedding is also the last layer."""

    vocabulary: int
    length: int
    width: int = 256
    layers: int = 4
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Map (B, T) tokens to (B, T, D) features."""
        x = nn.Embed(self.vocabulary, self.width, name="embed")(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (self.length, self.width))
        for _ in range(self.layers):
            x = Block(self.width, self.heads)(x)
        return nn.LayerNorm()(x)

    def head(self, params: Any, tokens: jax.Array) -> LinearHead:
        """Return the logits as a `LinearHead`, without forming them."""
        return LinearHead(self.apply(params, tokens), params["params"]["embed"]["embedding"].T)

    def logits(self, params: Any, tokens: jax.Array) -> jax.Array:
        """Compute the logits (B, T, V)."""
        return self.head(params, tokens).logits()


def plain_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the mean cross-entropy from full logits."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))


def programs(model: Transformer) -> dict[str, Callable[..., Any]]:
    """Return functions of (params, vector, data) by name."""

    def of(outputs, loss):
        whole = lambda params, data: loss(outputs(params, data[0]), data[1])
        return {
            "gradient": lambda params, _, data: jax.grad(whole)(params, data),
            "Gauss-Newton": lambda params, v, data: gauss_newton(outputs, loss, params, data)(v),
            "Hessian": lambda params, v, data: hessian(whole, params, data)(v),
            "empirical Fisher": lambda params, v, data: fisher(outputs, params, data, kind="empirical")(v),
        }

    kinds = {
        "plain": of(model.logits, plain_cross_entropy),
        "closed form": of(model.logits, softmax_cross_entropy),
        "chunked": of(model.head, softmax_cross_entropy),
    }
    return {
        f"{kind}, {name}": program
        for name in kinds["plain"]
        for kind, rows in kinds.items()
        for program in [rows[name]]
    }


def megabytes(program: Callable[..., Any], *shapes: Any) -> float:
    """Return the memory of temporaries and results of a compiled program, in 10^6 bytes."""
    memory = jax.jit(program).lower(*shapes).compile().memory_analysis()
    return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    """Compile the programs and record their memory."""
    args = timing.arguments(__doc__, 1, argv)
    vocabulary, batch, length = (512, 2, 16) if args.quick else (50_257, 4, 256)
    model = Transformer(vocabulary, length, **({"width": 16, "layers": 1} if args.quick else {}))
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    params = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), tokens)
    found = {name: megabytes(program, params, params, (tokens, tokens)) for name, program in programs(model).items()}
    logits = 4e-6 * batch * length * vocabulary
    rows = [
        {
            "program": name.split(", ")[1],
            "logits are": name.split(", ")[0],
            "megabytes": size,
            "logits": size / logits,
            "over_plain": size / found["plain, gradient"],
            "over_chunked": size / found["chunked, gradient"],
        }
        for name, size in found.items()
    ]
    timing.record("curvature_memory", rows, args)


if __name__ == "__main__":
    main()
