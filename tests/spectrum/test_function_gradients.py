"""Derivatives of functions of an operator times a vector, against dense ones and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax import matrix_function
from tests.conftest import rotated

N, STEPS = 30, 22
FUNCTIONS = {"sqrt": (jnp.sqrt, scipy.linalg.sqrtm), "log": (jnp.log, scipy.linalg.logm)}

pytestmark = pytest.mark.usefixtures("float64")


def random(rng, *shape, is_complex=False):
    return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0)


def problem(rng, symmetric, is_complex):
    """Return a matrix, and directions of its parameters and of a vector."""
    along = random(rng, N, N, is_complex=is_complex)
    if symmetric:
        return rotated(np.linspace(1, 4, N), is_complex=is_complex), (along + along.conj().T) / 2
    return random(rng, N, N, is_complex=is_complex) / 8 + 3 * np.eye(N), along


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("is_complex", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("symmetric", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_the_dense_function(name, symmetric, is_complex, rng):
    matrix, matrix_step = problem(rng, symmetric, is_complex)
    vector, step, weights = (random(rng, N, is_complex=is_complex) for _ in range(3))
    ours, theirs = FUNCTIONS[name]

    def loss(matrix, vector):
        found = matrix_function(matrix, ours, vector, krylov_dim=STEPS, symmetric=symmetric)
        return jnp.sum(weights * found.vector).real

    dense = lambda h: np.sum(weights * (theirs(matrix + h * matrix_step) @ (vector + h * step))).real
    h = 1e-4
    exact = (8 * (dense(h) - dense(-h)) - dense(2 * h) + dense(-2 * h)) / (12 * h)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(matrix), jnp.asarray(vector))
    found = sum(jnp.sum(g * s).real for g, s in zip(gradients, (matrix_step, step), strict=True))
    assert_allclose(found, exact, rtol=1e-7, atol=1e-7 * np.linalg.norm(matrix_step))
    if symmetric:
        assert_allclose(gradients[0], gradients[0].conj().T, atol=1e-14)


def split(v):
    return {"a": v[:10], "b": v[10:].reshape(4, 5)}


def test_arrays_in_the_function_leaves_and_batches(rng):
    first, second = jnp.asarray(rotated(np.linspace(1, 3, N))), jnp.asarray(rotated(np.linspace(0, 1, N), seed=1))
    vector, weights = jnp.asarray(rng.standard_normal(N)), jnp.asarray(rng.standard_normal(N))

    def loss(theta, shift):
        matrix = first + theta * second
        product = lambda v: split(matrix @ jnp.concatenate([v["a"], v["b"].ravel()]))
        found = matrix_function(product, lambda x: jnp.sqrt(x + shift), split(vector), krylov_dim=STEPS).vector
        return jnp.concatenate([found["a"], found["b"].ravel()]) @ weights

    def dense(theta, shift):
        values, vectors = jnp.linalg.eigh(first + theta * second)
        return weights @ (vectors @ (jnp.sqrt(values + shift) * (vectors.T @ vector)))

    thetas, shifts = jnp.array([0.3, 1.0]), jnp.array([0.5, 2.0])
    found = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(thetas, shifts)
    exact = jax.vmap(jax.grad(dense, argnums=(0, 1)))(thetas, shifts)
    for ours, theirs in zip(found, exact, strict=True):
        assert_allclose(ours, theirs, rtol=1e-9)


def test_an_invariant_subspace_and_a_vector_of_zeros(rng):
    # Two eigenvalues: the space of two vectors is invariant, and the function has a pole at zero.
    matrix, weights = rotated(np.repeat([1.0, 4.0], 15)), rng.standard_normal(N)
    image = lambda a, v: matrix_function(a, lambda x: 1 / x, v, krylov_dim=10).vector @ weights
    gradients = jax.jit(jax.grad(image, argnums=(0, 1)))
    inverse = np.linalg.inv(matrix)
    for vector in (rng.standard_normal(N), np.zeros(N)):
        of_matrix, of_vector = gradients(jnp.asarray(matrix), jnp.asarray(vector))
        exact = -np.outer(inverse @ weights, inverse @ vector)
        assert_allclose(of_matrix + of_matrix.T, exact + exact.T, atol=1e-10)
        assert_allclose(of_vector, inverse @ weights, atol=1e-10)


def test_forward_mode_and_refusals(rng):
    matrix, step = (jnp.asarray(x) for x in problem(rng, True, False))
    vector = jnp.asarray(rng.standard_normal(N))
    value = lambda a, **options: matrix_function(a, jnp.exp, vector, krylov_dim=STEPS, **options).vector.sum()
    _, slope = jax.jvp(lambda a: value(a, derivative="forward"), (matrix,), (step,))
    exact = np.sum(scipy.linalg.expm_frechet(np.asarray(matrix), np.asarray(step), compute_expm=False) @ vector)
    assert_allclose(slope, exact, rtol=1e-9)
    with pytest.raises(TypeError, match=r'matrix_function\(..., derivative="forward"\)'):
        jax.jvp(value, (matrix,), (step,))
    with pytest.raises(NotImplementedError, match="matrix_function has first derivatives only"):
        jax.grad(lambda a: jnp.sum(jax.grad(value)(a)))(matrix)
    with pytest.raises(ValueError, match="derivative='backward'"):
        value(matrix, derivative="backward")
    with pytest.raises(ValueError, match="needs symmetric=True"):
        value(matrix, derivative="forward", symmetric=False)
