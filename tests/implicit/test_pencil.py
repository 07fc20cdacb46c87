"""Derivatives of generalized and shift-inverted pairs, in A and in B, against differences of SciPy's decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eigenjax import Status, as_operator, eigsh

pytestmark = pytest.mark.usefixtures("float64")

N, K = 24, 3
OPTIONS = {"krylov_dim": 14, "tol": 1e-12}


def pencil(is_complex, seed=0):
    """Return A, B and their directions of change."""
    rng = np.random.default_rng(seed)

    def hermitian():
        x = rng.standard_normal((N, N)) + (1j * rng.standard_normal((N, N)) if is_complex else 0)
        return (x + x.conj().T) / 2

    w = hermitian()
    return hermitian(), w @ w / N + np.eye(N), hermitian(), 0.2 * hermitian()


WEIGHTS = np.random.default_rng(7).standard_normal((K, N))


def loss_of(values, vectors, xp=jnp):
    along = xp.abs(xp.sum(WEIGHTS.astype(vectors.dtype) * vectors, axis=1)) ** 2
    return xp.sum(values * xp.arange(1.0, K + 1)) + xp.sum(along * xp.arange(1.0, K + 1))


def wanted(values, kind):
    if kind in ("inverse", "sigma"):
        return np.argsort(np.abs(values - 0.3))[:K]
    return np.argsort(values)[:K]


def truth(a, b, kind):
    values, columns = scipy.linalg.eigh(a, b)
    chosen = wanted(values, kind)
    return loss_of(values[chosen], columns[:, chosen].T, np)


def solve(a, b, kind, **more):
    options = {"SA": {"which": "SA"}, "sigma": {"sigma": 0.3}}.get(kind)
    if options is None:
        options = {"sigma": 0.3, "inverse": jnp.linalg.inv(a - jnp.asarray(0.3, b.dtype) * b)}
    return eigsh(a, K, b=b, **options, **OPTIONS, **more)


def differences(f, h):
    first = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
    second = (-f(2 * h) + 16 * f(h) - 30 * f(0.0) + 16 * f(-h) - f(-2 * h)) / (12 * h * h)
    return first, second


CASES = [
    pytest.param("SA", False, "reverse"),
    pytest.param("inverse", False, "reverse"),
    pytest.param("inverse", True, "forward"),
    *(
        pytest.param(kind, is_complex, derivative, marks=pytest.mark.slow)
        for kind in ("SA", "inverse", "sigma")
        for is_complex in (False, True)
        for derivative in ("reverse", "forward")
    ),
]


@pytest.mark.parametrize(("kind", "is_complex", "derivative"), CASES)
def test_first_and_second_derivatives_equal_differences(kind, is_complex, derivative):
    a, b, a_dot, b_dot = pencil(is_complex)
    value = lambda t: truth(a + t * a_dot, b + t * b_dot, kind)
    expected, _ = differences(value, 1e-4)
    _, expected_second = differences(value, 2e-3)

    def loss(t):
        t = jnp.asarray(t).astype(a.dtype)
        result = solve(jnp.asarray(a) + t * a_dot, jnp.asarray(b) + t * b_dot, kind, derivative=derivative)
        return loss_of(result.eigenvalues, result.eigenvectors)

    along = lambda f: lambda t: jax.jvp(f, (t,), (1.0,))[1]
    differentiate = jax.grad if derivative == "reverse" else along
    first = differentiate(loss)
    np.testing.assert_allclose(jax.jit(first)(0.0), expected, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(differentiate(first))(0.0), expected_second, rtol=1e-6)


def test_the_cotangents_of_both_matrices_are_hermitian_and_right():
    a, b, a_dot, b_dot = pencil(False)
    loss = lambda a, b: loss_of(*solve(a, b, "SA")[:2])
    a_bar, b_bar = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(a_bar, a_bar.T, atol=1e-12)
    np.testing.assert_allclose(b_bar, b_bar.T, atol=1e-12)
    for bar, along in ((a_bar, (a_dot, 0 * b_dot)), (b_bar, (0 * a_dot, b_dot))):
        expected, _ = differences(lambda t, d=along: truth(a + t * d[0], b + t * d[1], "SA"), 1e-4)
        np.testing.assert_allclose(np.sum(bar * (along[0] + along[1])), expected, rtol=1e-7)


def test_a_loss_of_the_subspace_of_copies_has_its_gradient():
    _, b, a_dot, b_dot = pencil(False)
    values = np.r_[1.0, 1.0, 1.0, np.linspace(2, 5, N - 3)]
    vectors = scipy.linalg.eigh(np.diag(np.arange(1.0, N + 1)) + 0.1 * a_dot, b)[1]
    inverse = np.linalg.inv(vectors)
    a = inverse.T @ np.diag(values) @ inverse
    weights = WEIGHTS.T @ WEIGHTS

    def of_subspace(columns):
        return np.trace(columns.T @ weights @ columns)

    expected, _ = differences(lambda t: of_subspace(scipy.linalg.eigh(a + t * a_dot, b + t * b_dot)[1][:, :3]), 1e-4)

    def loss(t):
        x = eigsh(jnp.asarray(a) + t * a_dot, 3, b=jnp.asarray(b) + t * b_dot, which="SA", **OPTIONS).eigenvectors
        return jnp.trace(x @ weights @ x.T)

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), expected, rtol=1e-6)


def test_gradients_flow_to_the_parameters_of_callables_on_pytrees():
    a, b, *_ = pencil(False)
    join, split = lambda v: jnp.concatenate([v["x"], v["y"]]), lambda v: {"x": v[:10], "y": v[10:]}
    like = split(jnp.zeros(N))

    def loss(stiffness, density):
        op = as_operator(lambda v: split(stiffness * (jnp.asarray(a) @ join(v))), like=like)
        mass = as_operator(lambda v: split(jnp.asarray(b) @ join(v) + density * join(v)), like=like)
        result = eigsh(op, 2, b=mass, which="SA", krylov_dim=14, tol=1e-12)
        return result.eigenvalues[0] + result.eigenvectors["x"][1, 0] ** 2, result

    (grads, result) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(jnp.asarray(1.5), jnp.asarray(0.5))
    assert result.status == Status.CONVERGED

    def value(stiffness, density):
        values, columns = scipy.linalg.eigh(stiffness * a, b + density * np.eye(N))
        return values[0] + columns[0, 1] ** 2

    for grad, f in zip(grads, (lambda t: value(1.5 + t, 0.5), lambda t: value(1.5, 0.5 + t)), strict=True):
        np.testing.assert_allclose(grad, differences(f, 1e-4)[0], rtol=1e-6)


def test_jit_of_vmap_of_grad_with_an_inverse_and_no_gradient_through_it():
    a, b, *_ = pencil(False)

    def loss(t):
        inverse = jnp.linalg.inv(jnp.asarray(a) + t * jnp.eye(N) - 0.3 * b)
        result = eigsh(jnp.asarray(a) + t * jnp.eye(N), 2, b=b, sigma=0.3, inverse=inverse, **OPTIONS)
        return jnp.sum(result.eigenvalues)

    def value(t):
        values = scipy.linalg.eigh(a + t * np.eye(N), b, eigvals_only=True)
        return np.sum(values[np.argsort(np.abs(values - 0.3))[:2]])

    points = jnp.asarray([0.0, 0.01])
    found = jax.jit(jax.vmap(jax.grad(loss)))(points)
    expected = [differences(lambda h, t=t: value(float(t) + h), 1e-5)[0] for t in points]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
