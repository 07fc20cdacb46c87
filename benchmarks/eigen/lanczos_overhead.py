"""Claim: a Lanczos solve costs little beside its Hessian products, and holds little beside one basis.

Time of `lanczos(k=5, krylov_dim=32)` over that of a bare scan of as many Hessian products of the same multilayer
perceptron (1.03 M parameters), with reorthogonalisation and without; and what the compiler sets aside for temporaries,
counted in vectors of the size of the parameters, of which the basis is 32. A product's time grows with the examples,
what is around it does not: so for 768 of them, and for 3072.

    python -m benchmarks.eigen.lanczos_overhead
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.support import timing
from eigenjax import LinearOperator, hessian, lanczos

PAIRS, KRYLOV_DIM = 5, 32
WIDTHS, EXAMPLES = (64, 700, 700, 700, 10), (768, 3072)
QUICK_WIDTHS, QUICK_EXAMPLES = (64, 32, 10), (16,)


def loss(params: list[dict[str, jax.Array]], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Softmax cross-entropy of a tanh network."""
    hidden, labels = batch
    for layer in params[:-1]:
        hidden = jnp.tanh(hidden @ layer["kernel"] + layer["bias"])
    logits = hidden @ params[-1]["kernel"] + params[-1]["bias"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def network_hessian(widths: Sequence[int], examples: int) -> LinearOperator:
    """The Hessian at random parameters and random data: its cost does not depend on what it has learned."""
    keys = jax.random.split(jax.random.key(0), len(widths) + 1)
    params = [
        {"kernel": jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5, "bias": jnp.zeros(fan_out)}
        for key, fan_in, fan_out in zip(keys, widths, widths[1:], strict=False)
    ]
    inputs = jax.random.normal(keys[-2], (examples, widths[0]))
    return hessian(loss, params, (inputs, jax.random.randint(keys[-1], (examples,), 0, widths[-1])))


@functools.partial(jax.jit, static_argnames="count")
def bare_products(op: LinearOperator, vector: Any, factor: jax.Array, *, count: int) -> Any:
    """So many products of a vector with c H; c keeps the numbers in range."""
    advance = lambda v, _: (jax.tree.map(lambda image: factor * image, op(v)), None)
    return jax.lax.scan(advance, vector, length=count)[0]


@functools.partial(jax.jit, static_argnames="reorthogonalize")
def solve(op: LinearOperator, *, reorthogonalize: bool = True) -> Any:
    """The solve under test."""
    return lanczos(op, PAIRS, krylov_dim=KRYLOV_DIM, reorthogonalize=reorthogonalize)


def temporaries(lowered: Any, vector_bytes: int) -> float:
    """What the compiled program sets aside, in vectors."""
    return lowered.compile().memory_analysis().temp_size_in_bytes / vector_bytes


def measure(widths: Sequence[int], examples: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each program, at so many examples."""
    op = network_hessian(widths, examples)
    vector = jax.tree.map(jnp.ones_like, op.varying)
    result = solve(op)
    count, factor = int(result.num_matvecs), 1 / jnp.max(jnp.abs(result.eigenvalues))
    bare = functools.partial(bare_products, op, vector, factor, count=count)
    full, short = (functools.partial(solve, op, reorthogonalize=choice) for choice in (True, False))
    timings = timing.interleaved(
        {"bare products": bare, "lanczos": full, "lanczos, reorthogonalize=False": short}, repeats
    )
    vector_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(vector))
    memory = {
        "bare products": bare_products.lower(op, vector, factor, count=count),
        "lanczos": solve.lower(op),
        "lanczos, reorthogonalize=False": solve.lower(op, reorthogonalize=False),
    }
    held = {name: temporaries(lowered, vector_bytes) for name, lowered in memory.items()}
    one_product = temporaries(jax.jit(lambda op, v: op(v)).lower(op, vector), vector_bytes)
    return [
        {
            "program": name,
            "parameters": op.size,
            "examples": examples,
            "products": count,
            "product_s": timings["bare products"].median / count,
            "median_s": measured.median,
            "min_s": measured.minimum,
            "max_s": measured.maximum,
            "ratio": timing.ratio(measured, timings["bare products"]),
            "temporary_vectors": held[name],
            "beyond_one_product": held[name] - one_product,
        }
        for name, measured in timings.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and records."""
    args = timing.arguments(__doc__, 5, argv)
    widths, sizes = (QUICK_WIDTHS, QUICK_EXAMPLES) if args.quick else (WIDTHS, EXAMPLES)
    rows = [row for examples in sizes for row in measure(widths, examples, args.repeats)]
    timing.record("lanczos_overhead", rows, args)
    print(f"the basis is {KRYLOV_DIM} vectors; product_s: of a bare product")


if __name__ == "__main__":
    main()
