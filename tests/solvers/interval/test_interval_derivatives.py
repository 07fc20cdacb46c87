"""Derivatives of all eigenpairs in an interval, against central differences of dense decompositions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import adjoint_info, eigsh, gauge_residual

_INTERVAL, _K, _N = (-0.17, 0.12), 18, 60


def family(is_complex, seed=1):
    """Return t -> a symmetric matrix, in two parameters, as a function of NumPy or of JAX."""
    generator = np.random.default_rng(seed)
    draw = lambda: generator.standard_normal((_N, _N)) + 1j * is_complex * generator.standard_normal((_N, _N))
    parts = [(x + x.conj().T) / np.sqrt(8 * _N) for x in (draw(), draw(), draw())]
    base, first, second = parts if is_complex else [part.real for part in parts]
    return lambda t: base + t[0].astype(base.dtype) * first + (t[1] ** 2).astype(base.dtype) * second


def losses(weight):
    """Return losses of a result that are functions of the subspace and the values inside."""

    def of_values(result):
        return jnp.sum(jnp.where(result.converged, result.eigenvalues, 0) ** 3)

    def of_projector(result):
        vectors = result.eigenvectors
        return jnp.sum(jnp.abs(jnp.conj(vectors) @ weight) ** 2) ** 2

    def of_both(result):
        values = jnp.where(result.converged, result.eigenvalues, 0)
        overlaps = jnp.abs(jnp.conj(result.eigenvectors) @ weight) ** 2
        return jnp.nansum(values * overlaps) + jnp.nansum(result.eigenvalues)

    return [of_values, of_projector, of_both]


def dense_loss(loss, matrix):
    """Compute a loss of the dense decomposition, in the layout of a result."""
    values, columns = np.linalg.eigh(matrix)
    inside = (values >= _INTERVAL[0]) & (values <= _INTERVAL[1])
    assert 0 < inside.sum() < _K
    # No eigenvalue crosses an end within the steps of the differences.
    assert np.min(np.abs(values[:, None] - np.array(_INTERVAL))) > 2e-3

    class Dense:
        eigenvalues = jnp.asarray(values[inside])
        eigenvectors = jnp.asarray(columns[:, inside].T)
        converged = jnp.ones(inside.sum(), bool)

    return float(loss(Dense))


@pytest.mark.parametrize("dense", [False, True], ids=["krylov", "dense"])
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("index", [0, 1, 2], ids=["values", "projector", "both"])
def test_first_and_second_derivatives_against_differences(index, is_complex, dense, float64, rng):
    matrix, weight = family(is_complex), jnp.asarray(rng.standard_normal(_N))
    loss = losses(weight.astype(jnp.complex128) if is_complex else weight)[index]
    options = {"interval": _INTERVAL, "tol": 1e-11, "dense": dense}
    of_solver = lambda t: loss(eigsh(matrix(t), _K, **options))
    t, direction = jnp.array([0.1, 0.4]), np.array([0.8, -0.6])
    value, gradient = jax.value_and_grad(of_solver)(t)
    exact = lambda s: dense_loss(loss, matrix(np.asarray(t) + s * direction))
    np.testing.assert_allclose(value, exact(0), rtol=1e-10)
    first, second = differences(exact)
    np.testing.assert_allclose(gradient @ direction, first, rtol=1e-6, atol=1e-8)
    of_solver_second = curved_value(of_solver, t, direction)
    np.testing.assert_allclose(of_solver_second, second, rtol=1e-6, atol=1e-6)


def differences(function, h=2e-4):
    """Compute the first and the second derivative at 0 by central differences of fourth order."""
    far, near, middle, *others = (function(step * h) for step in (-2, -1, 0, 1, 2))
    first = (8 * (others[0] - near) - (others[1] - far)) / (12 * h)
    second = (16 * (others[0] + near) - others[1] - far - 30 * middle) / (12 * h**2)
    return first, second


def curved_value(function, t, direction):
    """Compute the second derivative along a direction by reverse mode twice."""
    along = lambda s: function(t + s * jnp.asarray(direction))
    return jax.grad(jax.grad(along))(0.0)


def test_forward_mode(float64, rng):
    matrix, weight = family(False), jnp.asarray(rng.standard_normal(_N))
    loss = losses(weight)[1]
    solve = lambda t: loss(eigsh(matrix(t), _K, interval=_INTERVAL, tol=1e-11, derivative="forward"))
    t, direction = jnp.array([0.1, 0.4]), jnp.array([0.8, -0.6])
    exact = lambda s: dense_loss(loss, matrix(np.asarray(t + s * direction)))
    first, _ = differences(exact)
    np.testing.assert_allclose(jax.jvp(solve, (t,), (direction,))[1], first, rtol=1e-6)


def test_empty_places_have_no_gradient(float64):
    """A loss that reads NaN and zero vectors with any weight has the gradient of the pairs alone."""
    matrix = jnp.asarray(family(False)(np.array([0.1, 0.4])))
    of_all = lambda a: jnp.sum(eigsh(a, _K, interval=_INTERVAL).eigenvalues)
    of_inside = lambda a: jnp.nansum(eigsh(a, _K, interval=_INTERVAL).eigenvalues)
    gradient = jax.grad(of_all)(matrix)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, jax.grad(of_inside)(matrix), atol=1e-12)
    nothing = jax.grad(lambda a: jnp.sum(eigsh(a, 3, interval=(50.0, 60.0)).eigenvectors))(matrix)
    np.testing.assert_array_equal(nothing, 0)


def test_the_ends_of_the_interval_have_no_gradient(float64):
    matrix = jnp.asarray(family(False)(np.array([0.1, 0.4])))
    solve = lambda high: jnp.nansum(eigsh(matrix, _K, interval=(-0.17, high)).eigenvalues)
    assert jax.grad(solve)(0.12) == 0


def test_information_of_the_linear_systems(float64, rng):
    matrix = jnp.asarray(family(False)(np.array([0.1, 0.4])))
    result = eigsh(matrix, _K, interval=_INTERVAL)
    assert int(np.asarray(result.num_found)) < _K
    cotangent = jax.grad(lambda x: losses(jnp.asarray(rng.standard_normal(_N)))[1](result._replace(eigenvectors=x)))
    cotangent = cotangent(result.eigenvectors)
    info = adjoint_info(matrix, result, cotangent)
    assert info.converged.all()
    assert jnp.max(gauge_residual(result, cotangent)) < 1e-6
