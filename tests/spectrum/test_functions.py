"""Functions of an operator against dense eigendecompositions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import EigenResult, EstimateStatus, eigsh, logdet, matrix_function, trace_of_function
from eigenjax.spectrum.functions import FunctionResult

N = 60
FUNCTIONS = {"exp": jnp.exp, "sqrt": jnp.sqrt, "log": jnp.log, "reciprocal": lambda x: 1 / x}


@functools.partial(jax.jit, static_argnames=("name", "krylov_dim"))
def applied(matrix, vector, name, krylov_dim=24):
    return matrix_function(matrix, FUNCTIONS[name], vector, krylov_dim=krylov_dim)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_times_a_vector_and_its_error(name, rotated, rng, float64):
    values = np.linspace(0.1, 4, N)
    matrix, vector = rotated(values), rng.standard_normal(N)
    exact = rotated(np.asarray(FUNCTIONS[name](values))) @ vector
    found = applied(jnp.asarray(matrix), jnp.asarray(vector), name)
    error = np.linalg.norm(found.vector - exact)
    assert error <= found.error_estimate <= 1e4 * error + 1e-8
    assert found.converged == (name == "exp")
    assert found.num_matvecs == 24


def test_an_invariant_subspace_is_enough(rotated, rng, float64):
    matrix, vector = rotated(np.repeat([1.0, 4.0], [20, 40])), rng.standard_normal(N)
    found = applied(jnp.asarray(matrix), jnp.asarray(vector), "sqrt")
    assert_allclose(found.vector, rotated(np.repeat([1.0, 2.0], [20, 40])) @ vector, atol=1e-12)
    assert found.converged
    assert np.all(applied(jnp.asarray(matrix), jnp.zeros(N), "log").vector == 0)
    broken = applied(jnp.asarray(matrix) * np.nan, jnp.asarray(vector), "exp")
    assert broken.status == EstimateStatus.NONFINITE
    assert np.isnan(broken.vector).all()
    assert not broken.converged


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_space_of_all_dimensions_has_converged(symmetric, rotated, rng, float64):
    matrix, vector = rotated(np.array([1.0, 4.0, 9.0])), rng.standard_normal(3)
    found = matrix_function(jnp.asarray(matrix), jnp.sqrt, jnp.asarray(vector), symmetric=symmetric)
    assert_allclose(found.vector, rotated(np.array([1.0, 2.0, 3.0])) @ vector, rtol=1e-12)
    assert found.converged


@pytest.mark.slow
def test_complex_values(rotated, float64):
    values = np.linspace(-1, 1, 20)
    matrix, vector = rotated(values, is_complex=True), np.ones(20, complex)
    found = matrix_function(
        jnp.asarray(matrix), lambda x: jax.lax.complex(jnp.cos(x), -jnp.sin(x)), jnp.asarray(vector)
    )
    parts = rotated(np.cos(values), is_complex=True) - 1j * rotated(np.sin(values), is_complex=True)
    assert_allclose(found.vector, parts @ vector, atol=1e-12)
    assert isinstance(found, FunctionResult)
    with pytest.raises(TypeError, match="complex values"):
        matrix_function(jnp.asarray(matrix.real), lambda x: jax.lax.complex(jnp.cos(x), -jnp.sin(x)), jnp.ones(20))


@functools.partial(jax.jit, static_argnames=("name",))
def traces(matrix, keys, name):
    return jax.vmap(lambda key: trace_of_function(matrix, FUNCTIONS[name], key=key, num_probes=6, krylov_dim=20))(keys)


@pytest.mark.slow
def test_traces_of_functions_are_unbiased_and_honest(rotated, float64):
    values = np.linspace(0.5, 3, 130)  # a dimension above the number of matvecs
    found = traces(jnp.asarray(rotated(values)), jax.random.split(jax.random.key(0), 200), "exp")
    errors = found.estimate - np.exp(values).sum()
    assert abs(errors.mean()) <= 4 * errors.std() / 200**0.5
    assert 0.3 < np.sqrt(np.mean((errors / found.standard_error) ** 2)) < 1.2
    assert (found.num_matvecs == 120).all()


@pytest.mark.slow
def test_the_determinant_and_what_has_none(rotated, float64):
    run = jax.jit(lambda a: logdet(a, key=jax.random.key(0), num_probes=4, krylov_dim=14))
    values = np.linspace(0.5, 3, N)
    found = run(jnp.asarray(rotated(values)))
    assert abs(found.estimate - np.log(values).sum()) <= 4 * found.standard_error
    assert found.standard_error < 12
    assert found.status == EstimateStatus.ESTIMATED
    # With few distinct eigenvalues a few steps find a zero eigenvalue to rounding.
    for bad in (values - 1, np.r_[np.zeros(5), np.repeat([1.0, 2.0, 3.0], [20, 20, 15])]):
        found = run(jnp.asarray(rotated(bad)))
        assert np.isnan(found.estimate)
        assert found.status == EstimateStatus.NOT_POSITIVE_DEFINITE
    assert run(jnp.full((N, N), jnp.nan)).status == EstimateStatus.NONFINITE
    assert "shift" in EstimateStatus.NOT_POSITIVE_DEFINITE.advice


def test_a_budget_of_all_products_is_exact(rotated, float64):
    values = np.linspace(0.2, 3, N)
    for is_complex in (False, True):
        matrix = jnp.asarray(rotated(values, is_complex=is_complex))
        found = logdet(matrix, key=jax.random.key(0), num_probes=3, krylov_dim=20)
        assert_allclose(found.estimate, np.log(values).sum(), rtol=1e-12)
        assert (found.standard_error, found.num_matvecs, found.status) == (0, N, EstimateStatus.ESTIMATED)
    found = trace_of_function(matrix, jnp.exp, key=jax.random.key(0))
    assert_allclose(found.estimate, np.exp(values).sum(), rtol=1e-12)
    for bad in (values - 1, np.r_[0.0, values[1:]]):
        found = logdet(jnp.asarray(rotated(bad)), key=jax.random.key(0))
        assert np.isnan(found.estimate)
        assert found.status == EstimateStatus.NOT_POSITIVE_DEFINITE


@pytest.mark.slow
def test_the_determinant_beside_known_pairs_is_never_lost(rotated, float64):
    rng = np.random.default_rng(5)
    values = np.abs(rng.normal(size=50)) ** 3 + 1e-3
    matrix = jnp.asarray(rotated(values))
    for which in ("SA", "LA"):
        given = eigsh(matrix, k=5, which=which, tol=1e-11, krylov_dim=50)
        # One probe exhausts the complement of the pairs. The budget is below n, so that no dense solve runs.
        run = jax.vmap(lambda key, given=given: logdet(matrix, key=key, num_probes=1, krylov_dim=49, deflate=given))
        found = jax.jit(run)(jax.random.split(jax.random.key(1), 40))
        assert np.isfinite(found.estimate).all()
        assert (found.status == EstimateStatus.ESTIMATED).all()
        assert_allclose(found.estimate.mean(), np.log(values).sum(), rtol=0.1)
        assert (found.num_matvecs == 50).all()


@pytest.mark.slow
def test_known_pairs_count_without_chance(float64):
    values = jnp.asarray(np.r_[1e-6, np.ones(39)])
    yes = jnp.ones(1, bool)
    pairs = EigenResult(values[:1], jnp.eye(40)[:1], jnp.zeros(1), yes, jnp.int32(0), jnp.int32(0))
    found = logdet(jnp.diag(values), key=jax.random.key(0), num_probes=3, krylov_dim=10, deflate=pairs)
    assert_allclose(found.estimate, np.log(1e-6), rtol=1e-9)
    assert found.standard_error < 1e-9


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: matrix_function(jnp.eye(3), jnp.exp, jnp.ones(3), krylov_dim=0), ValueError, "krylov_dim=0"),
        (lambda: matrix_function(jnp.eye(3), jnp.exp, jnp.ones(4)), ValueError, "v: the array"),
        (lambda: matrix_function(jnp.eye(3), jnp.sum, jnp.ones(3)), ValueError, "act elementwise"),
        (lambda: logdet(jnp.eye(3), key=None), TypeError, "typed key"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
