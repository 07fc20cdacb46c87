"""Derivatives of the spectral density against central differences, for all kinds of spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import eigsh, spectral_density
from tests.conftest import rotated

KEY = jax.random.key(0)
N, STEP = 40, 1e-6


def matrices(values, is_complex=False):
    """Return a matrix with these eigenvalues, and a change of the same norm that does not commute with it."""
    values = np.asarray(values, float)
    largest = np.max(np.abs(values)) or 1.0
    change = rotated(largest * np.linspace(-1, 1, len(values)), seed=1, is_complex=is_complex)
    return jnp.asarray(rotated(values, is_complex=is_complex)), jnp.asarray(change)


def both_modes(function):
    """Return the derivatives of a function of a number at zero, forward and reverse, and the central difference."""
    function, zero = jax.jit(function), jnp.zeros(())
    _, forward = jax.jvp(function, (zero,), (jnp.ones(()),))
    return forward, jax.jacrev(function)(zero), (function(zero + STEP) - function(zero - STEP)) / (2 * STEP)


@pytest.mark.parametrize(
    ("krylov_dim", "is_complex", "probe_batch"),
    [(10, False, 1), pytest.param(10, True, 2, marks=pytest.mark.slow), (20, False, 1)],
)
def test_density_cdf_nodes_and_weights(krylov_dim, is_complex, probe_batch, float64):
    matrix, change = matrices(np.linspace(-1, 2, N), is_complex)

    def of(t):
        op = matrix + t.astype(change.dtype) * change
        found = spectral_density(op, key=KEY, num_probes=2, krylov_dim=krylov_dim, probe_batch=probe_batch)
        grid = jnp.array([-0.5, 0.3, 1.0])
        parts = found.nodes[1, :3], found.weights[1, :3], found.density(grid), found.density(grid, 0.2)
        return jnp.concatenate([*parts, found.cdf(grid), found.density(0.4)[None]])

    forward, reverse, difference = both_modes(of)
    assert_allclose(forward, difference, rtol=1e-5, atol=1e-7)
    assert_allclose(reverse, forward, rtol=1e-9, atol=1e-11)


SPECTRA = {
    "zero": np.zeros(N),
    "identity": np.ones(N),
    "rank 3": np.r_[3.0, 2.0, 1.0, np.zeros(N - 3)],
    "two": np.repeat([1.0, 5.0], N // 2),
    "linear": np.linspace(-1, 2, N),
    "decay": 2.0 ** -np.arange(N),
    "fast decay": 10.0 ** -np.arange(N),
    "outliers": np.r_[1e6, 1e3, np.linspace(0, 1, N - 2)],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_smooth_functions_of_spectra_that_end_the_krylov_space(name, float64):
    # The copies of a repeated eigenvalue part with the change: their mass and its center are smooth, lines are not.
    matrix, change = matrices(SPECTRA[name])
    largest = np.max(SPECTRA[name]) or 1.0

    def of(t):
        found = spectral_density(matrix + t * change, key=KEY, num_probes=2, krylov_dim=N)
        mean = jnp.mean(jnp.sum(found.weights * jnp.tanh(found.nodes / largest - 0.3), axis=1))
        smooth = largest * found.density(largest * jnp.array([-0.1, 0.2, 0.9]), 0.3 * largest)
        return jnp.r_[mean, smooth, found.cdf(jnp.array([0.37 * largest]))]

    forward, reverse, difference = both_modes(of)
    # The differences have an error of t^2 / lambda^2 for eigenvalues near t.
    assert_allclose(forward, difference, rtol=1e-4, atol=1e-6)
    # The weights of nodes at a distance d have opposite derivatives with the relative error eps ||A|| / d.
    assert_allclose(reverse, forward, rtol=1e-3 if "decay" in name else 1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_nothing_is_nan_in_float32(name):
    matrix, change = (x.astype(jnp.float32) for x in matrices(SPECTRA[name]))

    def of(t):
        found = spectral_density(matrix + t * change, key=KEY, num_probes=2, krylov_dim=20)
        x = jnp.max(found.nodes) * jnp.array([0.0, 0.2, 1.0])
        return jnp.r_[found.density(x), found.density(x, 0.3), found.cdf(x), found.density(0.0)]

    zero = jnp.zeros(())
    assert np.all(np.isfinite(jax.jacrev(jax.jit(of))(zero)))
    assert np.all(np.isfinite(jax.jvp(jax.jit(of), (zero,), (zero + 1,))[1]))


def test_known_pairs_have_the_derivatives_of_their_eigenvalues(float64):
    matrix, change = matrices(np.r_[9.0, 7.0, np.linspace(0, 1, N - 2)])
    known = eigsh(matrix, 2, tol=1e-12)

    def of(t):
        found = spectral_density(matrix + t * change, key=KEY, num_probes=2, krylov_dim=10, deflate=known)
        return jnp.r_[found.nodes[0, -2:], jnp.sum(found.weights[0, :3] * found.nodes[0, :3])]

    forward, reverse, difference = both_modes(of)
    plus, minus = (np.linalg.eigvalsh(matrix + t * change)[:-3:-1] for t in (STEP, -STEP))
    assert_allclose(forward[:2], (plus - minus) / (2 * STEP), rtol=1e-7)
    # The probes stay in the complement of the vectors given.
    assert_allclose(forward[2], difference[2], rtol=1e-6)
    assert_allclose(reverse, forward, rtol=1e-10)


def test_parameters_in_a_pytree_and_a_batch(float64):
    scale = jnp.linspace(0.5, 1.5, N)

    def moment(params, key):
        product = lambda v: {"a": params["c"] * jnp.tanh(scale) * v["a"] + params["d"] * jnp.sum(v["a"]) / N}
        found = spectral_density(product, key=key, num_probes=2, krylov_dim=8, like={"a": scale})
        return jnp.mean(jnp.sum(found.weights * jnp.square(found.nodes), axis=1))

    params, keys = {"c": jnp.asarray(1.2), "d": jnp.asarray(0.7)}, jax.random.split(KEY, 3)
    gradients = jax.jit(jax.vmap(jax.grad(moment), (None, 0)))(params, keys)
    for name in params:
        ends = [jax.vmap(moment, (None, 0))(params | {name: params[name] + t}, keys) for t in (STEP, -STEP)]
        assert_allclose(gradients[name], (ends[0] - ends[1]) / (2 * STEP), rtol=1e-7)


def test_the_gradient_in_a_matrix_is_symmetric(float64):
    matrix, change = matrices(np.linspace(-1, 2, N))
    moment = lambda a: spectral_density(a, key=KEY, num_probes=2, krylov_dim=10).density(0.3, 0.2)
    gradient = jax.jit(jax.grad(moment))(matrix)
    assert_allclose(gradient, gradient.T, atol=1e-14)
    ends = [moment(matrix + t * change) for t in (STEP, -STEP)]
    assert_allclose(jnp.sum(gradient * change), (ends[0] - ends[1]) / (2 * STEP), rtol=1e-6)


def test_second_derivatives_are_refused():
    mean = lambda c: jnp.sum(spectral_density(c * jnp.eye(5), key=KEY, num_probes=2).nodes)
    with pytest.raises(NotImplementedError, match="spectral_density has first derivatives only"):
        jax.grad(jax.grad(mean))(2.0)


@pytest.mark.slow
def test_a_gradient_stores_the_basis_of_one_probe():
    size, steps, probes = 20_000, 20, 8

    def mean(values):
        op = lambda v: values * v
        found = spectral_density(op, key=KEY, num_probes=probes, krylov_dim=steps, like=values)
        return jnp.sum(found.weights * jnp.tanh(found.nodes))

    compiled = jax.jit(jax.grad(mean)).lower(jnp.ones(size)).compile()
    vectors = compiled.memory_analysis().temp_size_in_bytes / (4 * size)
    assert vectors <= 2 * steps + 12 < probes * steps


def test_units_do_not_matter():
    # Squares of these numbers overflow or underflow in float32.
    matrix = jnp.asarray(rotated(np.linspace(-1, 2, N)), jnp.float32)
    grid = jnp.linspace(-1.5, 2.5, 9)
    exact = spectral_density(matrix, key=KEY, num_probes=2, krylov_dim=10)
    for unit in (2.0**-100, 2.0**100):
        found = spectral_density(unit * matrix, key=KEY, num_probes=2, krylov_dim=10)
        distances = (np.asarray(unit * grid, float)[:, None, None] - np.asarray(found.nodes, float)) / (0.2 * unit)
        kernels = np.exp(-(distances**2) / 2) / (0.2 * unit * np.sqrt(2 * np.pi))
        truth = np.mean(np.sum(np.asarray(found.weights, float) * kernels, axis=2), axis=1)
        assert_allclose(found.density(unit * grid, 0.2 * unit), truth, rtol=1e-4, atol=1e-6 / unit)
        for width in (None, 0.2):
            scaled = found.density(unit * grid, None if width is None else unit * width)
            assert_allclose(unit * scaled, exact.density(grid, width), rtol=1e-4, atol=1e-6)
        assert_allclose(found.cdf(unit * grid), exact.cdf(grid), atol=1e-6)
