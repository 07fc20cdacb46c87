"""Exact, sampled and empirical Fisher information against per-example gradients and closed forms."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from eigenjax import eigsh, fisher, gauss_newton, softmax_cross_entropy, to_dense

from .conftest import IGNORED, assert_close, product_bytes, reference, reference_model

SLOW = pytest.mark.slow
KEY = jax.random.key(0)


def network(params, inputs):
    return jnp.tanh(inputs @ params["w0"]) @ params["w1"]


def log_likelihood(logits, labels):
    """Compute the log-likelihood of each position, zero for ignored labels."""
    valid = labels != IGNORED
    values = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(valid, labels, 0)[..., None], -1)[..., 0]
    return jnp.where(valid, values, 0.0)


@pytest.fixture
def problem(rng, float64):
    params = {"w0": rng.normal(size=(3, 4)), "w1": rng.normal(size=(4, 3))}
    data = (rng.normal(size=(10, 3)), rng.integers(0, 3, size=10))
    return jax.tree.map(jnp.asarray, (params, data))


@pytest.fixture
def sequences(problem, rng):
    params, _ = problem
    labels = np.where(rng.uniform(size=(6, 4)) < 0.4, IGNORED, rng.integers(0, 3, size=(6, 4)))
    return params, (jnp.asarray(rng.normal(size=(6, 4, 3))), jnp.asarray(labels))


def jacobians(params, inputs):
    """Compute the dense Jacobians of all examples, (N, outputs, n)."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = jax.jacobian(lambda x: network(unravel(x), inputs))(flat)
    return np.asarray(dense).reshape(len(inputs), -1, flat.size)


