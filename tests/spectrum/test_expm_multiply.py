"""Exponential of an operator times a vector against dense exponentials, its bound and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax import EstimateStatus, as_operator, expm_multiply, matrix_function

N, STEPS = 40, 15
SLOW = pytest.mark.slow


def laplacian():
    return -(2 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1))


def skew(rng):
    a = rng.standard_normal((N, N))
    return a - a.T


# Each entry: a matrix and a time.
MATRICES = {
    "normal, decaying": lambda rng: (laplacian(), 10.0),
    "of a large norm": lambda rng: (300 * laplacian(), 1.0),
    "normal, growing": lambda rng: (-laplacian(), 3.0),
    "rotating": lambda rng: (skew(rng), 1.0),
    "nonsymmetric": lambda rng: (rng.standard_normal((N, N)), 1.0),
    "far from normal": lambda rng: (
        np.triu(2 * rng.standard_normal((N, N)), 1) - 3 * np.diag(np.arange(1, N + 1)),
        0.5,
    ),
    "convection": lambda rng: (100 * laplacian() - 50 * (np.eye(N, k=1) - np.eye(N, k=-1)), 0.05),
    "one block of Jordan": lambda rng: (np.eye(N, k=1) - np.eye(N), 4.0),
    "nilpotent": lambda rng: (np.eye(N, k=1), 2.0),
    "zero": lambda rng: (np.zeros((N, N)), 1.0),
}


def dense_exponential(matrix):
    if np.any(matrix != matrix.T):
        return scipy.linalg.expm(matrix)
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.exp(values)) @ vectors.T


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.usefixtures("float64")
def test_the_error_is_within_the_bound_and_the_tolerance(name, rng):
    matrix, t = MATRICES[name](rng)
    vector = rng.standard_normal(N)
    exact = dense_exponential(t * matrix) @ vector
    # The truth itself has errors of this size.
    rounding = 50 * np.finfo(float).eps * max(np.linalg.norm(exact), np.linalg.norm(vector))
    for tol in (1e-4, 1e-11):
        found = expm_multiply(jnp.asarray(matrix), jnp.asarray(vector), t, tol=tol, krylov_dim=STEPS)
        error = np.linalg.norm(found.vector - exact)
        assert found.converged
        assert error <= found.error_estimate + rounding
        assert error <= tol * max(np.linalg.norm(exact), np.linalg.norm(vector)) + rounding


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_defect_that_vanishes_at_equal_distances_is_seen():
    # A chain with perfect transfer: at multiples of pi all of the vector is back at its start, in between at the end.
    m, n = 60, 66
    steps = np.arange(1, m)
    below = np.concatenate([np.sqrt(steps * (m - steps)), np.ones(n - m)])
    matrix = np.diag(below, -1) - np.diag(below, 1)
    found = expm_multiply(jnp.asarray(matrix), jnp.eye(n)[0], 4 * np.pi, krylov_dim=m)
    assert np.linalg.norm(found.vector - scipy.linalg.expm(4 * np.pi * matrix)[:, 0]) < found.error_estimate < 1e-7


@pytest.mark.usefixtures("float64")
def test_a_limit_that_does_not_suffice_is_told(rng):
    matrix = jnp.asarray(300 * laplacian())
    found = expm_multiply(matrix, jnp.ones(N), krylov_dim=STEPS, max_matvecs=2 * STEPS)
    assert not found.converged
    assert np.isinf(found.error_estimate)
    assert found.num_matvecs == 2 * STEPS
    assert found.status == EstimateStatus.NOT_CONVERGED
    unfinished = lambda t: jnp.sum(
        expm_multiply(matrix, jnp.ones(N), t, krylov_dim=STEPS, max_matvecs=2 * STEPS).vector
    )
    assert np.isnan(jax.grad(unfinished)(1.0))
    bad = expm_multiply(matrix.at[3, 3].set(jnp.nan), jnp.ones(N), krylov_dim=STEPS)
    assert not bad.converged
    assert np.isnan(bad.vector).any()


def test_zero_vectors_times_and_directions_back():
    matrix = jnp.asarray(laplacian(), jnp.float32)
    solve = jax.jit(lambda v, t: expm_multiply(matrix, v, t, krylov_dim=STEPS))
    assert_allclose(solve(jnp.zeros(N), 1.0).vector, 0)
    assert solve(jnp.zeros(N), 1.0).converged
    vector = jnp.linspace(-1, 1, N)
    assert_allclose(solve(vector, 0.0).vector, vector, rtol=1e-6)
    there = solve(vector, 1.0).vector
    assert_allclose(solve(there, -1.0).vector, vector, atol=1e-3)
    many = jax.vmap(solve, (None, 0))(vector, jnp.array([0.5, 1.0]))
    assert_allclose(many.vector[1], there, atol=1e-5)


@pytest.mark.parametrize(("t", "is_rotating"), [(1.0, False), (5.0, False), (-0.5j, True)])
def test_single_precision_converges_at_moderate_norms(t, is_rotating, rng):
    matrix, vector = 20 * laplacian(), rng.standard_normal(N)
    exact = scipy.linalg.expm(t * matrix) @ vector
    # A real operator acts on both parts of a complex vector.
    start = jnp.asarray(vector, jnp.complex64 if is_rotating else jnp.float32)
    found = expm_multiply(jnp.asarray(matrix, jnp.float32), start, t)
    assert found.converged
    assert np.linalg.norm(found.vector - exact) <= found.error_estimate


def test_functions_of_real_operators_act_on_complex_vectors(rng):
    matrix, vector = jnp.asarray(-laplacian(), jnp.float32), rng.standard_normal(N) + 1j * rng.standard_normal(N)
    for symmetric in (True, False):
        found = matrix_function(matrix, jnp.exp, jnp.asarray(vector, jnp.complex64), symmetric=symmetric)
        assert_allclose(found.vector, scipy.linalg.expm(-laplacian()) @ vector, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_schroedinger_equation_of_leaves(rng):
    hamiltonian = rng.standard_normal((N, N)) + 1j * rng.standard_normal((N, N))
    hamiltonian = hamiltonian + hamiltonian.conj().T
    split = lambda x: {"a": x[: N // 2], "b": x[N // 2 :].reshape(2, -1)}
    join = lambda v: jnp.concatenate([v["a"], v["b"].ravel()])
    op = as_operator(lambda v: split(jnp.asarray(hamiltonian) @ join(v)), like=split(jnp.zeros(N, complex)))
    vector = rng.standard_normal(N) + 1j * rng.standard_normal(N)
    found = expm_multiply(op, split(jnp.asarray(vector)), -0.3j, tol=1e-10, krylov_dim=STEPS)
    values, vectors = np.linalg.eigh(hamiltonian)
    assert_allclose(join(found.vector), vectors @ (np.exp(-0.3j * values) * (vectors.conj().T @ vector)), atol=1e-8)
    assert_allclose(jnp.linalg.norm(join(found.vector)), np.linalg.norm(vector), rtol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("is_complex", [False, pytest.param(True, marks=SLOW)])
def test_derivatives_in_the_operator_the_vector_and_the_time(is_complex, rng):
    def draw(*shape):
        x = rng.standard_normal(shape)
        return jnp.asarray(x + 1j * rng.standard_normal(shape) if is_complex else x)

    first, second, vector, weights = draw(N, N) / 2, draw(N, N) / 2, draw(N), draw(N)
    t = jnp.asarray(1.3 + 0.4j if is_complex else 1.3)
    measure = lambda y: jnp.sum(weights * y).real + jnp.sum(jnp.abs(y) ** 2) / 100
    matrix = lambda c: first + jnp.sin(c).astype(first.dtype) * second

    def loss(c, v, t):
        return measure(expm_multiply(matrix(c), v, t, tol=1e-12, krylov_dim=STEPS).vector)

    def dense(c, v, t):
        return float(measure(jnp.asarray(scipy.linalg.expm(np.asarray(t * matrix(c))) @ np.asarray(v))))

    c = jnp.asarray(0.4)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(c, vector, t)
    directions = (jnp.asarray(1.0), draw(N), jnp.asarray(1.0 + 2.0j if is_complex else 1.0))
    for number, (gradient, direction) in enumerate(zip(gradients, directions, strict=True)):
        moved = lambda h, number=number, direction=direction: dense(
            *(x + h * direction if i == number else x for i, x in enumerate((c, vector, t)))
        )
        h = 1e-3
        slope = (8 * (moved(h) - moved(-h)) - moved(2 * h) + moved(-2 * h)) / (12 * h)
        assert_allclose(jnp.sum(gradient * direction).real, slope, rtol=1e-6)


def test_what_has_no_derivative_or_no_meaning_is_refused():
    matrix = jnp.eye(3)
    norm = lambda c: jnp.sum(expm_multiply(c * matrix, jnp.ones(3)).vector)
    with pytest.raises(NotImplementedError, match="expm_multiply has first derivatives only"):
        jax.hessian(norm)(1.0)
    with pytest.raises(TypeError, match=r"t=.*is complex, and the operator's vectors are float32"):
        expm_multiply(matrix, jnp.ones(3), 1j)
