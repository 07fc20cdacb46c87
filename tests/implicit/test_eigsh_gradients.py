"""Gradients of restarted `eigsh` against central differences of dense NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import as_operator, eigsh

SIZE, K = 24, 2
SIGMA = 0.35
STEP = 1e-4  # step of a fourth-order difference
TOLERANCE = 1e-6
SPECTRUM = np.concatenate([[6.0, 4.5, 3.2], np.linspace(-3, 2, SIZE - 3)])

pytestmark = pytest.mark.usefixtures("float64")

solver = functools.partial(eigsh, k=K, krylov_dim=12, tol=1e-13)
OPTIONS = {"LA": {"which": "LA"}, "SA": {"which": "SA"}, "sigma": {"sigma": SIGMA}}


def spread(seed):
    """Construct a matrix with well-separated wanted eigenvalues, and two symmetric directions."""
    generator = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
    directions = generator.standard_normal((2, SIZE, SIZE))
    return (vectors * SPECTRUM) @ vectors.T, *(d + d.T for d in directions)


def loss_of(values, vectors, xp):
    weights = xp.sin(xp.arange(1.0, K * SIZE + 1).reshape(K, SIZE))
    inside = xp.sum(xp.sin(3 * weights * vectors)) + vectors[0] @ vectors[1] ** 2
    return inside + xp.sum(xp.cos(values)) + values[0] * values[1]


def loss(theta, **options):
    result = solver(as_operator(lambda v: theta @ v, like=jnp.ones(SIZE)), **options)
    return loss_of(result.eigenvalues, result.eigenvectors, jnp)


def dense_pairs(theta, name):
    values, vectors = np.linalg.eigh((theta + theta.T) / 2)
    keys = {"LA": -values, "SA": values, "sigma": np.abs(values - SIGMA)}[name]
    chosen = np.argsort(keys)[:K]
    return values[chosen], vectors.T[chosen]


def dense_loss_near(theta, name):
    """Return the loss as a function of nearby matrices, with the signs that `eigsh` gives to the vectors at theta."""
    _, vectors = dense_pairs(theta, name)
    # The largest component is positive. If two are equally large, a difference must not flip the sign.
    vectors = vectors * np.sign(vectors[np.arange(K), np.abs(vectors).argmax(axis=1)])[:, None]

    def dense_loss(other):
        values, others = dense_pairs(other, name)
        return loss_of(values, others * np.sign(np.sum(others * vectors, axis=1))[:, None], np)

    return dense_loss


def central_difference(function, theta, direction):
    at = lambda steps: function(theta + steps * STEP * direction)
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LA", pytest.param("sigma", marks=pytest.mark.slow)])
def test_the_gradient_of_many_matrices_at_once_is_that_of_dense_numpy(name):
    thetas, directions, _ = (np.stack(x) for x in zip(*(spread(seed) for seed in range(4)), strict=True))
    values = [dense_loss_near(theta, name)(theta) for theta in thetas]
    found, gradients = jax.jit(jax.vmap(jax.value_and_grad(functools.partial(loss, **OPTIONS[name]))))(thetas)
    assert_allclose(found, values, rtol=0, atol=1e-10)
    slopes = np.sum(np.asarray(gradients) * directions, axis=(1, 2))
    for slope, theta, direction in zip(slopes, thetas, directions, strict=True):
        expected = central_difference(dense_loss_near(theta, name), theta, direction)
        assert abs(expected) > 1e-2, "the direction shows nothing"
        assert_allclose(slope, expected, rtol=TOLERANCE)


@pytest.mark.slow
def test_the_gradient_of_the_gradient_is_that_of_dense_numpy():
    theta, direction, other = spread(0)

    @jax.jit
    @jax.grad
    def slope_along(theta):
        return jnp.sum(jax.grad(loss)(theta) * direction)

    second = np.sum(np.asarray(slope_along(theta)) * other)
    # An independent value without JAX: a difference of differences.
    wider = lambda function, t, d: (
        sum(w * function(t + s * 1e-2 * d) for s, w in zip((2, 1, -1, -2), (-1, 8, -8, 1), strict=True)) / (12 * 1e-2)
    )
    nearby = dense_loss_near(theta, "LA")
    mixed = wider(lambda t: wider(nearby, t, 0.1 * direction), theta, 0.1 * other) / 0.01
    assert abs(mixed) > 1e-2
    assert_allclose(second, mixed, rtol=1e-4)


@pytest.mark.slow
def test_a_warm_start_gets_zero_cotangents_and_leaves_the_gradient_as_it_is():
    theta, direction, _ = spread(1)
    values, vectors = np.linalg.eigh(theta)
    rows = vectors.T[: -K - 1 : -1]
    rows = rows * np.sign(rows[np.arange(K), np.abs(rows).argmax(axis=1)])[:, None]
    warm = jax.jit(jax.grad(lambda theta, v0: loss(theta, v0=v0), argnums=(0, 1)))
    for start in (rows, rows + 0.1):
        of_theta, of_start = warm(theta, start)
        expected = central_difference(dense_loss_near(theta, "LA"), theta, direction)
        assert_allclose(np.sum(np.asarray(of_theta) * direction), expected, rtol=TOLERANCE)
        assert of_start.shape == rows.shape
        assert not np.any(of_start)
    assert values[-1] > values[-2]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_cluster_gives_finite_gradients_and_the_separated_vector_its_own(k):
    # The derivative is dv = (4 - 1)^-1 P dA v in closed form; the double eigenvalue beside it does not matter.
    gradient = jax.jit(jax.grad(lambda a: eigsh(a, k).eigenvectors[0, 1]))
    found = gradient(jnp.diag(jnp.array([4.0, 1.0, 1.0])))
    assert_allclose(found, [[0, 1 / 6, 0], [1 / 6, 0, 0], [0, 0, 0]], atol=1e-12)
    for matrix in (jnp.eye(3), jnp.zeros((3, 3)), jnp.diag(jnp.array([4.0, 4.0, 1.0]))):
        assert np.all(np.isfinite(gradient(matrix)))


@pytest.mark.slow
def test_the_eigenvalues_of_a_pair_of_equals_have_the_gradient_of_their_sum():
    # The trace over a cluster {4, 4} is smooth, and its gradient is the projector on the eigenspace.
    generator = np.random.default_rng(2)
    vectors, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
    values = np.concatenate([[4.0, 4.0], np.linspace(-1, 2, SIZE - 2)])
    matrix = (vectors * values) @ vectors.T
    total = lambda a: jnp.sum(eigsh(a, K, krylov_dim=12, tol=1e-12, verify=True).eigenvalues)
    found = jax.jit(jax.grad(total))(jnp.asarray((matrix + matrix.T) / 2))
    assert_allclose(found, vectors[:, :2] @ vectors[:, :2].T, rtol=0, atol=1e-10)
