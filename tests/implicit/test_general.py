"""Gradients of losses of general eigenpairs against fourth-order differences in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax import as_operator, eigs
from eigenjax.implicit.general import left_eigenvectors

# Step of a fourth-order difference: h^4 truncation against eps / h rounding.
STEP = 1e-4
TOLERANCE = 1e-6
SLOW = pytest.mark.slow

pytestmark = pytest.mark.usefixtures("float64")


def matrix_with(dominant, n, seed=0):
    """Draw a random (n, n) matrix with a real or complex dominant eigenvalue and well-separated eigenvalues."""
    for attempt in range(seed * 1000, seed * 1000 + 1000):
        matrix = np.random.default_rng(attempt).normal(size=(n, n))
        values = np.linalg.eigvals(matrix)
        values = values[np.argsort(-np.abs(values))]
        gaps = np.abs(values[:, None] - values) + 9 * np.eye(n)
        beyond = 1 if dominant == "real" else 2
        apart = np.abs(values[0]) - np.abs(values[beyond]) > 0.2
        if (values[0].imag == 0) == (dominant == "real") and apart and gaps.min() > 0.3:
            return matrix
    raise AssertionError("no such matrix")


def difference(function, theta, direction):
    at = lambda steps: function(theta + steps * STEP * direction)
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)


def reference(weights, matrix):
    """Compute sum_j c_j |v_j|^2 of the dominant eigenvector with NumPy."""
    values, vectors = np.linalg.eig(matrix)
    dominant = vectors[:, np.argmax(np.abs(values))]
    return np.sum(weights * np.abs(dominant) ** 2) / np.linalg.norm(dominant) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, pytest.param(7, marks=SLOW)])
def test_every_entry_of_a_batch_of_four(n):
    weights = np.random.default_rng(5).normal(size=n)
    gradient = jax.jit(jax.vmap(jax.grad(lambda a: jnp.sum(weights * jnp.abs(eigs(a, 1).eigenvectors[0]) ** 2))))
    for dominant in ("real", "pair"):
        batch = np.stack([matrix_with(dominant, n, seed) for seed in range(4)])
        ours = gradient(jnp.asarray(batch))
        for matrix, found in zip(batch, ours, strict=True):
            units = np.eye(n * n).reshape(n, n, n, n)
            by_entry = lambda i, j, a=matrix, e=units: difference(functools.partial(reference, weights), a, e[i, j])
            expected = np.array([[by_entry(i, j) for j in range(n)] for i in range(n)])
            assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * np.abs(expected).max())


def loss_of(result, weights):
    """Compute a loss of eigenvalues and eigenvectors that depends on the phase of the vectors."""
    (vectors,) = jax.tree.leaves(result.eigenvectors)
    of_values = jnp.sum(jnp.sin(result.eigenvalues.real) + result.eigenvalues.imag**2)
    return of_values + jnp.sum(jnp.sin(weights[0] * vectors.real) + jnp.cos(1 + weights[1] * vectors.imag))


def assert_gradient(loss, theta, direction):
    loss = jax.jit(loss)
    ours = jnp.real(jnp.sum(jax.jit(jax.grad(loss))(theta) * direction))
    expected = difference(loss, theta, direction)
    assert abs(expected) > 1e-3, "the direction shows nothing"
    assert_allclose(ours, expected, rtol=TOLERANCE)


@SLOW
@pytest.mark.parametrize("dominant", ["pair", "real"])
def test_a_loss_of_the_phase_and_its_second_derivative(dominant, rng):
    n, k = 7, 3
    weights, theta = rng.normal(size=(2, k, n)), jnp.asarray(matrix_with(dominant, n))
    direction, other = (jnp.asarray(rng.normal(size=(n, n))) for _ in range(2))
    loss = jax.jit(lambda a: loss_of(eigs(a, k, tol=1e-12), weights))
    slope = lambda a, direction: jnp.sum(jax.grad(loss)(a) * direction)
    first = jax.jit(slope)
    assert_allclose(first(theta, direction), difference(loss, theta, direction), rtol=TOLERANCE)
    second = jax.jit(jax.grad(slope))(theta, direction)
    expected = difference(lambda a: first(a, direction), theta, other)
    assert_allclose(jnp.sum(second * other), expected, rtol=TOLERANCE)


@SLOW
def test_complex_operators(rng):
    n, k = 7, 2
    complex_normal = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
    weights, theta, direction = rng.normal(size=(2, k, n)), complex_normal(n, n), complex_normal(n, n)
    assert_gradient(lambda a: loss_of(eigs(a, k, tol=1e-12), weights), jnp.asarray(theta), jnp.asarray(direction))


def convection_diffusion(field, n):
    """Return v -> -(D v')' + c v' + f v on a line, zero boundary, with parameters for diffusion, wind and source."""

    def product(v):
        padded = jnp.pad(v, 1)
        flux = jnp.exp(field["diffusion"]) * jnp.diff(padded)
        wind = field["wind"] * (padded[2:] - padded[:-2]) / 2
        return -jnp.diff(flux) + wind + field["source"] * v

    return as_operator(product, like=jnp.zeros(n))


@pytest.mark.slow
def test_a_matrix_free_operator_with_fields_of_parameters(rng):
    n, k = 60, 2
    field = {"diffusion": 0.3 * rng.normal(size=n + 1), "wind": np.asarray(0.8), "source": 2 * rng.normal(size=n)}
    field = jax.tree.map(jnp.asarray, field)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), field)
    weights = rng.normal(size=(2, k, n))
    loss = jax.jit(lambda field: loss_of(eigs(convection_diffusion(field, n), k, tol=1e-11), weights))
    gradient = jax.jit(jax.grad(loss))(field)
    ours = sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), gradient, direction)))
    at = lambda steps: loss(jax.tree.map(lambda x, y: x + steps * STEP * y, field, direction))
    expected = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)
    assert_allclose(ours, expected, rtol=TOLERANCE)


