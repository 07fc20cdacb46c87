"""Claim: the gradient of a loss of eigenpairs costs a few matvecs more than the pairs, and is accurate to many digits.

The time of forward and backward pass over that of the forward pass, and the number of matvecs, counted at run time.
The losses are one of the eigenvalues (no linear solve is needed) and one of the eigenvectors (one solve for each pair).
The operators are a dense matrix, and the Hessian of a small network as a function of its parameters, in float32 with
default options. The accuracy is measured in float64 with converged pairs, against a central difference along a random
direction.

    python -m benchmarks.derivative.gradient_cost
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import EigenResult, LinearOperator, as_operator, hessian, lanczos

PAIRS = 3
# Step h of the central difference: balances truncation h^4 and rounding eps / h.
STEP = 1e-3


class Problem(NamedTuple):
    """Variable to differentiate with respect to, and the operator as a function of it."""

    variable: Any  # pytree of float64 arrays
    direction: Any  # pytree of the same structure, the direction of the central difference
    operator: Callable[[Any], LinearOperator]


def matrix_problem(n: int) -> Problem:
    """Create a dense symmetric matrix with outliers 10, 9, ... over a bulk in (-1, 1)."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    eigenvalues = np.concatenate([10.0 - np.arange(PAIRS + 2), rng.uniform(-1, 1, n - PAIRS - 2)])
    direction = rng.normal(size=(n, n)) / n
    return Problem((basis * eigenvalues) @ basis.T, direction + direction.T, as_operator)


def hessian_problem(widths: Sequence[int], examples: int) -> Problem:
    """Create the Hessian of a tanh network's squared error, as a function of the parameters."""
    rng = np.random.default_rng(1)
    draw = lambda: [rng.normal(size=shape) / shape[0] ** 0.5 for shape in itertools.pairwise(widths)]
    inputs, targets = rng.normal(size=(examples, widths[0])), rng.normal(size=(examples, widths[-1]))

    def loss(kernels, batch):
        outputs, targets = batch
        for kernel in kernels[:-1]:
            outputs = jnp.tanh(outputs @ kernel)
        return jnp.mean((outputs @ kernels[-1] - targets) ** 2)

    def operator(kernels):
        return hessian(loss, kernels, jax.tree.map(lambda x: jnp.asarray(x, kernels[0].dtype), (inputs, targets)))

    return Problem(draw(), draw(), operator)


def of_eigenvalues(result: EigenResult) -> jax.Array:
    """Compute a smooth loss of the eigenvalues alone."""
    return jnp.sum(jnp.sin(result.eigenvalues))


def of_eigenvectors(result: EigenResult) -> jax.Array:
    """Compute the loss sum_ij v_ij^4 of the eigenvectors, which is independent of their signs."""
    return sum(jnp.sum(leaf**4) for leaf in jax.tree.leaves(result.eigenvectors))


def counted(op: LinearOperator, counts: list[int]) -> LinearOperator:
    """Wrap an operator so that every matvec is counted at run time."""

    def apply(v):
        # The argument depends on each vector: otherwise a vmapped matvec would count once.
        jax.debug.callback(lambda _: counts.append(1), jax.tree.leaves(v)[0].ravel()[0])
        return op(v)

    return as_operator(apply, like=op.structure)


def products(problem: Problem, loss: Callable, variable: Any, krylov_dim: int) -> tuple[int, int]:
    """Count the matvecs of a forward pass, and of a forward and a backward pass."""
    counts: list[int] = []

    def value(variable):
        result = lanczos(counted(problem.operator(variable), counts), PAIRS, which="LA", krylov_dim=krylov_dim)
        return loss(result), result.num_matvecs

    (_, forward), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(variable)
    jax.block_until_ready(gradient)
    jax.effects_barrier()
    return int(forward), len(counts)


def relative_error(problem: Problem, value: Callable, gradient: Any) -> float:
    """Compute the relative error of the directional derivative against a fourth-order central difference."""
    along = lambda t: value(jax.tree.map(lambda x, d: jnp.asarray(x + t * STEP * d), *problem[:2]))
    difference = (8 * (along(1) - along(-1)) - (along(2) - along(-2))) / (12 * STEP)
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, problem.direction)
    return float(abs(sum(jax.tree.leaves(products)) - difference) / abs(difference))


def measure(name: str, problem: Problem, loss: Callable, krylov_dims: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Return one row: the cost in float32, and the accuracy in float64 with a larger basis."""
    solve = lambda variable, krylov_dim: loss(
        lanczos(problem.operator(variable), PAIRS, which="LA", krylov_dim=krylov_dim)
    )
    value = jax.jit(solve, static_argnames="krylov_dim")
    both = jax.jit(jax.value_and_grad(solve), static_argnames="krylov_dim")
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), problem.variable)
    programs = {"forward": value, "both": both}
    small, large = krylov_dims
    timings = timing.interleaved(
        {k: functools.partial(f, narrow, krylov_dim=small) for k, f in programs.items()}, repeats
    )
    forward_products, all_products = products(problem, loss, narrow, small)
    with jax.enable_x64(True):
        gradient = both(jax.tree.map(jnp.asarray, problem.variable), krylov_dim=large)[1]
        error = relative_error(problem, lambda variable: both(variable, krylov_dim=large)[0], gradient)
    return {
        "operator": name,
        "loss": loss.__name__,
        "products_forward": forward_products,
        "products_both": all_products,
        "forward_s": timings["forward"].median,
        "both_s": timings["both"].median,
        "time_ratio": timing.ratio(timings["both"], timings["forward"]),
        "error_float64": error,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and errors and record them."""
    args = timing.arguments(__doc__, 9, argv)
    size, widths, examples = (30, (4, 3, 2), 8) if args.quick else (500, (64, 24, 10), 256)
    problems = {
        f"dense, n={size}": (matrix_problem(size), (20, size if args.quick else 60)),
        f"Hessian, n={sum(a * b for a, b in itertools.pairwise(widths))}": (
            hessian_problem(widths, examples),
            (16, 18) if args.quick else (30, 120),
        ),
    }
    rows = [
        measure(name, problem, loss, krylov_dims, args.repeats)
        for name, (problem, krylov_dims) in problems.items()
        for loss in (of_eigenvalues, of_eigenvectors)
    ]
    timing.record("gradient_cost", rows, args)


if __name__ == "__main__":
    main()
