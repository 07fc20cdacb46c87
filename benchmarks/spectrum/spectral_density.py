"""Claim: ten probes of eighty steps give a spectrum's distribution to within 0.03, if a Krylov space can resolve it.

The Kolmogorov distance sup |F^(x) - F(x)| between `SpectralDensity.cdf` and the eigenvalues, in float64: the median and
the largest over keys. Both sides of each jump count, and values within 100 eps ||A|| count as equal. In `near`, x may
be shifted by up to 1e-3 ||A||.

Trained networks are far from 0.03. Nine tenths of their eigenvalues lie around zero, within 1e-3 of the largest, and
eighty steps cannot resolve their distribution. Further rows use more steps, and known pairs.

    python -m benchmarks.spectrum.spectral_density
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from benchmarks.support import timing
from eigenjax import EigenResult, as_operator, hessian, spectral_density, to_dense

KEYS = 5
NEAR = 1e-3
ROUNDING = 100 * np.finfo(float).eps


def spectra(n: int) -> dict[str, np.ndarray]:
    """Return spectra by name, n eigenvalues each."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((n, n))
    steps = np.arange(1.0, n + 1)
    return {
        "two clusters": np.repeat([1.0, 5.0], [2 * n // 5, n - 2 * n // 5]),
        "two wide clusters": np.repeat([1.0, 5.0], [2 * n // 5, n - 2 * n // 5]) + 1e-3 * rng.standard_normal(n),
        "uniform": rng.uniform(size=n),
        "outliers and uniform": np.r_[1000, 500, 300, rng.uniform(size=n - 3)],
        "rank 3": np.r_[3, 2, 1, np.zeros(n - 3)],
        "rank n / 3": np.r_[rng.uniform(size=n // 3), np.zeros(n - n // 3)],
        "semicircle": np.linalg.eigvalsh((normal + normal.T) / np.sqrt(2 * n)),
        "1 / sqrt(i)": 1 / np.sqrt(steps),
        "1 / i": 1 / steps,
        "1 / i^2": 1 / steps**2,
        "Laplace": rng.laplace(size=n),
    }


def network(steps: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Compute the Hessian's eigenvalues of a tanh network trained on digits with Adam, by dense `eigh`."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16), jnp.asarray(labels)
    keys = jax.random.split(jax.random.key(1), len(sizes))
    shapes = list(zip(keys[1:], sizes[:-1], sizes[1:], strict=True))
    params = [(jax.random.normal(key, (a, b)) / a**0.5, jnp.zeros(b)) for key, a, b in shapes]

    def loss(params):
        hidden = images
        for weights, bias in params[:-1]:
            hidden = jnp.tanh(hidden @ weights + bias)
        outputs = hidden @ params[-1][0] + params[-1][1]
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()

    optimizer = optax.adam(1e-2)

    def one(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    # Adam's step counter is an integer, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        (params, _), _ = jax.jit(lambda carry: jax.lax.scan(one, carry, length=steps))((params, optimizer.init(params)))
    dense = to_dense(hessian(loss, params))
    return np.linalg.eigvalsh(np.asarray(dense + dense.T) / 2)


@functools.partial(jax.jit, static_argnames=("num_probes", "krylov_dim", "num_deflated"))
def distribution(values: jax.Array, key: jax.Array, *, num_probes: int, krylov_dim: int, num_deflated: int) -> Any:
    """Estimate the density of a diagonal operator: probes on a sphere are invariant to the basis."""
    op = as_operator(lambda v: values * v, like=values)
    pairs = None
    if num_deflated:
        at = jnp.argsort(-jnp.abs(values))[:num_deflated]
        rows = (jnp.arange(values.size) == at[:, None]).astype(values.dtype)
        yes = jnp.ones(num_deflated, bool)
        pairs = EigenResult(values[at], rows, jnp.zeros(num_deflated), yes, jnp.int32(0), jnp.int32(0))
    return spectral_density(op, key=key, num_probes=num_probes, krylov_dim=krylov_dim, deflate=pairs)


# Compiled once for all results of one shape.
share_below = jax.jit(lambda found, x: found.cdf(x))


def distance(found: Any, values: np.ndarray, slack: float) -> float:
    """Compute the Kolmogorov distance, where x may be shifted by slack ||A||."""
    values = np.sort(values)
    slack *= np.abs(values).max()
    worst = 0.0
    for x in (values, values - slack):
        share = np.asarray(share_below(found, x))
        most = np.searchsorted(values, x + slack, side="right") / len(values)
        least = np.searchsorted(values, x - slack, side="left") / len(values)
        worst = max(worst, (share - most).max(), (least - share).max())
    return float(worst)


def row(
    name: str, values: np.ndarray, keys: int, probes: int = 10, steps: int = 80, num_deflated: int = 0
) -> dict[str, Any]:
    """Return one row: one spectrum, with several keys."""
    options = {"num_probes": probes, "krylov_dim": steps, "num_deflated": num_deflated}
    found = [distribution(jnp.asarray(values), jax.random.key(seed), **options) for seed in range(keys)]
    distances = [distance(one, values, ROUNDING) for one in found]
    return {
        "spectrum": name,
        "n": len(values),
        "probes": probes,
        "steps": steps,
        "known": num_deflated,
        "median": float(np.median(distances)),
        "worst": max(distances),
        "near": float(np.median([distance(one, values, NEAR) for one in found])),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure distances and record them; --repeats is the number of keys."""
    args = timing.arguments(__doc__, KEYS, argv)
    sizes = (64, 2, 10) if args.quick else (64, 24, 16, 10)
    with jax.enable_x64(True):
        rows = [row(name, values, args.repeats) for name, values in spectra(60 if args.quick else 1000).items()]
        print(timing.table(rows), flush=True)
        for steps in (3,) if args.quick else (30, 300):
            values, name = network(steps, sizes), f"digits network, {steps} steps"
            rows.append(row(name, values, args.repeats))
            if not args.quick:
                rows += [row(name, values, 2, steps=more) for more in (160, 320)]
                rows += [row(name, values, 2, num_deflated=more) for more in (20, 100)]
            print(timing.table(rows[-5:]), flush=True)
    timing.record("spectral_density", rows, args)


if __name__ == "__main__":
    main()