@pytest.mark.slow
def test_a_matrix_is_not_taken_for_symmetric():
    # The derivative is d lambda / dA = u v^T / (u^T v) in closed form.
    matrix = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 0.5], [0.0, 0.2, 1.0]])
    values, left, right = scipy.linalg.eig(matrix, left=True)
    i = np.argmax(np.abs(values))
    expected = np.outer(left[:, i], right[:, i]) / (left[:, i] @ right[:, i])
    gradient = jax.grad(lambda a: eigs(a, 1).eigenvalues[0].real)(jnp.asarray(matrix))
    assert_allclose(gradient, expected.real, atol=1e-7)


@SLOW
def test_the_conditions_of_eigenvalues(rng):
    matrix = rng.normal(size=(30, 30))
    values, left, right = scipy.linalg.eig(matrix, left=True)
    order = np.argsort(-np.abs(values), kind="stable")[:4]
    expected = 1 / np.abs(np.sum(left.conj() * right, axis=0))[order]
    result = eigs(jnp.asarray(matrix), 4, tol=1e-11)
    found = jax.jit(left_eigenvectors)(jnp.asarray(matrix), result)
    assert_allclose(np.sort(found.conditions), np.sort(expected), rtol=1e-6)
    assert (np.asarray(found.residuals) < 1e-8).all()
    assert_allclose(jnp.linalg.norm(found.vectors, axis=1), 1, rtol=1e-12)
    overlap = jnp.sum(jnp.conj(result.eigenvectors) * found.vectors, axis=1)
    assert_allclose(overlap, 1 / found.conditions, rtol=1e-6)


@pytest.mark.slow
def test_never_nan_where_eigenvalues_coalesce():
    gradient = jax.jit(jax.grad(lambda a: loss_of(eigs(a, 2), np.ones((2, 2, 4)))))
    block = np.eye(4) + np.eye(4, k=1)
    tiny = np.diag([1e-9, 2e-9, 3e-9], k=1)
    pairs = np.diag([2.0, 2.0, 1.0, 1.0])
    for matrix in (np.eye(4), np.zeros((4, 4)), block, block - np.eye(4), np.eye(4) + tiny, pairs):
        assert np.all(np.isfinite(gradient(jnp.asarray(matrix))))


@SLOW
def test_v0_gets_a_zero_cotangent_and_options_of_the_adjoint_are_reported(rng):
    matrix = jnp.asarray(matrix_with("real", 3))
    by_start = jax.grad(lambda v0: jnp.sum(eigs(matrix, 1, v0=v0, adjoint_tol=1e-3).eigenvectors.real))
    assert not np.any(by_start(jnp.asarray(rng.normal(size=3))))
    with pytest.raises(TypeError, match=r"eigs got momentum=0\.5: eigs takes .*adjoint_tol"):
        eigs(matrix, 1, momentum=0.5)


@SLOW
def test_a_large_gradient_takes_fewer_products_than_dimensions(rng):
    # The complement is solved in restarted Krylov spaces, not densely.
    n = 200
    matrix = np.diag(np.r_[3.0, 2.5, np.linspace(-1, 1, n - 2)]) + 0.02 * np.triu(rng.normal(size=(n, n)), 1)
    weights, direction = rng.normal(size=(2, 2, n)), jnp.asarray(rng.normal(size=(n, n)))
    calls = []

    def operator(theta):
        def product(v):
            jax.debug.callback(lambda _: calls.append(1), v[0])
            return theta @ v

        return as_operator(product, like=jnp.zeros(n))

    loss = lambda a: loss_of(eigs(operator(a), 2, tol=1e-11), weights)
    gradient = jax.jit(jax.grad(loss))(jnp.asarray(matrix))
    jax.effects_barrier()
    # The callback does not run for transposed matvecs: they are not counted.
    assert len(calls) < n
    assert_allclose(
        jnp.sum(gradient * direction), difference(jax.jit(loss), jnp.asarray(matrix), direction), rtol=TOLERANCE
    )
