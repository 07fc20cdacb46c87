"""Fisher information under Bernoulli, Poisson and given likelihoods, and of several heads, against matrices by hand."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from numpy.testing import assert_allclose

from eigenjax import Likelihood, check_operator, fisher, to_dense

from .conftest import assert_close

SLOW = pytest.mark.slow
KEY = jax.random.key(0)
N, INPUTS, OUTPUTS = 12, 3, 2


def network(params, inputs):
    return jnp.tanh(inputs @ params["w0"]) @ params["w1"]


@pytest.fixture
def problem(rng, float64):
    params = {"w0": rng.normal(size=(INPUTS, 4)), "w1": rng.normal(size=(4, OUTPUTS))}
    return jax.tree.map(jnp.asarray, params), jnp.asarray(rng.normal(size=(N, INPUTS)))


def by_hand(params, inputs, model=network):
    """Compute outputs z (N, outputs) and their Jacobians (N, outputs, n), dense."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    outputs = lambda x: model(unravel(x), inputs).reshape(len(inputs), -1)
    return np.asarray(outputs(flat)), np.asarray(jax.jacobian(outputs)(flat))


TARGETS = {"bernoulli": lambda rng, z: rng.random(z.shape) < 0.5, "poisson": lambda rng, z: rng.poisson(2.0, z.shape)}
MEANS = {"bernoulli": scipy.special.expit, "poisson": np.exp}
VARIANCES = {"bernoulli": lambda z: scipy.special.expit(z) * scipy.special.expit(-z), "poisson": np.exp}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch_size", [None, pytest.param(5, marks=SLOW)])
def test_exact_and_empirical_matrices_by_hand(name, batch_size, problem, rng):
    params, inputs = problem
    z, jacobian = by_hand(params, inputs)
    targets, weights = jnp.asarray(TARGETS[name](rng, z)), jnp.asarray(rng.random(N))
    build = functools.partial(fisher, network, params, (inputs, targets), likelihood=name, batch_size=batch_size)
    exact = np.einsum("noi,no,noj->nij", jacobian, VARIANCES[name](z), jacobian)
    assert_close(to_dense(build()), exact.mean(0))
    assert_close(to_dense(build(weights=weights)), np.average(exact, 0, weights))
    gradients = np.einsum("noi,no->ni", jacobian, MEANS[name](z) - np.asarray(targets))
    assert_close(to_dense(build(kind="empirical")), gradients.T @ gradients / N)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_samples_have_the_exact_matrix_as_their_mean(name, problem, rng):
    params, inputs = problem
    z, jacobian = by_hand(params, inputs)
    targets = jnp.asarray(TARGETS[name](rng, z))
    sampled = lambda key, **options: fisher(
        network, params, (inputs, targets), likelihood=name, kind="monte_carlo", key=key, **options
    )
    matrices = np.asarray(jax.lax.map(lambda key: to_dense(sampled(key)), jax.random.split(KEY, 2000)))
    exact = np.einsum("noi,no,noj->ij", jacobian, VARIANCES[name](z), jacobian) / N
    error = matrices.std(0) / np.sqrt(len(matrices))
    assert np.mean(np.abs(matrices.mean(0) - exact) < 3 * error) > 0.97
    assert_close(to_dense(sampled(KEY, batch_size=5)), to_dense(sampled(KEY)))


@pytest.mark.parametrize("name", TARGETS)
def test_extreme_outputs_and_targets_out_of_range(name):
    logits = jnp.asarray([-80.0, -30.0, 0.0, 30.0, 80.0], jnp.float32)
    diagonal = lambda targets, **options: np.diag(
        to_dense(fisher(lambda w, x: w[None] * x, logits, (jnp.ones((1, 5)), targets), likelihood=name, **options))
    )
    assert_allclose(diagonal(jnp.ones((1, 5))), VARIANCES[name](np.asarray(logits, float)), rtol=1e-5, atol=1e-37)
    assert np.isnan(diagonal(jnp.full((1, 5), -1.0), kind="empirical")).all()


@pytest.mark.parametrize(
    ("name", "z", "dtype"),
    [
        ("bernoulli", -4.0, "bfloat16"),
        ("poisson", 3.0, "bfloat16"),
        ("poisson", 20.0, "float32"),
        ("poisson", 50.0, "float32"),
    ],
)
def test_samples_of_narrow_outputs_and_of_large_rates(name, z, dtype):
    count = 4000
    data = jnp.full((count, 1), z, dtype), jnp.zeros((count, 1), dtype)
    op = fisher(lambda w, x: x * w[None], jnp.ones(1, dtype), data, likelihood=name, kind="monte_carlo", key=KEY)
    ratio = float(to_dense(op)[0, 0]) / (z**2 * float(VARIANCES[name](np.float64(z))))
    # The fourth moment of a rare event is large: its ratio has a standard deviation of 1 / sqrt(4000 p).
    assert abs(ratio - 1) < (0.4 if name == "bernoulli" else 0.1)


