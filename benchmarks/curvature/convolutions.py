"""Claim: in a solver, and in microbatches, a matvec of a convolutional network takes no longer than alone.

On a CPU, XLA is slow for most convolutions in loops; `operators/convolutions.py` describes which, and rewrites them.
Time of one Hessian matvec: alone, per matvec of `lanczos(krylov_dim=20)`, in four microbatches, and in a plain loop of
matvecs. `ratio` is over the first.

    python -m benchmarks.curvature.convolutions
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.curvature.curvature_products import Problem, convolutional_problem
from benchmarks.support import timing
from eigenjax import hessian, lanczos, softmax_cross_entropy

STEPS = 20


def programs(problem: Problem, examples: int) -> dict[str, tuple[Any, int]]:
    """Return by name a compiled function of params and data, and its number of matvecs."""
    loss = lambda params, data: softmax_cross_entropy(problem.model(params, data[0]), data[1])
    product = lambda params, data, **options: hessian(loss, params, data, **options)(params)

    def bare(params, data):
        add = lambda vector, _: (hessian(loss, params, data)(vector), None)
        return jax.lax.scan(add, params, length=STEPS)[0]

    return {
        "by itself": (jax.jit(product), 1),
        "in lanczos": (jax.jit(lambda params, data: lanczos(hessian(loss, params, data), krylov_dim=STEPS)), STEPS + 1),
        "in four microbatches": (jax.jit(functools.partial(product, batch_size=examples // 4)), 1),
        "in a bare loop": (jax.jit(bare), STEPS),
    }


def measure(name: str, problem: Problem, examples: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each program."""
    ways = programs(problem, examples)
    calls = {way: functools.partial(call, problem.params, problem.data) for way, (call, _) in ways.items()}
    timings = timing.interleaved(calls, repeats)
    return [
        {
            "network": name,
            "way": way,
            "product_s": timings[way].median / products,
            "ratio": timing.ratio(timings[way], timings["by itself"]) / products,
        }
        for way, (_, products) in ways.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 5, argv)
    features, examples = (2, 4) if args.quick else (32, 128)
    rows = []
    for train in (False, True):
        problem = convolutional_problem(features, examples, train)
        rows += measure(f"BatchNorm, {'train' if train else 'eval'}", problem, examples, args.repeats)
    timing.record("convolutions", rows, args)


if __name__ == "__main__":
    main()
