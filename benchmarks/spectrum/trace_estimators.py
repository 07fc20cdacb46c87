"""Claim: at the same number of matvecs, `trace` and `diagonal` are at least as accurate as matfree's estimators.

`error` is the mean of |error| over keys, in float64, relative to the trace; for `diagonal`, the norm of the error
relative to the norm of the diagonal. `scale` is the root mean square of error / standard error: 1 if the standard error
is correct. `ratio` is the mean error over that of the same method in matfree with as many matvecs (hutchinson, xtrace,
xdiag), and `torch_ratio` over that in hessian-eigenthings (hutchinson, hutch++). They are null if a package has no such
method or is not installed (`pip install matfree hessian-eigenthings torch`). `over_hutchinson` is the error of our
Hutchinson estimator over `error`; it has no meaning for the diagonal.

    python -m benchmarks.spectrum.trace_estimators
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import diagonal, trace

KEYS = 100
METHODS = ("hutchinson", "hutch++", "xtrace", "xdiag")


def matrices(n: int) -> dict[str, np.ndarray]:
    """Create matrices with random eigenvectors, and one that is nearly diagonal."""
    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.standard_normal((n, n)))
    rotated = lambda values: (vectors * values) @ vectors.T
    steps = np.arange(1.0, n + 1)
    return {
        "1 / i^2": rotated(1 / steps**2),
        "1 / i": rotated(1 / steps),
        "0.7^i": rotated(0.7**steps),
        "flat, 1 to 3": rotated(rng.uniform(1, 3, n)),
        "ten outliers": rotated(np.r_[np.geomspace(8, 100, 10), rng.exponential(size=n - 10)]),
        "indefinite": rotated(np.sort(rng.standard_normal(n)) + 0.5),
        "nearly diagonal": np.diag(rng.uniform(1, 3, n)) + 0.01 * rotated(rng.standard_normal(n)),
    }


@functools.partial(jax.jit, static_argnames=("method", "products"))
def ours(matrix: jax.Array, keys: jax.Array, *, method: str, products: int) -> Any:
    """Compute estimates and standard errors over the keys."""
    estimate = diagonal if method == "xdiag" else functools.partial(trace, method=method)
    found = jax.lax.map(lambda key: estimate(matrix, key=key, num_matvecs=products), keys)
    return found.estimate, found.standard_error


@functools.cache
def theirs(method: str, products: int, n: int) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Build matfree's estimator as documented: signs for Hutchinson and the diagonal, the sphere for XTrace."""
    if importlib.util.find_spec("matfree") is None or method == "hutch++":
        return None
    from matfree import stochtrace

    like = jnp.zeros(n)
    if method == "hutchinson":
        sampler = stochtrace.sampler_signs(like, num=products)
        estimate = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), sampler=sampler)
    else:
        make = {"xtrace": stochtrace.leave_one_out_xtrace, "xdiag": stochtrace.leave_one_out_xdiag}[method]
        draw = {"xtrace": stochtrace.sampler_sphere, "xdiag": stochtrace.sampler_signs}[method]
        estimate = stochtrace.estimator_leave_one_out(make(), sampler=draw(like, num=products // 2))
    run = lambda matrix, keys: jax.lax.map(lambda key: estimate(lambda v: matrix @ v, key), keys)
    return jax.jit(run)


def in_torch(matrix: np.ndarray, method: str, products: int, count: int) -> np.ndarray | None:
    """Compute estimates of hessian-eigenthings, with the seeds 0, 1, ..."""
    if method not in ("hutchinson", "hutch++") or importlib.util.find_spec("hessian_eigenthings") is None:
        return None
    import hessian_eigenthings as package
    import torch

    whole = torch.tensor(matrix)
    operator = package.LambdaOperator(lambda v: whole @ v, len(matrix), dtype=whole.dtype)
    estimate = lambda seed: package.trace(operator, num_matvecs=products, method=method, seed=seed)
    return np.array([float(estimate(seed).estimate) for seed in range(count)])


def row(name: str, matrix: np.ndarray, method: str, products: int, keys: jax.Array) -> dict[str, Any]:
    """Return one row: one method on one matrix."""
    truth = np.diag(matrix) if method == "xdiag" else np.trace(matrix)
    size = np.linalg.norm(truth)
    mean_error = lambda found: float(np.mean(np.abs(found - truth) if np.ndim(truth) == 0 else norms(found - truth)))
    estimates, said = (np.asarray(x) for x in ours(jnp.asarray(matrix), keys, method=method, products=products))
    other = theirs(method, products, len(matrix))
    error = mean_error(estimates)
    compared = mean_error(np.asarray(other(jnp.asarray(matrix), keys))) if other else None
    torch_found = in_torch(matrix, method, products, len(keys))
    torch_error = None if torch_found is None else mean_error(torch_found)
    return {
        "matrix": name,
        "method": method,
        "products": products,
        "error": error / size,
        "matfree": compared and compared / size,
        "ratio": compared and error / compared,
        "torch": torch_error and torch_error / size,
        "torch_ratio": torch_error and error / torch_error,
        "scale": float(np.sqrt(np.mean((estimates - truth) ** 2 / np.maximum(said, 1e-300) ** 2))),
    }


def norms(rows: np.ndarray) -> np.ndarray:
    """Compute the norm of each row."""
    return np.linalg.norm(rows, axis=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure errors and record them; --repeats is the number of keys."""
    args = timing.arguments(__doc__, KEYS, argv)
    n, budgets = (60, (12,)) if args.quick else (500, (20, 60, 140))
    rows = []
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), args.repeats)
        for name, matrix in matrices(n).items():
            for products in budgets:
                these = [row(name, matrix, method, products, keys) for method in METHODS]
                plain = these[0]["error"]
                rows += [one | {"over_hutchinson": plain / max(one["error"], 1e-300)} for one in these]
            print(timing.table(rows[-len(METHODS) * len(budgets) :]), flush=True)
    timing.record("trace_estimators", rows, args)


if __name__ == "__main__":
    main()
