"""Claim: a Lanczos solve costs little beyond its Hessian matvecs, and holds little beyond one basis.

Time of `lanczos(k=5, krylov_dim=32)`, with and without reorthogonalization, over that of a bare scan of as many Hessian
matvecs of the same multilayer perceptron (1.03 M parameters). The compiler's temporary memory is counted in vectors of
the size of the parameters; the basis has 32 of them. The network has 768 or 3072 examples, because only the matvec's
time grows with them.

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
    """Compute the softmax cross-entropy of a tanh network."""
    hidden, labels = batch
    for layer in params[:-1]:
        hidden = jnp.tanh(hidden @ layer["kernel"] + layer["bias"])
    logits = hidden @ params[-1]["kernel"] + params[-1]["bias"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def network_hessian(widths: Sequence[int], examples: int) -> LinearOperator:
    """Create the Hessian at random parameters and data: its cost does not depend on training."""
    keys = jax.random.split(jax.random.key(0), len(widths) + 1)
    params = [
        {"kernel": jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5, "bias": jnp.zeros(fan_out)}
        for key, fan_in, fan_out in zip(keys, widths, widths[1:], strict=False)
    ]
    inputs = jax.random.normal(keys[-2], (examples, widths[0]))
    return hessian(loss, params, (inputs, jax.random.randint(keys[-1], (examples,), 0, widths[-1])))


@functools.partial(jax.jit, static_argnames="count")
def bare_products(op: LinearOperator, vector: Any, factor: jax.Array, *, count: int) -> Any:
    """Apply c H to a vector `count` times; c keeps the numbers in range."""
    advance = lambda v, _: (jax.tree.map(lambda image: factor * image, op(v)), None)
    return jax.lax.scan(advance, vector, length=count)[0]


@functools.partial(jax.jit, static_argnames="reorthogonalize")
def solve(op: LinearOperator, *, reorthogonalize: bool = True) -> Any:
    """Run `lanczos`."""
    return lanczos(op, PAIRS, krylov_dim=KRYLOV_DIM, reorthogonalize=reorthogonalize)


def temporaries(lowered: Any, vector_bytes: int) -> float:
    """Return the temporary memory of the compiled program in vectors."""
    return lowered.compile().memory_analysis().temp_size_in_bytes / vector_bytes


def measure(widths: Sequence[int], examples: int, repeats: int) -> list[dict[str, Any]]:
    """Return one row for each program, with the given number of examples."""
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
    """Measure times and record them."""
    args = timing.arguments(__doc__, 5, argv)
    widths, sizes = (QUICK_WIDTHS, QUICK_EXAMPLES) if args.quick else (WIDTHS, EXAMPLES)
    rows = [row for examples in sizes for row in measure(widths, examples, args.repeats)]
    timing.record("lanczos_overhead", rows, args)
    print(f"the basis is {KRYLOV_DIM} vectors; product_s: of a bare product")


if __name__ == "__main__":
    main()
