"""Cases of the dense functions and their gradients, compared with NumPy and central differences in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import eigenjax
from benchmarks.accelerator.checks import Check, direction, directional, host, outliers, symmetric

N = 24
_F32 = float(np.finfo(np.float32).eps)
_WEIGHTS = np.cos(np.arange(N * N)).reshape(N, N)


def eigh() -> list[Check]:
    """Check `eigh` of a batch of symmetric matrices."""
    matrices = np.stack([symmetric(outliers(N), "float32", seed) for seed in range(4)])
    values, vectors = map(host, jax.jit(eigenjax.eigh)(jnp.asarray(matrices)))
    rests = host(matrices) @ vectors - vectors * values[:, None, :]
    gram = np.swapaxes(vectors, 1, 2) @ vectors

    def of(solve, xp):
        return lambda a, w: _squares(solve(a), w, xp)

    return [
        Check("eigenvalues", float(np.abs(values - np.linalg.eigvalsh(host(matrices))).max() / 10), 32 * _F32),
        Check("residuals", float(np.abs(rests).max() / 10), 32 * _F32),
        Check("orthonormality", float(np.abs(gram - np.eye(N)).max()), 32 * _F32),
        _gradient(of(eigenjax.eigh, jnp), of(np.linalg.eigh, np), symmetric(np.arange(N) / 2.0), 1e-3),
    ]


def eigh_of_repeated_eigenvalues() -> list[Check]:
    """Check that the gradient is finite for repeated eigenvalues, where that of JAX is not."""
    matrix = symmetric(np.repeat([1.0, 2.0], N // 2), "float32")
    gradient = jax.jit(jax.grad(lambda a: _squares(eigenjax.eigh(a), jnp.asarray(_WEIGHTS, jnp.float32), jnp)))(matrix)
    return [Check("entries of the gradient not finite", float(np.sum(~np.isfinite(np.asarray(gradient)))), 0)]


def svd() -> list[Check]:
    """Check the SVD of a batch of tall matrices."""
    matrices = np.random.default_rng(2).normal(size=(4, N + 6, N)).astype(np.float32)
    left, values, right = map(host, jax.jit(eigenjax.svd)(jnp.asarray(matrices)))
    exact = np.linalg.svd(host(matrices), compute_uv=False)
    rests = (left * values[:, None, :]) @ right - host(matrices)

    def of(solve, xp):
        def loss(a, w):
            left, values, _ = solve(a)
            return xp.sum(w * left[:N] ** 2) + xp.sum(xp.sin(values))

        return loss

    thin = lambda a: np.linalg.svd(a, full_matrices=False)
    return [
        Check("values", float(np.abs(values - exact).max() / exact.max()), 32 * _F32),
        Check("residuals", float(np.abs(rests).max() / exact.max()), 32 * _F32),
        _gradient(of(eigenjax.svd, jnp), of(thin, np), host(matrices[0]), 2e-3, is_symmetric=False),
    ]


def eig() -> list[Check]:
    """Check `eig` of a nonsymmetric matrix; not every device supports this decomposition."""
    matrix = np.random.default_rng(6).normal(size=(N, N)).astype(np.float32) + np.diag(np.arange(N, dtype=np.float32))
    values, vectors = map(host, jax.jit(eigenjax.eig)(jnp.asarray(matrix)))
    exact = np.linalg.eigvals(host(matrix))
    distance = np.abs(values[:, None] - exact[None, :])
    rests = host(matrix) @ vectors - vectors * values[None, :]
    scale = np.abs(exact).max()
    # The sum of the squares of the eigenvalues is the trace of A^2.
    found = host(jax.jit(jax.grad(lambda a: jnp.sum(jnp.real(eigenjax.eig(a)[0] ** 2))))(jnp.asarray(matrix)))
    wanted = 2 * host(matrix).T
    return [
        Check("eigenvalues", float(max(distance.min(0).max(), distance.min(1).max()) / scale), 1e-3),
        Check("residuals", float(np.abs(rests).max() / scale), 1e-4),
        Check("gradient", float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)), 1e-3),
    ]


def _squares(pairs, weights, xp):
    values, vectors = pairs
    return xp.sum(weights * vectors**2) + xp.sum(xp.sin(values))


def _gradient(
    loss: Callable, on_host: Callable, matrix: np.ndarray, bound: float, *, is_symmetric: bool = True
) -> Check:
    """Check the gradient along one direction, relative to its norm."""
    single = lambda x: jnp.asarray(x, jnp.float32)
    gradient = host(jax.jit(jax.grad(loss))(single(matrix), single(_WEIGHTS)))
    along = direction(matrix.shape, is_symmetric=is_symmetric)
    wanted = directional(lambda a: float(on_host(a, _WEIGHTS)), matrix, along, 1e-4)
    return Check("gradient", abs(float(np.sum(gradient * along)) - wanted) / np.linalg.norm(gradient), bound)


CASES = (eigh, svd, eig, eigh_of_repeated_eigenvalues)
