"""Cases of networks: a Hessian at the device's default precision, and a tracker in a jitted training step."""

import jax
import jax.numpy as jnp
import numpy as np

import eigenjax
from benchmarks.accelerator.checks import Check, host
from benchmarks.eigen.lanczos_overhead import loss
from eigenjax import hessian, spectrum_tracker, to_dense

WIDTHS, EXAMPLES, K = (12, 10, 8, 4), 64, 3
_F32 = float(np.finfo(np.float32).eps)


def network_at_default_precision() -> list[Check]:
    """Check a network's largest Hessian eigenvalues with matvecs at default precision.

    The vectors are orthonormal to float32.
    """
    return _network_checks(None, 5e-3)


def network_at_highest_precision() -> list[Check]:
    """Check a network's largest Hessian eigenvalues with matvecs in full float32."""
    return _network_checks("highest", 1e-4)


def tracker() -> list[Check]:
    """Check twenty steps of gradient descent, one update each, against the dense Hessian at the end."""
    params, data = _problem()
    follow = spectrum_tracker(K)

    @jax.jit
    def step(params, data, state):
        state, metrics = follow.update(hessian(loss, params, data), state)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, jax.grad(loss)(params, data))
        return params, state, metrics

    state = follow.init(hessian(loss, params, data), jax.random.key(1))
    for _ in range(20):
        before = params
        params, state, metrics = step(params, data, state)
    exact = np.linalg.eigvalsh(_dense(before, data))[::-1][:K]
    found = np.asarray([float(metrics[f"eigenvalue_{i}"]) for i in range(K)])
    return [
        Check("eigenvalues, over the norm", float(np.abs(np.sort(found)[::-1] - exact).max() / exact[0]), 1e-2),
        Check("status", float(metrics["status"]), 0),
    ]


def _network_checks(precision: str | None, bound: float) -> list[Check]:
    params, data = _problem()
    with jax.default_matmul_precision(precision):
        solve = jax.jit(lambda params, data: eigenjax.eigsh(hessian(loss, params, data), K, tol=bound))
        result = solve(params, data)
    matrix = _dense(params, data)
    exact = np.linalg.eigvalsh(matrix)[::-1]
    norm = np.abs(exact).max()
    # Use the order of the parameters in the dense matrix.
    vectors = host(np.concatenate([np.asarray(x).reshape(K, -1) for x in jax.tree.leaves(result.eigenvectors)], axis=1))
    values = host(result.eigenvalues)
    rests = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    return [
        Check("orthonormality", float(np.abs(vectors @ vectors.T - np.eye(K)).max()), 20 * _F32),
        Check("eigenvalues, over the norm", float(np.abs(values - exact[:K]).max() / norm), bound),
        Check("residuals in float64, over the norm", float(rests.max() / norm), 2 * bound),
        Check("status", float(result.status), 0),
    ]


def _problem():
    keys = jax.random.split(jax.random.key(0), len(WIDTHS) + 1)
    params = [
        {"kernel": jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5, "bias": jnp.zeros(fan_out)}
        for key, fan_in, fan_out in zip(keys, WIDTHS, WIDTHS[1:], strict=False)
    ]
    inputs = jax.random.normal(keys[-2], (EXAMPLES, WIDTHS[0]))
    return params, (inputs, jax.random.randint(keys[-1], (EXAMPLES,), 0, WIDTHS[-1]))


def _dense(params, data) -> np.ndarray:
    """Compute the dense Hessian in float64, on the same device."""
    with jax.enable_x64(True):
        double = lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
        params, data = jax.tree.map(double, (params, data))
        return np.asarray(jax.jit(lambda params, data: to_dense(hessian(loss, params, data)))(params, data))


CASES = (network_at_default_precision, tracker, network_at_highest_precision)
