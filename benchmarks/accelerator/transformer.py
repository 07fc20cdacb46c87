"""Decoder shaped like GPT-2: 124 million parameters at full size, its layers stacked in a scan, logits in chunks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import LinearHead, softmax_cross_entropy
from eigenjax.vectors.tree import PyTree

_HEAD = 64  # dimension of an attention head
_POSITIONS_AT_ONCE = 128  # chunk size of the logits


class Shape(NamedTuple):
    """Sizes of a model and of its batch."""

    width: int
    layers: int
    vocabulary: int
    tokens: int
    examples: int


GPT2_SMALL = Shape(768, 12, 50_257, 512, 8)
QUICK = Shape(64, 2, 300, 16, 2)


def structure(shape: Shape, dtype: str) -> PyTree:
    """Return the shapes of the parameters, each leaf with a leading axis of layers."""
    width, layers = shape.width, shape.layers
    leaf = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.dtype(dtype))
    return {
        "tokens": leaf(shape.vocabulary, width),
        "positions": leaf(shape.tokens, width),
        "layers": {
            "attention": leaf(layers, width, 3 * width),
            "output": leaf(layers, width, width),
            "up": leaf(layers, width, 4 * width),
            "down": leaf(layers, 4 * width, width),
            "scale": leaf(layers, 2, width),
        },
    }


def initial(shape: Shape, dtype: str) -> PyTree:
    """Draw initial parameters on the device."""
    leaves, treedef = jax.tree.flatten(structure(shape, dtype))

    @jax.jit
    def draw():
        keys = jax.random.split(jax.random.key(0), len(leaves))
        normal = lambda key, leaf: jax.random.normal(key, leaf.shape, leaf.dtype) * jnp.asarray(0.02, leaf.dtype)
        params = treedef.unflatten([normal(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])
        params["layers"]["scale"] = jnp.ones_like(params["layers"]["scale"])
        return params

    return draw()


def batch(shape: Shape) -> jax.Array:
    """Draw random tokens, (examples, tokens + 1)."""
    size = (shape.examples, shape.tokens + 1)
    return jax.random.randint(jax.random.key(7), size, 0, shape.vocabulary, jnp.int32)


def loss(params: PyTree, tokens: jax.Array) -> jax.Array:
    """Compute the mean cross-entropy of each token but the first, given the previous ones."""

    @jax.checkpoint
    def layer(hidden, weights):
        inside = _normalized(hidden) * weights["scale"][0]
        hidden = hidden + _attention(inside @ weights["attention"]) @ weights["output"]
        inside = _normalized(hidden) * weights["scale"][1]
        return hidden + jax.nn.gelu(inside @ weights["up"]) @ weights["down"], None

    embedded = params["tokens"][tokens[:, :-1]] + params["positions"][: tokens.shape[1] - 1]
    hidden, _ = jax.lax.scan(layer, embedded, params["layers"])
    head = LinearHead(_normalized(hidden), params["tokens"].T, chunk_size=min(_POSITIONS_AT_ONCE, hidden.shape[1]))
    return softmax_cross_entropy(head, tokens[:, 1:])


def _attention(projected: jax.Array) -> jax.Array:
    examples, length, _ = projected.shape
    query, key, value = (part.reshape(examples, length, -1, _HEAD) for part in jnp.split(projected, 3, axis=-1))
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key).astype(jnp.float32) * _HEAD**-0.5
    allowed = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(allowed, scores, -1e9)).astype(value.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, value).reshape(examples, length, -1)


def _normalized(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)
