"""Claim: a solve for three eigenpairs of a 200-million-parameter transformer, on two cores, takes less than 20 GB.

A decoder with its layers stacked in a `lax.scan`, the loss of one sequence of 64 tokens, parameters in float32.
`eigsh(k=3, which="LM", basis="recompute")` holds 2 k + 6 vectors and no basis. In GB, `predicted` is the compiler's
memory of arguments, results and temporaries, and `peak` the peak memory of the process, as the operating system reports
it. `residual` is recomputed here, relative to the largest eigenvalue; `tol` is the tolerance of the solve.

    python -m benchmarks.scale.large_operator                 # 200 million, minutes
    python -m benchmarks.scale.large_operator --millions 20
    python -m benchmarks.scale.large_operator --predict       # compiles at full size, runs nothing
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.support import timing
from eigenjax import eigsh, hessian
from eigenjax.vectors.tree import PyTree, size

K, TOL = 3, 1e-3
TOKENS, HEAD = 64, 64
_GB = 1e9


class Shape(NamedTuple):
    """Sizes of a transformer."""

    width: int
    layers: int
    vocabulary: int


# Shapes by millions of parameters.
SHAPES = {2: Shape(128, 6, 6_400), 20: Shape(320, 10, 24_000), 200: Shape(1024, 12, 48_000)}


def structure(shape: Shape) -> PyTree:
    """Return the shapes of the parameters, each leaf with a leading axis of layers."""
    width, layers, vocabulary = shape
    leaf = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)
    return {
        "embedding": leaf(vocabulary, width),
        "layers": {
            "attention": leaf(layers, width, 3 * width),
            "output": leaf(layers, width, width),
            "up": leaf(layers, width, 4 * width),
            "down": leaf(layers, 4 * width, width),
            "scale": leaf(layers, 2, width),
        },
    }


def loss(params: PyTree, tokens: jax.Array) -> jax.Array:
    """Compute the mean cross-entropy of each token but the first; tokens are (examples, TOKENS + 1)."""
    embedding = params["embedding"]

    @jax.checkpoint
    def layer(hidden, weights):
        inside = _normalized(hidden) * weights["scale"][0]
        hidden = hidden + _attention(inside @ weights["attention"]) @ weights["output"]
        inside = _normalized(hidden) * weights["scale"][1]
        return hidden + jax.nn.gelu(inside @ weights["up"]) @ weights["down"], None

    hidden, _ = jax.lax.scan(layer, embedding[tokens[:, :-1]], params["layers"])
    logits = jax.nn.log_softmax(_normalized(hidden) @ embedding.T)
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], -1))


def _attention(projected: jax.Array) -> jax.Array:
    examples, length, _ = projected.shape
    query, key, value = (part.reshape(examples, length, -1, HEAD) for part in jnp.split(projected, 3, axis=-1))
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) * HEAD**-0.5
    allowed = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(allowed, scores, -1e9))
    return jnp.einsum("nhqk,nkhd->nqhd", weights, value).reshape(examples, length, -1)


def _normalized(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def initial(shape: Shape) -> PyTree:
    """Draw initial parameters that give activations of unit variance."""
    leaves, treedef = jax.tree.flatten(structure(shape))
    draw = jax.jit(lambda key, like: jax.random.normal(key, like.shape) * like.shape[-2] ** -0.5, static_argnums=1)
    params = treedef.unflatten([draw(jax.random.key(i), leaf) for i, leaf in enumerate(leaves)])
    params["layers"]["scale"] = jnp.ones_like(params["layers"]["scale"])
    params["embedding"] = params["embedding"] * (shape.vocabulary / shape.width) ** 0.5
    return params


def compiled(shape: Shape) -> Any:
    """Compile the solve as a function of parameters and tokens."""
    tokens = jax.ShapeDtypeStruct((1, TOKENS + 1), jnp.int32)

    def solve(params, tokens):
        return eigsh(hessian(loss, params, tokens), K, which="LM", tol=TOL, basis="recompute")

    return jax.jit(solve).lower(structure(shape), tokens).compile()


def predicted(program: Any) -> float:
    """Return the GB of arguments, results and temporaries."""
    memory = program.memory_analysis()
    parts = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return sum(parts) / _GB


def solve(millions: int) -> dict[str, Any]:
    """Run the solve in this process, whose peak memory then belongs to it."""
    shape = SHAPES[millions]
    program, params = compiled(shape), initial(shape)
    tokens = jax.random.randint(jax.random.key(7), (1, TOKENS + 1), 0, shape.vocabulary, jnp.int32)
    found = []
    seconds = timing.seconds(lambda: found.append(program(params, tokens)) or found[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GB
    result = found[0]
    product = jax.jit(lambda params, tokens, v: hessian(loss, params, tokens)(v))
    residuals = []
    for i in range(K):
        vector = jax.tree.map(lambda x, i=i: x[i], result.eigenvectors)
        image = product(params, tokens, vector)
        miss = jax.tree.map(lambda y, x, i=i: jnp.sum((y - result.eigenvalues[i] * x) ** 2), image, vector)
        residuals.append(float(sum(jax.tree.leaves(miss))) ** 0.5)
    largest = float(jnp.max(jnp.abs(result.eigenvalues)))
    return {
        "parameters": size(params),
        "k": K,
        "tol": TOL,
        "predicted": predicted(program),
        "peak": peak,
        "products": int(result.num_matvecs),
        "converged": int(result.converged.sum()),
        "residual": max(residuals) / largest,
        "eigenvalue": float(result.eigenvalues[0]),
        "seconds": seconds,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the solve in a new process and record it."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--millions", type=int, default=200, choices=sorted(SHAPES), help="parameters")
    options.add_argument("--predict", action="store_true", help="compile, and print the memory it will take")
    options.add_argument("--solve", action="store_true", help=argparse.SUPPRESS)
    options_given, remaining = options.parse_known_args(argv)
    if options_given.solve:
        print(json.dumps(solve(options_given.millions)))
        return
    if options_given.predict:
        print(f"{predicted(compiled(SHAPES[options_given.millions])):.2f} GB")
        return
    args = timing.arguments(__doc__, 1, remaining)
    millions = min(SHAPES) if args.quick else options_given.millions
    command = [sys.executable, "-m", "benchmarks.scale.large_operator", "--solve", "--millions", str(millions)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    timing.record("large_operator", [json.loads(printed.splitlines()[-1])], args)


if __name__ == "__main__":
    main()
