"""Functions of operators without symmetry times a vector, against SciPy's dense functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax import matrix_function

N, STEPS = 30, 20
FUNCTIONS = {
    "sqrt": (jnp.sqrt, scipy.linalg.sqrtm),
    "log": (jnp.log, scipy.linalg.logm),
    "exp": (jnp.exp, scipy.linalg.expm),
}


def block(angle):
    return np.array([[2 + np.cos(angle), np.sin(angle)], [-np.sin(angle), 2 + np.cos(angle)]])


def normal(rng):
    q, _ = np.linalg.qr(rng.standard_normal((N, N)))
    return q @ scipy.linalg.block_diag(*[block(k) for k in range(N // 2)]) @ q.T


MATRICES = {
    "random": lambda rng: rng.standard_normal((N, N)) / 6 + 3 * np.eye(N),
    "normal": normal,
    "Jordan block": lambda rng: 2 * np.eye(N) + np.eye(N, k=1) / 2,
    "rank one": lambda rng: 2 * np.eye(N) + np.outer(rng.standard_normal(N), rng.standard_normal(N)) / 10,
    "triangular": lambda rng: np.triu(rng.standard_normal((N, N)) / 4, 1) + np.diag(np.linspace(1, 5, N)),
    "complex": lambda rng: normal(rng) + 0.3j * np.eye(N) + 0.1j * rng.standard_normal((N, N)),
}


@pytest.mark.parametrize("name", [*FUNCTIONS])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in MATRICES])
@pytest.mark.usefixtures("float64")
def test_the_error_is_within_the_estimate(kind, name, rng):
    matrix = MATRICES[kind](rng)
    ours, theirs = FUNCTIONS[name]
    vector = rng.standard_normal(N).astype(matrix.dtype)
    exact = theirs(matrix) @ vector
    rounding = 1e-12 * np.linalg.norm(exact)
    errors = []
    for steps in (8, STEPS):
        found = matrix_function(
            jnp.asarray(matrix), ours, jnp.asarray(vector), krylov_dim=steps, symmetric=False, tol=1e-4
        )
        errors.append(np.linalg.norm(found.vector - exact))
        assert errors[-1] <= found.error_estimate + rounding
    assert errors[1] <= 1e-3 * errors[0] + rounding
    assert found.converged


@pytest.mark.parametrize("difference", [0.0, pytest.param(1e-9, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("float64")
def test_defective_matrices_have_the_derivative_of_the_function(difference):
    matrix = np.array([[2.0, 1.0], [0.0, 2.0 + difference]])
    found = matrix_function(jnp.asarray(matrix), jnp.exp, jnp.array([0.0, 1.0]), symmetric=False)
    error = np.linalg.norm(found.vector - scipy.linalg.expm(matrix)[:, 1])
    assert error <= min(1e-6, found.error_estimate)


def test_all_steps_are_exact_and_compile():
    matrix = jnp.asarray(np.triu(np.ones((6, 6))) + np.diag(np.arange(6.0)), jnp.float32)
    solve = jax.jit(lambda a, v: matrix_function(a, jnp.sqrt, v, symmetric=False))
    found = solve(matrix, jnp.arange(6.0))
    assert_allclose(found.vector, scipy.linalg.sqrtm(np.asarray(matrix, float)) @ np.arange(6.0), rtol=1e-4)
    assert found.num_matvecs == 6
    zero = solve(matrix, jnp.zeros(6))
    assert_allclose(zero.vector, 0)
    with pytest.raises(TypeError, match="symmetric"):
        matrix_function(matrix, jnp.sqrt, jnp.ones(6), symmetric="no")


def test_a_function_that_is_not_real_on_the_real_axis_is_told():
    found = matrix_function(normal(np.random.default_rng(0)), lambda z: jnp.exp(1j * z), jnp.ones(N), symmetric=False)
    assert not found.converged
