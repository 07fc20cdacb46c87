"""Traces and diagonals against dense ones: unbiased, with correct standard errors, and the exact matvec budget."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from eigenjax import as_operator, diagonal, frobenius_norm, matrix_function, spectral_density, trace

N, KEYS = 80, 200
METHODS = ("xtrace", "hutch++", "hutchinson")
ALL = (*METHODS, "diagonal", "frobenius")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def matrices(rotated):
    generator = np.random.default_rng(0)
    return {
        "1 / i^2": rotated(1 / np.arange(1.0, N + 1) ** 2),
        "flat": rotated(generator.uniform(1, 3, N)),
        "indefinite": rotated(generator.standard_normal(N)),
        "not symmetric": generator.standard_normal((N, N)),
        "rank 3": rotated(np.r_[3, 2, 1, np.zeros(N - 3)]),
        "zero": np.zeros((N, N)),
        "identity": np.eye(N),
    }


def estimators(budget):
    given = {method: functools.partial(trace, method=method) for method in METHODS}
    given |= {"diagonal": diagonal, "frobenius": frobenius_norm}
    return {name: functools.partial(function, num_matvecs=budget) for name, function in given.items()}


@functools.cache
def many(name):
    """Compile an estimator of one matrix for 200 keys."""
    run = jax.vmap(lambda key, a: estimators(25)[name](a, key=key), in_axes=(0, None))
    return jax.jit(lambda a: run(jax.random.split(jax.random.key(1), KEYS), a))


def truth(name, matrix):
    return {"diagonal": np.diag(matrix), "frobenius": np.linalg.norm(matrix)}.get(name, np.trace(matrix))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALL[:-1], pytest.param("frobenius", marks=SLOW)])
def test_unbiased_and_as_accurate_as_they_say(name, matrices, float64):
    for kind in ("1 / i^2", "flat", "indefinite", "not symmetric"):
        found, exact = many(name)(jnp.asarray(matrices[kind])), truth(name, matrices[kind])
        errors, said = np.asarray(found.estimate) - exact, np.asarray(found.standard_error)
        assert (found.num_matvecs == 25).all()
        # Largest deviation over 80 entries of a diagonal; the square root in a norm adds a bias.
        most = {"diagonal": 5, "frobenius": 8}.get(name, 4)
        assert (np.abs(errors.mean(axis=0)) <= most * errors.std(axis=0) / KEYS**0.5).all(), kind
        # With 8 to 13 samples the spread is known to a quarter: the reported error is larger, but not by much.
        scale = np.sqrt(np.mean(errors**2 / said**2))
        assert 0.4 < scale < 1.2, (kind, scale)


@pytest.mark.parametrize("name", ["xtrace", "hutch++", "diagonal", pytest.param("frobenius", marks=SLOW)])
def test_low_rank_is_exact(name, matrices, float64):
    for kind in ("rank 3", "zero"):
        found, exact = many(name)(jnp.asarray(matrices[kind])), truth(name, matrices[kind])
        assert_allclose(found.estimate, np.broadcast_to(exact, found.estimate.shape), atol=1e-12)
        assert (np.asarray(found.standard_error) < 1e-12).all()


def test_low_rank_in_single_precision(matrices):
    for kind in ("rank 3", "zero", "identity"):
        found = many("xtrace")(jnp.asarray(matrices[kind], np.float32))
        assert_allclose(found.estimate, np.full(KEYS, np.trace(matrices[kind])), rtol=1e-5)


def test_xtrace_is_ten_times_as_accurate_where_the_spectrum_decays(matrices, float64):
    matrix = matrices["1 / i^2"]
    worst = {name: np.abs(many(name)(jnp.asarray(matrix)).estimate - np.trace(matrix)).mean() for name in METHODS}
    assert worst["xtrace"] * 10 <= worst["hutchinson"]
    assert worst["xtrace"] < worst["hutch++"] < worst["hutchinson"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("xtrace", 2), ("hutch++", 3), ("hutchinson", 1), ("diagonal", 2)])
def test_budgets_are_kept_to_the_product(name, least):
    counts = []

    def product(v):
        jax.debug.callback(lambda: counts.append(1))
        return jnp.arange(9.0) * v

    op = as_operator(product, like=jnp.zeros(9))
    for budget in (least, 7, 9, 20):
        counts.clear()
        found = jax.block_until_ready(estimators(budget)[name](op, key=jax.random.key(0)))
        jax.effects_barrier()
        assert len(counts) == found.num_matvecs == min(budget, 9)
        exact = truth(name, np.diag(np.arange(9.0)))
        assert np.isfinite(found.estimate).all()
        if budget >= 9:
            assert_allclose(found.estimate, exact, rtol=1e-6)
    with pytest.raises(ValueError, match=f"num_matvecs={least - 1}: give {least} or more"):
        estimators(least - 1)[name](op, key=jax.random.key(0))


def hermitian_pytree(matrix):
    def product(v):
        image = jnp.asarray(matrix) @ jnp.concatenate([v["a"].reshape(-1), v["b"]])
        return {"a": image[:20].reshape(4, 5), "b": image[20:]}

    return as_operator(product, like={"a": jnp.zeros((4, 5), complex), "b": jnp.zeros(10, complex)})


@SLOW
def test_traces_of_hermitian_pytrees(rotated, float64):
    matrix = rotated(1 / np.arange(1.0, 31), is_complex=True)
    op, keys = hermitian_pytree(matrix), jax.random.split(jax.random.key(0), KEYS)
    found = jax.vmap(lambda key: trace(op, key=key, num_matvecs=11))(keys)
    assert_allclose(found.estimate.mean(), np.trace(matrix).real, atol=4 * found.estimate.std() / KEYS**0.5)


@pytest.mark.slow
def test_diagonals_of_hermitian_pytrees(rotated, float64):
    matrix = rotated(1 / np.arange(1.0, 31), is_complex=True)
    op, keys = hermitian_pytree(matrix), jax.random.split(jax.random.key(0), KEYS)
    found = jax.vmap(lambda key: diagonal(op, key=key, num_matvecs=11))(keys)
    assert found.estimate["a"].shape == (KEYS, 4, 5)
    assert found.estimate["b"].dtype == np.float64
    flat = np.concatenate([found.estimate["a"].reshape(KEYS, -1), found.estimate["b"]], axis=1)
    assert (np.abs(flat.mean(axis=0) - np.diag(matrix).real) <= 4.5 * flat.std(axis=0) / KEYS**0.5).all()


SPECS = {"a": PartitionSpec("model", None), "b": PartitionSpec("model")}


@SLOW
@pytest.mark.parametrize("mode", [AxisType.Explicit, AxisType.Auto])
def test_sharded_vectors_stay_so(mode):
    weights = {
        "a": np.linspace(1, 2, 32).reshape(8, 4).astype(np.float32),
        "b": np.linspace(0, 1, 16, dtype=np.float32),
    }

    def run(weights, key):
        op = as_operator(lambda v: jax.tree.map(jnp.multiply, weights, v), like=weights)
        some, low = diagonal(op, key=key, num_matvecs=9), trace(op, key=key, num_matvecs=9)
        density = spectral_density(op, key=key, num_probes=2, krylov_dim=5)
        function = matrix_function(op, jnp.exp, weights, krylov_dim=5)
        return some.estimate, low.estimate, density.nodes, function.vector

    alone = jax.jit(run)(weights, jax.random.key(0))
    mesh = jax.make_mesh((8,), ("model",), axis_types=(mode,))
    placed = {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in weights.items()}
    with jax.set_mesh(mesh):
        together = jax.jit(run)(placed, jax.random.key(0))
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-4)
    for vector in (together[0], together[3]):
        for name, x in vector.items():
            assert x.sharding.is_equivalent_to(NamedSharding(mesh, SPECS[name]), x.ndim), name


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name != "xtrace" else []) for name in ALL])
def test_derivatives_are_estimates_of_the_derivative(name, rotated, float64):
    matrix = jnp.asarray(rotated(1 / np.arange(1.0, 13)))

    def summed(a, key):
        weights = jnp.arange(12.0) if name == "diagonal" else jnp.ones(())
        return jnp.sum(weights * estimators(7)[name](a, key=key).estimate)

    gradients = jax.jit(jax.vmap(jax.grad(summed), (None, 0)))(matrix, jax.random.split(jax.random.key(0), 2000))
    exact = {"diagonal": np.diag(np.arange(12.0)), "frobenius": matrix / np.linalg.norm(matrix)}.get(name, np.eye(12))
    spread = gradients.std(axis=0) / 2000**0.5
    # A square root is a biased estimate, and so is its derivative.
    slack = 0.03 if name == "frobenius" else 1e-12
    assert (np.abs(gradients.mean(axis=0) - exact) <= 5 * spread + slack).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": None}, TypeError, "typed key"),
        ({"method": "hutch"}, ValueError, "method='hutch': choose one of 'xtrace'"),
        ({"num_matvecs": 2.0}, TypeError, "num_matvecs=2.0"),
        ({"probe_batch": 0}, ValueError, "probe_batch=0"),
    ],
)
def test_bad_input_is_named(options, error, match):
    with pytest.raises(error, match=match):
        trace(jnp.eye(3), **({"key": jax.random.key(0)} | options))


def test_the_remainder_of_hutch_plus_plus_has_no_variance_of_lengths(rotated, float64):
    # In the complement of the range, with a nearly flat spectrum, only the length of a projected vector varies.
    matrix = jnp.asarray(rotated(np.linspace(3, 3.1, 50)))
    run = jax.vmap(lambda key: trace(matrix, key=key, num_matvecs=18, method="hutch++").estimate)
    estimates = jax.jit(run)(jax.random.split(jax.random.key(0), 200))
    # Unnormalized lengths would add a deviation of 4 or more: 3 times that of ||P s||^2 over 6 samples.
    assert estimates.std() < 1