def normal_log_prob(z, y):
    return -((y - z[0]) ** 2) * jnp.exp(-z[1]) / 2 - z[1] / 2


NORMAL = Likelihood(
    normal_log_prob,
    sample=lambda key, z: z[0] + jnp.exp(z[1] / 2) * jax.random.normal(key, (), z.dtype),
    divergence=lambda z, o: ((z[0] - o[0]) ** 2 + jnp.exp(z[1])) * jnp.exp(-o[1]) / 2 + o[1] / 2,
)


@pytest.mark.slow
def test_a_normal_distribution_with_mean_and_variance(problem, rng):
    params, inputs = problem
    z, jacobian = by_hand(params, inputs)
    targets = jnp.asarray(rng.standard_normal(N))
    information = np.stack([np.exp(-z[:, 1]), np.full(N, 0.5)], 1)
    exact = np.einsum("noi,no,noj->ij", jacobian, information, jacobian) / N
    build = functools.partial(fisher, network, params, (inputs, targets))
    op = build(likelihood=NORMAL, batch_size=5)
    assert_close(to_dense(op), exact)
    assert check_operator(op, KEY).change == 0
    residual = np.asarray(targets) - z[:, 0]
    slopes = np.stack([-residual * np.exp(-z[:, 1]), 0.5 - residual**2 * np.exp(-z[:, 1]) / 2], 1)
    gradients = np.einsum("noi,no->ni", jacobian, slopes)
    assert_close(to_dense(build(likelihood=normal_log_prob, kind="empirical")), gradients.T @ gradients / N)
    draws = [build(likelihood=NORMAL, kind="monte_carlo", key=key) for key in jax.random.split(KEY, 300)]
    matrices = np.asarray([to_dense(op) for op in draws])
    error = matrices.std(0) / np.sqrt(len(matrices))
    assert np.mean(np.abs(matrices.mean(0) - exact) < 3 * error) > 0.95


def heads(params, inputs):
    z = network(params, inputs)
    return {"class": jnp.stack([z[:, 0], z[:, 1], z[:, 0] * z[:, 1]], 1), "count": z[:, :1], "normal": z}


LIKELIHOODS = {"class": "categorical", "count": "poisson", "normal": NORMAL}


@pytest.mark.slow
def test_heads_add_their_matrices(problem, rng):
    params, inputs = problem
    targets = {
        "class": jnp.asarray(rng.integers(0, 3, N)),
        "count": jnp.asarray(rng.poisson(1.0, (N, 1))),
        "normal": jnp.asarray(rng.standard_normal(N)),
    }
    alone = lambda name, **options: to_dense(
        fisher(lambda p, x: heads(p, x)[name], params, (inputs, targets[name]), likelihood=LIKELIHOODS[name], **options)
    )
    build = functools.partial(fisher, heads, params, (inputs, targets), likelihood=LIKELIHOODS)
    assert_close(to_dense(jax.jit(build)(batch_size=None)), sum(alone(name) for name in targets))
    means = lambda p, x, y: -jax.nn.log_softmax(heads(p, x[None])["class"][0])[y]
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def loss(flat, x, y):
        z = jax.tree.map(lambda z: z[0], heads(unravel(flat), x[None]))
        poisson = jnp.sum(jnp.exp(z["count"]) - y["count"].astype(float) * z["count"])
        return means(unravel(flat), x, y["class"]) + poisson - normal_log_prob(z["normal"], y["normal"])

    gradients = np.asarray(jax.vmap(jax.grad(loss), (None, 0, 0))(flat, inputs, targets))
    assert_close(to_dense(build(kind="empirical")), gradients.T @ gradients / N)
    drawn = [build(kind="monte_carlo", key=KEY, batch_size=size) for size in (None, 5)]
    assert_close(to_dense(drawn[0]), to_dense(drawn[1]))


def test_likelihoods_that_lack_something_are_refused(problem):
    params, inputs = problem
    build = lambda targets, **options: fisher(network, params, (inputs, targets), **options)
    y = jnp.zeros((N, OUTPUTS))
    with pytest.raises(ValueError, match=r"Likelihood\(log_prob, divergence=...\)"):
        build(y, likelihood=normal_log_prob)
    with pytest.raises(ValueError, match="sample="):
        build(y, likelihood=normal_log_prob, kind="monte_carlo", key=KEY)
    with pytest.raises(ValueError, match=r"heads.*the targets have the structure"):
        build(y, likelihood={"a": "poisson"})
    with pytest.raises(ValueError, match="give equal ones"):
        build(y[:, 0], likelihood="poisson")
    with pytest.raises(TypeError, match=r"log_prob\(outputs, targets\) returns .*\[2\] for one example"):
        build(y, likelihood=lambda z, y: z * y, kind="empirical")
    with pytest.raises(TypeError, match="needs real numbers"):
        build(y.astype(complex), likelihood="bernoulli")
    with pytest.raises(TypeError, match="likelihood=3"):
        build(y, likelihood=3)
    with pytest.raises(ValueError, match="ignore_label"):
        build(y, likelihood="poisson", ignore_label=0)
