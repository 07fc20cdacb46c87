"""Claim: the gradient of `logdet` is unbiased on kernels, and as accurate as matfree's in a tenth of its products.

Kernel matrices K(x, x) + noise of points in a square, in float64, with the parameters amplitude, length and noise
(logarithms). `deviation` is the largest of |mean over keys - dense gradient| / standard error of that mean: below 2 to
3 for an unbiased estimate. With too few steps (200 matvecs) the truncation is larger than the random error. `error` is
the root mean square of the error of one estimate relative to the dense gradient, `ratio` that over matfree's with as
many matvecs and the same number of probes. matfree differentiates the Lanczos recurrence: `adjoint` is the number of
products with the adjoint of the matvec that each gradient takes. `time` is the time of ours over it. They are null
without matfree (`pip install matfree`).

    python -m benchmarks.spectrum.logdet_gradient
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import logdet
from eigenjax.spectrum.probing.derivatives import PRODUCTS

KEYS, PROBES = 20, 10
KERNELS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "RBF": lambda squares: jnp.exp(-squares / 2),
    "Matern 3/2": lambda squares: (1 + jnp.sqrt(3 * squares + 1e-12)) * jnp.exp(-jnp.sqrt(3 * squares + 1e-12)),
}
THETA = {"amplitude": 0.0, "length": -1.5, "noise": -2.5}


def matrix(name: str, theta: dict[str, jax.Array], points: jax.Array) -> jax.Array:
    """Compute the kernel matrix with noise."""
    norms = jnp.sum(jnp.square(points), 1)
    squares = jnp.maximum(norms[:, None] + norms[None] - 2 * points @ points.T, 0)
    kernel = jnp.exp(theta["amplitude"]) * KERNELS[name](squares * jnp.exp(-2 * theta["length"]))
    return kernel + jnp.exp(theta["noise"]) * jnp.eye(len(points))


def matfree_estimate(steps: int, n: int) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Build matfree's estimate of log det, as documented."""
    if importlib.util.find_spec("matfree") is None:
        return None
    from matfree import decomp, funm, stochtrace

    integrand = funm.monte_carlo_funm_sym_logdet(decomp.tridiag_sym(steps))
    sampler = stochtrace.sampler_signs(jnp.zeros(n), num=PROBES)
    estimate = stochtrace.estimator_monte_carlo(integrand, sampler=sampler)
    return lambda a, key: estimate(lambda v, a: a @ v, key, a)


def row(name: str, n: int, steps: int, keys: jax.Array, repeats: int) -> dict[str, Any]:
    """Return one row: one kernel and one number of steps."""
    points = jnp.asarray(np.random.default_rng(0).uniform(size=(n, 2)))
    theta = {key: jnp.asarray(value) for key, value in THETA.items()}
    ours = lambda a, key: logdet(a, key=key, num_probes=PROBES, krylov_dim=steps).estimate
    gradient = lambda estimate: jax.jit(jax.grad(lambda theta, key: estimate(matrix(name, theta, points), key)))
    exact = flat(jax.jit(jax.grad(lambda theta: jnp.linalg.slogdet(matrix(name, theta, points))[1]))(theta))
    programs = {"eigenjax": gradient(ours)}
    theirs = matfree_estimate(steps, n)
    if theirs is None:
        print("not installed: matfree")
    else:
        programs["matfree"] = gradient(theirs)
    found = {who: np.stack([flat(program(theta, key)) for key in keys]) for who, program in programs.items()}
    mine = found["eigenjax"]
    deviation = np.abs(mine.mean(0) - exact) / (mine.std(0, ddof=1) / np.sqrt(len(keys)))
    error = {who: float(np.sqrt(np.mean(np.sum((x - exact) ** 2, 1)) / np.sum(exact**2))) for who, x in found.items()}
    calls = {who: functools.partial(program, theta, keys[0]) for who, program in programs.items()}
    taken = timing.interleaved(calls, repeats)
    both = "matfree" in programs
    return {
        "kernel": name,
        "n": n,
        "matvecs": PROBES * steps,
        "deviation": float(np.max(deviation)),
        "error": error["eigenjax"],
        "matfree": error["matfree"] if both else None,
        "ratio": error["eigenjax"] / error["matfree"] if both else None,
        "adjoint": PROBES * PRODUCTS,
        "adjoint_matfree": PROBES * steps if both else None,
        "time": timing.ratio(taken["eigenjax"], taken["matfree"]) if both else None,
    }


def flat(gradient: dict[str, jax.Array]) -> np.ndarray:
    """Return the entries of a gradient as an array."""
    return np.asarray([float(gradient[name]) for name in THETA])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure errors and record them."""
    args = timing.arguments(__doc__, 3, argv)
    n, budgets, count = (150, (12,), 10) if args.quick else (2000, (20, 60), KEYS)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), count)
        rows = [row(name, n, steps, keys, args.repeats) for name in KERNELS for steps in budgets]
    timing.record("logdet_gradient", rows, args)


if __name__ == "__main__":
    main()
