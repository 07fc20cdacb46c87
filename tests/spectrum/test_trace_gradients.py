"""Gradients of traces of functions against dense ones, and their refusal of second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import eigsh, logdet, trace_of_function
from tests.conftest import rotated

KEY = jax.random.key(0)
N, STEPS, PROBES = 60, 12, 4
# More vectors than matvecs, so that the estimate is random.
OPTIONS = {"num_probes": PROBES, "krylov_dim": STEPS}

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("is_complex", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_of_a_multiple_of_a_matrix_the_derivative_is_exact(is_complex):
    # The estimate of log det (c B) is that of log det B plus n log c.
    matrix = jnp.asarray(rotated(np.linspace(1, 2, N), is_complex=is_complex))
    value = lambda c, key: logdet(c.astype(matrix.dtype) * matrix, key=key, num_probes=2, krylov_dim=25).estimate
    gradients = jax.jit(jax.vmap(jax.grad(value), (0, None)))(jnp.array([0.5, 3.0]), KEY)
    assert_allclose(gradients, N / np.array([0.5, 3.0]), rtol=1e-6)
    _, slope = jax.jvp(lambda c: value(c, KEY), (jnp.asarray(0.5),), (jnp.asarray(1.0),))
    assert_allclose(slope, N / 0.5, rtol=1e-6)


def family(theta):
    """Return a positive definite matrix with parameters that do not commute, as a pytree of leaves."""
    first, second = jnp.asarray(rotated(np.linspace(1, 4, N))), jnp.asarray(rotated(np.linspace(0, 2, N), seed=1))
    return jnp.exp(theta[0]) * first + theta[1] ** 2 * second


THETA = np.array([0.2, 0.7])


@pytest.mark.slow
@pytest.mark.parametrize(("num_known", "probe_batch"), [(0, 1), (5, 1), (0, PROBES)])
def test_the_mean_over_keys_is_the_dense_gradient(num_known, probe_batch):
    def estimate(theta, key):
        op = family(theta)
        known = eigsh(op, num_known, which="SA") if num_known else None
        return logdet(op, key=key, deflate=known, probe_batch=probe_batch, **OPTIONS).estimate

    gradients = jax.jit(jax.vmap(jax.grad(estimate), (None, 0)))(THETA, jax.random.split(KEY, 100))
    exact = jax.grad(lambda theta: jnp.linalg.slogdet(family(theta))[1])(THETA)
    error = np.std(gradients, axis=0) / 10
    assert np.all(error < 0.02 * np.abs(exact))
    assert_allclose(np.mean(gradients, axis=0), exact, atol=3 * np.max(error))


@pytest.mark.slow
def test_parameters_of_the_function_and_leaves_of_the_vectors():
    def split(v):
        return {"a": v[: N // 2], "b": v[N // 2 :].reshape(3, -1)}

    def estimate(theta, shift, key):
        matrix = family(theta)
        product = lambda v: split(matrix @ jnp.concatenate([v["a"], v["b"].ravel()]))
        f = lambda values: jnp.sqrt(values + shift)
        return trace_of_function(product, f, key=key, like=split(jnp.zeros(N)), **OPTIONS).estimate

    def dense(theta, shift):
        values = jnp.linalg.eigvalsh(family(theta))
        return jnp.sum(jnp.sqrt(values + shift))

    keys = jax.random.split(KEY, 100)
    gradients = jax.jit(jax.vmap(jax.grad(estimate, argnums=(0, 1)), (None, None, 0)))(THETA, 0.3, keys)
    for found, exact in zip(gradients, jax.grad(dense, argnums=(0, 1))(THETA, 0.3), strict=True):
        error = np.max(np.std(found, axis=0)) / 10
        assert_allclose(np.mean(found, axis=0), exact, atol=3 * error, rtol=0)
        assert error < 0.01 * np.max(np.abs(exact))


def test_second_derivatives_are_refused_and_an_indefinite_operator_has_none():
    estimate = lambda theta: logdet(family(theta), key=KEY, **OPTIONS).estimate
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        jax.hessian(estimate)(THETA)
    exact = lambda c: logdet(c * jnp.eye(5), key=KEY).estimate
    assert_allclose(jax.grad(exact)(2.0), 2.5)
    with pytest.raises(NotImplementedError, match="logdet has first derivatives only"):
        jax.grad(jax.grad(exact))(2.0)
    indefinite = lambda shift: logdet(family(THETA) - shift * jnp.eye(N), key=KEY, **OPTIONS).estimate
    assert np.isnan(jax.grad(indefinite)(3.0))
