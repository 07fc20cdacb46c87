# pyright: strict
"""A typed program that uses the main entries, checked by pyright in strict mode against the installed wheel."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eigenjax

Params = dict[str, jax.Array]
Batch = tuple[jax.Array, jax.Array]
# The annotations of these two functions of JAX are partly unknown to pyright.
grad: Callable[[Callable[[jax.Array], jax.Array]], Callable[[jax.Array], jax.Array]] = jax.grad  # pyright: ignore
constant: Callable[[Any], jax.Array] = jnp.asarray  # pyright: ignore


def model(params: Params, inputs: jax.Array) -> jax.Array:
    """Return the outputs of a linear model."""
    return inputs @ params["kernel"]


def loss_of_output(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean squared error."""
    return jnp.mean((outputs - targets) ** 2)


def loss(params: Params, batch: Batch) -> jax.Array:
    """Return the mean squared error of the model."""
    return loss_of_output(model(params, batch[0]), batch[1])


def symmetric(matrix: jax.Array) -> jax.Array:
    """Solve by all symmetric solvers, and read the fields of a result."""
    result: eigenjax.EigenResult = eigenjax.eigsh(matrix, k=2, which="LA", tol=1e-5)
    eigenjax.raise_if_failed(result)
    fields: list[jax.Array] = [result.eigenvalues, result.residuals, result.converged, result.num_matvecs]
    status: eigenjax.Status = eigenjax.Status(int(result.status))
    advice: str = status.advice
    others = eigenjax.lanczos(matrix, k=2, krylov_dim=8), eigenjax.deflated_power_iteration(matrix, k=1)
    generalized = eigenjax.eigsh(matrix, k=1, b=constant(np.eye(8, dtype=np.float32)), dense=True)
    total = sum(jnp.sum(field) for field in fields) + len(advice)
    return total + others[0].eigenvalues[0] + others[1].eigenvalues[0] + generalized.eigenvalues[0]


def general(matrix: jax.Array) -> jax.Array:
    """Solve for eigenpairs without symmetry and for singular triplets."""
    pairs: eigenjax.EigenResult = eigenjax.eigs(matrix, k=2, which="LM")
    triplets: eigenjax.SingularResult = eigenjax.svds(matrix, k=2)
    left, right = triplets.left, triplets.right
    values, vectors = eigenjax.eigh(matrix)
    del left, right, vectors
    return jnp.abs(pairs.eigenvalues[0]) + triplets.values[0] + values[-1]


def curvature(params: Params, data: Batch) -> jax.Array:
    """Build curvature operators, multiply with them, and combine them."""
    hessian: eigenjax.LinearOperator = eigenjax.hessian(loss, params, data)
    gauss_newton: eigenjax.LinearOperator = eigenjax.gauss_newton(model, loss_of_output, params, data)
    fisher: eigenjax.LinearOperator = eigenjax.fisher(model, params, data, likelihood="gaussian")
    combined: eigenjax.LinearOperator = 0.5 * (hessian + gauss_newton) - fisher
    product: Any = combined(params)
    size: int = combined.size
    result = eigenjax.eigsh(hessian, k=2)
    approximation: eigenjax.LowRankPlusDiagonal = eigenjax.low_rank(result, damping=1.0)
    solution: Any = approximation.solve(params)
    return product["kernel"].sum() + size + solution["kernel"].sum() + approximation.logdet()


def spectrum(operator: eigenjax.LinearOperator, key: jax.Array) -> jax.Array:
    """Estimate functions of all eigenvalues."""
    density: eigenjax.SpectralDensity = eigenjax.spectral_density(operator, key=key, num_probes=2, krylov_dim=4)
    heights: jax.Array = density.density(constant(np.linspace(0.0, 1.0, 5, dtype=np.float32)))
    trace: eigenjax.TraceResult = eigenjax.trace(operator, key=key, num_matvecs=6)
    logdet: eigenjax.TraceResult = eigenjax.logdet(operator, key=key)
    return jnp.sum(heights) + trace.estimate + trace.standard_error + logdet.estimate


def training(params: Params, data: Batch, key: jax.Array) -> dict[str, jax.Array]:
    """Follow the largest eigenvalues through an update of the parameters."""
    tracker: eigenjax.SpectrumTracker = eigenjax.spectrum_tracker(2)
    state: eigenjax.TrackerState = tracker.init(eigenjax.hessian(loss, params, data), key)
    state, metrics = tracker.update(eigenjax.hessian(loss, params, data), state)
    problem = eigenjax.Problem(loss, state.eigenvectors, data, model, loss_of_output)
    assert problem.model is model
    return metrics


def streamed(params: Params, data: Batch) -> eigenjax.EigenResult:
    """Solve over batches on the host."""
    halves = [(data[0][:4], data[1][:4]), (data[0][4:], data[1][4:])]
    operator = eigenjax.stream(loss, params, halves, select="*")
    return eigenjax.run(operator, k=2, progress=False)


def main() -> float:
    """Call everything once, and return a number that depends on all results."""
    key = jax.random.key(0)
    matrix = constant(np.diag(np.arange(1, 9, dtype=np.float32)))
    data = (jax.random.normal(key, (8, 3)), constant(np.ones((8, 2), np.float32)))
    params: Params = {"kernel": constant(np.ones((3, 2), np.float32))}
    gradient: jax.Array = grad(lambda a: eigenjax.eigsh(a, k=1).eigenvalues[0])(matrix)
    operator = eigenjax.as_operator(matrix)
    total = symmetric(matrix) + general(matrix) + curvature(params, data) + spectrum(operator, key)
    metrics = training(params, data, key)
    return float(total + gradient.sum() + sum(metrics.values()) + streamed(params, data).eigenvalues[0])


if __name__ == "__main__":
    sys.stdout.write(f"{eigenjax.__version__} {main()}\n")
