"""Cases of gradients, compared with central differences of NumPy's eigenvalues and eigenvectors in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eigenjax
from benchmarks.accelerator.checks import Check, direction, directional, outliers, symmetric

N, K = 60, 3
STEP = 1e-3
WEIGHTS = np.asarray([1.0, -0.7, 0.4])
_OBSERVABLE = direction((N, N), seed=9) * N


def of_eigenvalues_float32() -> list[Check]:
    """Check the gradient of eigenvalues in single precision."""
    return _checks(_of_values, _values_on_host, symmetric(outliers(N)), "float32", 1e-4)


def of_eigenvalues_float64() -> list[Check]:
    """Check the gradient of eigenvalues in double precision."""
    with jax.enable_x64(True):
        return _checks(_of_values, _values_on_host, symmetric(outliers(N)), "float64", 1e-8)


def of_eigenvectors_float32() -> list[Check]:
    """Check the gradient of a quadratic form in each vector, in single precision."""
    return _checks(_of_vectors, _vectors_on_host, symmetric(outliers(N)), "float32", 1e-3)


def of_eigenvectors_float64() -> list[Check]:
    """Check the gradient of a quadratic form in each vector, in double precision."""
    with jax.enable_x64(True):
        return _checks(_of_vectors, _vectors_on_host, symmetric(outliers(N)), "float64", 1e-6)


def of_a_subspace_float32() -> list[Check]:
    """Check the gradient of the projector on a triple eigenvalue's subspace, in single precision."""
    values = np.concatenate([[9.0, 9.0, 9.0], outliers(N)[8:], [5.0] * 5])
    return _checks(_of_subspace, _subspace_on_host, symmetric(values), "float32", 1e-3)


def _checks(
    loss: Callable[[Any, Any, Any], Any], on_host: Callable, matrix: np.ndarray, dtype: str, bound: float
) -> list[Check]:
    """Check a value, and its derivative along a generic direction, relative to the gradient's norm."""
    weights, observable = jnp.asarray(WEIGHTS, dtype), jnp.asarray(_OBSERVABLE, dtype)
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(matrix, dtype), weights, observable)
    gradient = np.asarray(gradient, np.float64)
    # Half of it along the gradient, so that the derivative is not small by chance.
    along = direction((N, N)) + (gradient + gradient.T) / np.linalg.norm(gradient + gradient.T)
    wanted = directional(on_host, matrix, along, STEP)
    found = float(np.sum(gradient * along))
    return [
        Check("value", abs(float(value) - on_host(matrix)) / abs(on_host(matrix)), bound),
        Check("gradient", abs(found - wanted) / np.linalg.norm(gradient), bound),
    ]


def _tol(matrix: jax.Array) -> float:
    return 1e-6 if matrix.dtype == jnp.float32 else 1e-11


def _of_values(matrix: jax.Array, weights: jax.Array, observable: jax.Array) -> jax.Array:
    del observable
    return jnp.sum(weights * eigenjax.eigsh(matrix, K, tol=_tol(matrix), dense=False).eigenvalues ** 2)


def _values_on_host(matrix: np.ndarray) -> float:
    return float(np.sum(WEIGHTS * np.linalg.eigvalsh(matrix)[::-1][:K] ** 2))


def _of_vectors(matrix: jax.Array, weights: jax.Array, observable: jax.Array) -> jax.Array:
    return _form(eigenjax.eigsh(matrix, K, tol=_tol(matrix), dense=False).eigenvectors, weights, observable)


def _of_subspace(matrix: jax.Array, weights: jax.Array, observable: jax.Array) -> jax.Array:
    vectors = eigenjax.eigsh(matrix, K, tol=_tol(matrix), verify=True, dense=False).eigenvectors
    return _form(vectors, jnp.ones_like(weights), observable)


def _form(vectors: jax.Array, weights: jax.Array, observable: jax.Array) -> jax.Array:
    # Sum in full precision: the loss itself is not tested.
    highest = jax.lax.Precision.HIGHEST
    return jnp.sum(weights * jnp.einsum("ki,ij,kj->k", vectors, observable, vectors, precision=highest))


def _vectors_on_host(matrix: np.ndarray, weights: np.ndarray = WEIGHTS) -> float:
    vectors = np.linalg.eigh(matrix)[1][:, ::-1][:, :K]
    return float(np.sum(weights * np.einsum("ik,ij,jk->k", vectors, _OBSERVABLE, vectors)))


def _subspace_on_host(matrix: np.ndarray) -> float:
    return _vectors_on_host(matrix, np.ones(K))


CASES = (
    of_eigenvectors_float32,
    of_a_subspace_float32,
    of_eigenvalues_float32,
    of_eigenvectors_float64,
    of_eigenvalues_float64,
)