def gradients(params, data):
    """Compute the gradients of the examples' negative log-likelihoods, (N, n)."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    loss = lambda x, y: -jnp.sum(log_likelihood(network(unravel(x), y[0][None]), y[1][None]))
    return np.asarray(jax.vmap(jax.grad(loss), (None, 0))(flat, data))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=SLOW), 8, 17])
def test_the_empirical_spectrum_is_that_of_another_framework(batch_size, float64):
    saved, params, data = reference()
    op = fisher(reference_model, params, data, kind="empirical", batch_size=batch_size)
    truth = saved["empirical_fisher_eigenvalues"]
    assert_allclose(np.linalg.eigvalsh(to_dense(op)), truth, rtol=0, atol=1e-13 * truth[-1])


@pytest.mark.slow
def test_the_exact_fisher_is_the_gauss_newton_matrix_of_the_sum_over_positions(problem, sequences):
    params, data = problem
    assert_close(
        to_dense(fisher(network, params, data)), to_dense(gauss_newton(network, softmax_cross_entropy, *problem))
    )
    params, (inputs, labels) = sequences
    loss = lambda z, y: -jnp.mean(jnp.sum(log_likelihood(z, y), 1))
    ours = to_dense(fisher(network, params, (inputs, labels), ignore_label=IGNORED, batch_size=4))
    assert_close(ours, to_dense(gauss_newton(network, loss, params, (inputs, labels))))
    labels = jnp.maximum(labels, 0)
    mean = gauss_newton(network, softmax_cross_entropy, params, (inputs, labels))
    assert_close(to_dense(fisher(network, params, (inputs, labels))), 4 * to_dense(mean))


@pytest.mark.parametrize("weighted", [pytest.param(False, marks=SLOW), True])
def test_the_exact_gaussian_fisher(problem, rng, weighted):
    params, (inputs, _) = problem
    w = rng.uniform(size=10) if weighted else np.ones(10)
    op = fisher(
        network,
        params,
        (inputs, jnp.zeros((10, 3))),
        likelihood="gaussian",
        batch_size=4,
        weights=w if weighted else None,
    )
    J = jacobians(params, inputs)
    assert_close(to_dense(op), np.einsum("n,nca,ncb->ab", w, J, J) / w.sum())


@pytest.mark.parametrize("weighted", [pytest.param(False, marks=SLOW), True])
def test_gradient_moments_and_covariance(problem, rng, weighted):
    params, data = problem
    w = rng.uniform(size=10) if weighted else np.ones(10)
    g = gradients(params, data)
    options = {"kind": "empirical", "weights": w if weighted else None, "batch_size": 4}
    assert_close(to_dense(fisher(network, params, data, **options)), np.einsum("n,na,nb->ab", w, g, g) / w.sum())
    g = g - w @ g / w.sum()
    centered = to_dense(fisher(network, params, data, **options, centered=True))
    assert_close(centered, np.einsum("n,na,nb->ab", w, g, g) / w.sum())
    assert_close(centered, centered.T)


@pytest.mark.slow
def test_one_example_of_a_sequence_is_the_sum_over_its_valid_positions(sequences):
    params, data = sequences
    g = gradients(params, data)
    ours = to_dense(fisher(network, params, data, kind="empirical", ignore_label=IGNORED, batch_size=4))
    assert_close(ours, g.T @ g / len(g))


def test_examples_that_agree_have_no_covariance(problem):
    params, data = problem
    same = jax.tree.map(lambda x: jnp.stack([x[0]] * 5), data)
    moment = to_dense(fisher(network, params, same, kind="empirical"))
    covariance = to_dense(fisher(network, params, same, kind="empirical", centered=True, batch_size=2))
    assert np.abs(covariance).max() < 1e-15 * np.abs(moment).max()


def test_sampled_labels_have_the_exact_fisher_as_their_mean(problem):
    params, (inputs, labels) = problem
    copies = 2000
    data = jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), (inputs, labels))
    sampled = to_dense(fisher(network, params, data, kind="monte_carlo", key=KEY))
    # Mean and variance over the labels of each entry of g g^T, for each example.
    z = np.asarray(network(params, inputs))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    g = np.einsum("nyc,nca->nya", p[:, None] - np.eye(3), jacobians(params, inputs))
    products = np.einsum("nya,nyb->nyab", g, g)
    mean = np.einsum("ny,nyab->nab", p, products)
    variance = np.einsum("ny,nyab->nab", p, products**2) - mean**2
    assert_close(to_dense(fisher(network, params, (inputs, labels))), mean.mean(0))
    assert_standard_normal(sampled - mean.mean(0), np.sqrt(variance.mean(0) / len(data[0])))


def test_sampled_values_have_the_exact_fisher_as_their_mean(problem):
    params, (inputs, _) = problem
    copies = 2000
    data = (jnp.repeat(inputs, copies, axis=0), jnp.zeros((10 * copies, 3)))
    sampled = to_dense(fisher(network, params, data, kind="monte_carlo", likelihood="gaussian", key=KEY))
    J = jacobians(params, inputs)
    G = np.einsum("nca,ncb->nab", J, J)
    # For g = J^T e with standard normal e: E g_a g_b = G_ab, Var g_a g_b = G_aa G_bb + G_ab^2.
    diagonal = np.einsum("naa->na", G)
    variance = diagonal[:, :, None] * diagonal[:, None] + G**2
    assert_standard_normal(sampled - G.mean(0), np.sqrt(variance.mean(0) / len(data[0])))


def assert_standard_normal(errors, deviations):
    scores = np.asarray(errors)[deviations > 0] / deviations[deviations > 0]
    assert np.abs(scores).max() < 5
    assert 0.3 < np.sqrt(np.mean(scores**2)) < 2


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["categorical", pytest.param("gaussian", marks=SLOW)])
def test_a_sample_is_one_symmetric_matrix_whatever_the_batches(problem, likelihood):
    params, (inputs, labels) = problem
    data = (inputs, labels if likelihood == "categorical" else jnp.zeros((10, 3)))
    sample = functools.partial(fisher, network, params, data, kind="monte_carlo", likelihood=likelihood)
    op = sample(key=KEY)
    dense = to_dense(op)
    assert_array_equal(op(params)["w0"], op(params)["w0"])
    assert_close(dense, dense.T)
    assert np.linalg.eigvalsh(dense)[0] > -1e-14 * np.abs(dense).max()
    assert_close(to_dense(sample(key=KEY, batch_size=4)), dense)
    assert np.abs(to_dense(sample(key=jax.random.key(1))) - dense).max() > 0.01 * np.abs(dense).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=SLOW),
        pytest.param({"kind": "empirical"}, marks=SLOW),
        {"kind": "monte_carlo", "key": KEY},
    ],
)
def test_within_a_solver_for_selected_parameters_of_a_model_with_a_closure(problem, options):
    params, data = problem

    @jax.jit
    def top(offset):
        model = lambda params, inputs: network(params, inputs + offset[None, :])
        first = lambda path, leaf: "w0" in jax.tree_util.keystr(path)
        return eigsh(fisher(model, params, data, select=first, batch_size=4, **options), k=2)

    result = top(jnp.ones(3))
    dense = np.asarray(to_dense(fisher(network, params, (data[0] + 1, data[1]), **options)))
    assert_allclose(result.eigenvalues, np.linalg.eigvalsh(dense[:12, :12])[::-1][:2], rtol=1e-7)


@SLOW
def test_the_derivative_of_the_top_eigenvalue(problem):
    params, data = problem
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    direction = np.cos(np.arange(flat.size))

    def top(x):
        op = fisher(network, unravel(x), data, kind="empirical", centered=True)
        return eigsh(op, k=1, tol=1e-12, krylov_dim=20).eigenvalues[0]

    def dense(t):
        g = gradients(unravel(flat + t * direction), data)
        return np.linalg.eigvalsh(np.cov(g.T, bias=True))[-1]

    h = 1e-3
    difference = (8 * (dense(h) - dense(-h)) - (dense(2 * h) - dense(-2 * h))) / (12 * h)
    assert_allclose(jax.jit(jax.grad(top))(flat) @ direction, difference, rtol=1e-8)


@pytest.mark.slow
def test_no_gradient_of_an_example_is_stored():
    n = 64 * 512 + 512 * 2
    params = {"w0": jnp.ones((64, 512)), "w1": jnp.ones((512, 2))}

    def temporaries(examples, **options):
        data = (jnp.ones((examples, 64)), jnp.zeros(examples, jnp.int32))
        op = fisher(network, params, data, batch_size=64, **options)
        return product_bytes(op, params)

    for options in ({"kind": "empirical", "centered": True}, {"kind": "monte_carlo", "key": KEY}):
        needed = temporaries(512, **options)
        assert needed < 16 * 4 * n
        assert temporaries(4096, **options) <= needed


def test_bad_input_is_refused(problem):
    params, (inputs, labels) = problem
    refused = functools.partial(fisher, network, params)
    data = (inputs, labels)
    with pytest.raises(ValueError, match="kind='sampled': choose one of 'exact', 'monte_carlo', 'empirical'"):
        refused(data, kind="sampled")
    with pytest.raises(ValueError, match="likelihood='laplace'"):
        refused(data, likelihood="laplace")
    with pytest.raises(ValueError, match=r"kind='monte_carlo' draws labels: pass key=jax\.random\.key"):
        refused(data, kind="monte_carlo")
    with pytest.raises(ValueError, match="kind='exact' draws nothing: leave it out"):
        refused(data, key=KEY)
    with pytest.raises(TypeError, match=r"key has dtype uint32: give a typed one"):
        refused(data, kind="monte_carlo", key=jnp.zeros(2, jnp.uint32))
    with pytest.raises(ValueError, match="centered=True is for kind='empirical'"):
        refused(data, centered=True)
    with pytest.raises(ValueError, match="ignore_label=-1 speaks of labels"):
        refused(data, likelihood="gaussian", ignore_label=-1)
    with pytest.raises(ValueError, match=r"data is of type Array.*give the pair"):
        refused(inputs)
    with pytest.raises(TypeError, match=r"targets are float64.*integer labels"):
        refused((inputs, jax.nn.one_hot(labels, 3)))
    with pytest.raises(ValueError, match=r"targets have shape \(10, 1\)"):
        refused((inputs, labels[:, None]), kind="empirical")(params)
    with pytest.raises(ValueError, match=r"targets have the shapes \(10,\).*\(10, 3\)"):
        refused((inputs, labels.astype(float)), likelihood="gaussian")(params)
    with pytest.raises(ValueError, match=r"weights has shape \(10, 1\).*give \(10,\)"):
        refused(data, weights=jnp.ones((10, 1)))
