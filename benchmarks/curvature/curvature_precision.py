"""Claim: the error of a Hessian matvec with 16-bit parameters is a few roundings at any size, if sums are in float32.

One matvec H v of a network of four layers, of increasing width, with parameters rounded to bfloat16 and to float16. The
reference is float64 with the same rounded parameters. The vector is float32 and is rounded to the parameters' dtype for
the matvec, as in the solvers; the microbatches are added in float32. Errors are relative, in the Euclidean norm:

- `product`: of the operator as it is.
- `vector`: of the exact matvec, in float64, with the rounded vector.
- `pass`: of one microbatch in 16 bits with the rounded vector: all roundings of a forward and backward pass.
- `result`: of the exact matvec, rounded once to 16 bits.
- `narrow_sum`: of the operator with the microbatches added in 16 bits.
- `wide_model`: of the operator with a loss that casts the parameters to float32 first, as mixed precision does.

    python -m benchmarks.curvature.curvature_precision
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.support import timing
from eigenjax import hessian

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
DTYPES = ("bfloat16", "float16")
INPUTS, OUTPUTS = 16, 4
EXAMPLES, BATCH = 64, 8


def width_of(size: int) -> int:
    """Compute the width of the hidden layers of a network with about `size` parameters."""
    # 2 w^2 + (INPUTS + OUTPUTS) w = size
    half = (INPUTS + OUTPUTS) / 4
    return max(2, round((half**2 + size / 2) ** 0.5 - half))


def network(key: jax.Array, width: int) -> tuple[Any, Any]:
    """Draw parameters and data in float64, with layers scaled to activations of order one."""
    sizes = (INPUTS, width, width, width, OUTPUTS)
    keys = jax.random.split(key, len(sizes) + 1)
    params = [jax.random.normal(key, (m, n)) / m**0.5 for key, m, n in zip(keys, sizes[:-1], sizes[1:], strict=False)]
    inputs = jax.random.normal(keys[-2], (EXAMPLES, INPUTS))
    return params, (inputs, jax.random.normal(keys[-1], (EXAMPLES, OUTPUTS)))


def loss(params: Any, batch: Any) -> jax.Array:
    """Compute the mean square error: in the parameters' dtype up to the outputs, then at least in float32."""
    hidden, targets = batch[0].astype(params[0].dtype), batch[1]
    for kernel in params[:-1]:
        hidden = jnp.tanh(hidden @ kernel)
    outputs = (hidden @ params[-1]).astype(jnp.promote_types(params[0].dtype, jnp.float32))
    return jnp.mean((outputs - targets.astype(outputs.dtype)) ** 2)


def wide_loss(params: Any, batch: Any) -> jax.Array:
    """Compute the mean square error in float32."""
    return loss(cast(params, jnp.float32), batch)


def cast(tree: Any, dtype: Any) -> Any:
    """Cast all leaves to a dtype."""
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def product(loss: Callable, params: Any, data: Any, vector: Any, batch_size: int | None = BATCH) -> Any:
    """Compute H v in the dtype of the parameters, compiled."""
    op = hessian(loss, params, data, batch_size=batch_size)
    return jax.jit(lambda op, v: op(v))(op, cast(vector, params[0].dtype))


def narrow_sum(params: Any, data: Any, vector: Any) -> Any:
    """Compute H v with the microbatches added one after another in the dtype of the parameters."""
    batches = jax.tree.map(lambda x: x.reshape(-1, BATCH, *x.shape[1:]), data)
    dtype = params[0].dtype

    def add(total, batch):
        share = product(loss, params, batch, vector, batch_size=None)
        count = jnp.asarray(EXAMPLES / BATCH, dtype)
        return jax.tree.map(lambda x, y: x + y / count, total, share), None

    return jax.jit(lambda batches: jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)[0])(batches)


def error(approximate: Any, exact: Any) -> float:
    """Compute ||x - y|| / ||y|| in float64."""
    square = lambda tree: sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(tree))
    difference = jax.tree.map(lambda x, y: x.astype(jnp.float64) - y, approximate, exact)
    return (square(difference) / square(exact)) ** 0.5


def errors(size: int, dtype: str) -> dict[str, Any]:
    """Return one row."""
    key = jax.random.key(size)
    params, data = network(key, width_of(size))
    params = cast(params, dtype)
    wide = cast(params, jnp.float64)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(params))
    vector = [jax.random.normal(key, leaf.shape, jnp.float32) for key, leaf in zip(keys, params, strict=True)]
    rounded = cast(cast(vector, dtype), jnp.float64)
    first = jax.tree.map(lambda x: x[:BATCH], data)
    exact = product(loss, wide, data, cast(vector, jnp.float64))
    of_rounded = product(loss, wide, data, rounded)
    narrow_data = cast(data, jnp.float32)
    return {
        "parameters": sum(leaf.size for leaf in params),
        "dtype": dtype,
        "rounding": float(jnp.finfo(dtype).eps) / 2,
        "product": error(product(loss, params, narrow_data, vector), exact),
        "vector": error(of_rounded, exact),
        "pass": error(product(loss, params, first, vector), product(loss, wide, first, rounded)),
        "result": error(cast(exact, dtype), exact),
        "narrow_sum": error(narrow_sum(params, narrow_data, vector), exact),
        "wide_model": error(product(wide_loss, params, narrow_data, vector), exact),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure errors and record them."""
    args = timing.arguments(__doc__, 1, argv)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        rows = [errors(size, dtype) for size in (SIZES[:1] if args.quick else SIZES) for dtype in DTYPES]
    timing.record("curvature_precision", rows, args)


if __name__ == "__main__":
    main()
