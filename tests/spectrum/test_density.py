"""Spectral density of several kinds of spectra, against the exact eigenvalues."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import EigenResult, SpectralDensity, as_operator, hessian, spectral_density

REFERENCE = pathlib.Path(__file__).parents[1] / "reference" / "mlp_tanh.npz"
N = 1000
MOST = 0.03


def semicircle():
    normal = np.random.default_rng(0).standard_normal((N, N))
    return np.linalg.eigvalsh((normal + normal.T) / np.sqrt(2 * N))


def uniform(n):
    return np.random.default_rng(1).uniform(size=n)


SPECTRA = {
    "two clusters": lambda: np.repeat([1.0, 5.0], [400, 600]),
    "two wide clusters": lambda: np.repeat([1.0, 5.0], [400, 600]) + 1e-3 * np.random.default_rng(2).normal(size=N),
    "uniform": lambda: uniform(N),
    "outliers": lambda: np.r_[1000, 500, 300, uniform(N - 3)],
    "rank 3": lambda: np.r_[3, 2, 1, np.zeros(N - 3)],
    "rank 300": lambda: np.r_[uniform(300), np.zeros(N - 300)],
    "semicircle": semicircle,
    "1 / i": lambda: 1 / np.arange(1.0, N + 1),
    "identity": lambda: np.ones(N),
    "zero": lambda: np.zeros(N),
}


def diagonal(values):
    """Construct a diagonal operator; probes on a sphere are rotation invariant, so that any basis will do."""
    return as_operator(lambda v: values * v, like=values)


def exact_pairs(values, k):
    """Return the first k pairs of the diagonal operator."""
    yes = jnp.ones(k, bool)
    return EigenResult(values[:k], jnp.eye(len(values))[:k], jnp.zeros(k), yes, jnp.int32(0), jnp.int32(0))


@functools.partial(jax.jit, static_argnames=("num_probes", "krylov_dim"))
def found_of(values, key, *, num_probes=10, krylov_dim=80):
    return spectral_density(diagonal(values), key=key, num_probes=num_probes, krylov_dim=krylov_dim)


@jax.jit
def cdf_of(found, x):
    return found.cdf(x), found.cdf_standard_error(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_the_distribution_is_within_three_percent(name, kolmogorov, float64):
    values = np.sort(SPECTRA[name]())
    found = found_of(jnp.asarray(values), jax.random.key(0))
    assert kolmogorov(lambda x: cdf_of(found, x)[0], values, np.finfo(float).eps) <= MOST
    assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    assert found.nodes.shape == (10, 80)
    assert found.num_matvecs == 800


def test_nine_tenths_of_a_spectrum_in_a_ten_thousandth_of_it(kolmogorov, float64):
    # A node there has a weight of 0.2, and half of it would be the error; the bars reduce it to 0.02 to 0.04.
    values = np.sort(1 / np.arange(1.0, N + 1) ** 2)
    found = found_of(jnp.asarray(values), jax.random.key(0))
    assert kolmogorov(lambda x: cdf_of(found, x)[0], values, np.finfo(float).eps) <= 0.05


def test_one_probe_of_five_steps_misses_it(kolmogorov, float64):
    values = np.sort(SPECTRA["uniform"]())
    found = found_of(jnp.asarray(values), jax.random.key(0), num_probes=1, krylov_dim=5)
    assert kolmogorov(found.cdf, values, np.finfo(float).eps) > MOST


@pytest.mark.parametrize("name", ["rank 3", "identity", "two clusters", "outliers"])
def test_in_single_precision(name, kolmogorov):
    values = np.sort(SPECTRA[name]()).astype(np.float32)
    found = found_of(jnp.asarray(values), jax.random.key(1))
    assert kolmogorov(lambda x: cdf_of(found, x.astype(np.float32))[0], values, np.finfo(np.float32).eps) <= MOST


@pytest.mark.slow
def test_the_standard_error_is_that_of_the_probes(float64):
    values = np.linspace(0, 1, 200)
    keys, points = jax.random.split(jax.random.key(0), 100), jnp.asarray([0.2, 0.5, 0.9])
    run = jax.jit(jax.vmap(lambda key: cdf_of(found_of(jnp.asarray(values), key, krylov_dim=60), points)))
    estimates, errors = run(keys)
    spread = estimates.std(axis=0, ddof=1)
    assert_allclose(np.sqrt((errors**2).mean(axis=0)), spread, rtol=0.25)
    # Variance on the sphere: Var <q, P q> = 2 F (1 - F) / (n + 2), for ten probes; bars between nodes smooth it.
    truth = points
    assert_allclose(spread, np.sqrt(2 * truth * (1 - truth) / 202 / 10), rtol=0.35)


@pytest.mark.slow
def test_outliers_do_not_blur_the_bulk(float64):
    values = np.r_[1000, 500, 300, uniform(497)]
    found = found_of(jnp.asarray(values), jax.random.key(0))
    grid = jnp.linspace(-1, 2, 1501)
    density = np.asarray(jax.jit(lambda found: found.density(grid))(found))
    bulk, step = 497 / 500, 3 / 1500
    inside = (grid >= 0) & (grid <= 1)
    assert density[inside].sum() * step >= 0.95 * bulk
    assert density[grid < -0.05].sum() * step <= 0.02
    wide = np.asarray(found.density(jnp.linspace(-100, 1100, 2401), width=10.0))
    assert_allclose(wide.sum() * 0.5, 1, rtol=1e-6)


@pytest.mark.slow
def test_a_line_on_a_grid_holds_its_mass(float64):
    values = np.repeat([1.0, 3.0], [30, 70])
    density = found_of(jnp.asarray(values), jax.random.key(0), krylov_dim=10).density(jnp.linspace(0, 4, 401))
    assert_allclose(density.sum() * 0.01, 1, rtol=1e-6)
    assert_allclose(density[:200].sum() * 0.01, 0.3, atol=0.1)


@pytest.mark.slow
def test_known_pairs_are_exact_nodes(float64, kolmogorov):
    values = jnp.asarray(np.r_[1000, 500, 300, -50, uniform(396)])
    pairs = exact_pairs(values, 4)

    @jax.jit
    def run(pairs):
        found = spectral_density(diagonal(values), key=jax.random.key(0), krylov_dim=30, num_probes=4, deflate=pairs)
        points = jnp.asarray([-60.0, -40, 200, 400, 900, 1001])
        return found, found.cdf(points), found.cdf_standard_error(points), found.cdf(jnp.sort(values))

    found, cdf, errors, everywhere = run(pairs)
    assert_allclose(cdf, np.array([0, 1, 397, 398, 399, 400]) / 400, atol=1e-12)
    assert_allclose(errors, 0, atol=1e-12)
    assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    assert np.abs(everywhere - np.arange(1, 401) / 400).max() < 0.06
    assert found.nodes.shape == (4, 34)
    # A pair that has not converged is not deflated: the probes find its mass.
    some = run(pairs._replace(converged=jnp.asarray([True, False, True, True])))[0]
    assert_allclose(some.weights.sum(axis=1), 1, rtol=1e-12)
    assert_allclose(some.weights[:, 30:].sum(axis=1), 3 / 400, rtol=1e-12)


@pytest.mark.slow
def test_all_pairs_known_leave_nothing(float64):
    values = jnp.asarray([3.0, 2.0, 1.0])
    found = spectral_density(jnp.diag(values), key=jax.random.key(0), deflate=exact_pairs(values, 3))
    assert_allclose(found.cdf(jnp.asarray([0.5, 1.0, 2.5, 3.0])), np.array([0, 1, 2, 3]) / 3, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("probe_batch", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_hermitian_pytrees(float64, rotated, probe_batch):
    values = np.linspace(-1, 1, 40)
    matrix = jnp.asarray(rotated(values, is_complex=True))

    def product(v):
        image = matrix @ jnp.concatenate([v["a"].reshape(-1), v["b"]])
        return {"a": image[:30].reshape(5, 6), "b": image[30:]}

    op = as_operator(product, like={"a": jnp.zeros((5, 6), complex), "b": jnp.zeros(10, complex)})
    found = spectral_density(op, key=jax.random.key(0), probe_batch=probe_batch)
    assert found.nodes.shape == (10, 40)
    # With as many steps as dimensions the nodes are the eigenvalues, and the weights have a mean of 1 / n.
    assert_allclose(found.nodes, np.broadcast_to(values, (10, 40)), atol=1e-10)
    assert_allclose(found.weights.mean(axis=0).sum(), 1, rtol=1e-12)
    assert_allclose(found.cdf(jnp.asarray([-0.5, 0.0, 0.5])), [0.25, 0.5, 0.75], atol=0.1)


def test_nan_products_give_nan():
    found = found_of(jnp.asarray(np.r_[np.nan, np.ones(N - 1)].astype(np.float32)), jax.random.key(0))
    assert np.isnan(found.nodes).all()
    assert np.isnan(cdf_of(found, np.full(N, 0.5, np.float32))[0]).all()


def test_one_probe_knows_no_error():
    found = SpectralDensity(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.int32(1))
    assert_allclose(found.cdf(jnp.asarray([0.9, 1.0])), [0, 1])
    assert np.isinf(found.cdf_standard_error(1.0))
    with pytest.raises(ValueError, match="width=0"):
        found.density(jnp.zeros(2), width=0)


@pytest.mark.slow
def test_a_trained_network(kolmogorov, float64):
    values = np.load(REFERENCE)["hessian_eigenvalues"]
    distances = [
        kolmogorov(found_of(jnp.asarray(values), jax.random.key(seed)).cdf, values, np.finfo(float).eps)
        for seed in range(4)
    ]
    # For 582 eigenvalues sampled ten times the distance has a median of 0.83 sqrt(2 / 5820) = 0.015 by chance.
    assert np.median(distances) < 0.04
    more = found_of(jnp.asarray(values), jax.random.key(0), num_probes=40, krylov_dim=160)
    assert kolmogorov(more.cdf, values, np.finfo(float).eps) <= MOST


@pytest.mark.slow
def test_the_hessian_of_a_network(float64, kolmogorov):
    parts = np.load(REFERENCE)
    params = {name: jnp.asarray(parts[name]) for name in ("W0", "b0", "W1", "b1", "W2", "b2")}

    def loss(p):
        hidden = jnp.tanh(jnp.tanh(parts["X"] @ p["W0"] + p["b0"][None, :]) @ p["W1"] + p["b1"][None, :])
        return -jnp.mean(jax.nn.log_softmax(hidden @ p["W2"] + p["b2"][None, :])[np.arange(53), parts["y"]])

    op = hessian(loss, params)
    assert op.size == 582
    found = spectral_density(op, key=jax.random.key(0), num_probes=5, krylov_dim=60)
    assert kolmogorov(found.cdf, parts["hessian_eigenvalues"], np.finfo(float).eps) < 0.07


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": None}, TypeError, "typed key"),
        ({"key": jnp.zeros(2, jnp.uint32)}, TypeError, "typed key"),
        ({"krylov_dim": 0}, ValueError, "krylov_dim=0: give 1 or more"),
        ({"num_probes": 0}, ValueError, "num_probes=0"),
        ({"probe_batch": 1.5}, TypeError, "probe_batch=1.5"),
        ({"deflate": 3}, TypeError, "deflate: got int"),
    ],
)
def test_bad_input_is_named(options, error, match):
    with pytest.raises(error, match=match):
        spectral_density(jnp.eye(3), **({"key": jax.random.key(0)} | options))
    with pytest.raises(TypeError, match="key"):
        spectral_density(jnp.eye(3))


def test_pairs_of_another_operator_are_refused():
    with pytest.raises(ValueError, match="a vector of deflate"):
        spectral_density(jnp.eye(3), key=jax.random.key(0), deflate=exact_pairs(jnp.ones(4), 1))
