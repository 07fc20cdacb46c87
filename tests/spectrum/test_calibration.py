"""Calibration of estimates: the truth lies within two standard errors, and is exact if the budget allows it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import EstimateStatus, diagonal, frobenius_norm, trace, trace_of_function

N, KEYS = 70, 400
SPECTRA = {
    "1 / i^2": 5 / np.arange(1.0, N + 1) ** 2,
    "flat": np.linspace(1, 2, N),
    "outliers": np.r_[20.0, 15.0, np.full(N - 2, 0.2)],
    "indefinite": np.linspace(-1, 1.5, N),
}
# Each estimator has at least eight samples: half of the matvecs, a third, or all of them.
ESTIMATORS = {
    "xtrace": (functools.partial(trace, num_matvecs=16), np.sum),
    "hutch++": (functools.partial(trace, num_matvecs=24, method="hutch++"), np.sum),
    "hutchinson": (functools.partial(trace, num_matvecs=8, method="hutchinson"), np.sum),
    "Frobenius norm": (functools.partial(frobenius_norm, num_matvecs=24), np.linalg.norm),
    "trace of exp": (
        lambda a, *, key: trace_of_function(a, lambda x: jnp.exp(x / 5), key=key, num_probes=8, krylov_dim=8),
        lambda values: np.exp(values / 5).sum(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "xtrace",
        "hutch++",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("hutchinson", "Frobenius norm", "trace of exp")),
    ],
)
def test_two_standard_errors_hold_the_truth_in_nine_of_ten_cases(name, rotated, float64):
    estimator, truth = ESTIMATORS[name]
    run = jax.jit(lambda a: jax.vmap(lambda key: estimator(a, key=key))(jax.random.split(jax.random.key(2), KEYS)))
    for kind, values in SPECTRA.items():
        found = run(jnp.asarray(rotated(values)))
        within = np.abs(np.asarray(found.estimate) - truth(values)) <= 2 * np.asarray(found.standard_error)
        assert within.mean() >= 0.9, (kind, within.mean())
        assert (found.status == EstimateStatus.ESTIMATED).all()


@pytest.mark.slow
def test_two_standard_errors_hold_each_entry_of_a_diagonal(rotated, float64):
    run = jax.vmap(lambda key, a: diagonal(a, key=key, num_matvecs=16), in_axes=(0, None))
    for kind, values in SPECTRA.items():
        matrix = rotated(values)
        found = jax.jit(run)(jax.random.split(jax.random.key(2), KEYS), jnp.asarray(matrix))
        within = np.abs(np.asarray(found.estimate) - np.diag(matrix)) <= 2 * np.asarray(found.standard_error)
        assert within.mean() >= 0.9, (kind, within.mean())


def test_a_budget_of_n_products_is_exact_and_says_so():
    matrix = np.random.default_rng(0).normal(size=(11, 11)).astype(np.float32)
    estimators = (trace, frobenius_norm, diagonal, functools.partial(trace, method="hutch++"))
    truths = (np.trace(matrix), np.linalg.norm(matrix), np.diag(matrix), np.trace(matrix))
    for estimator, truth in zip(estimators, truths, strict=True):
        found = estimator(jnp.asarray(matrix), key=jax.random.key(0), num_matvecs=11)
        assert_allclose(found.estimate, truth, rtol=1e-5)
        assert np.all(found.standard_error == 0)
        assert found.num_matvecs == 11


@pytest.mark.slow
@pytest.mark.parametrize("num_matvecs", [9, 20])
def test_the_frobenius_norm_has_no_scale(num_matvecs):
    matrix = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
    norm = jax.jit(lambda a: frobenius_norm(a, key=jax.random.key(3), num_matvecs=num_matvecs))
    slope = jax.jit(jax.grad(lambda a: norm(a).estimate))
    usual, gradient = norm(jnp.asarray(matrix)), slope(jnp.asarray(matrix))
    for scale in (np.float32(1e-25), np.float32(3e25)):
        found = norm(jnp.asarray(matrix * scale))
        assert_allclose(found.estimate / scale, usual.estimate, rtol=1e-5)
        assert_allclose(found.standard_error / scale, usual.standard_error, rtol=1e-4)
        assert_allclose(slope(jnp.asarray(matrix * scale)), gradient, rtol=1e-3, atol=1e-4)
    # The derivative of a zero norm is zero, in both modes.
    nothing = jnp.zeros_like(gradient)
    assert norm(nothing).estimate == 0
    assert np.all(slope(nothing) == 0)
    assert jax.jvp(lambda a: norm(a).estimate, (nothing,), (jnp.ones_like(nothing),))[1] == 0
    assert norm(nothing * np.nan).status == EstimateStatus.NONFINITE


@pytest.mark.parametrize("exponent", [-100, 90])
def test_standard_errors_are_in_proportion_to_the_operator(exponent):
    matrix = np.random.default_rng(4).standard_normal((12, 12)).astype(np.float32)
    scale = np.float32(2.0**exponent)  # a power of two causes no rounding: the estimates scale exactly
    one, other = jnp.asarray(matrix), jnp.asarray(matrix * scale)
    for method in ("xtrace", "hutch++", "hutchinson"):
        error = lambda a, method=method: trace(a, key=jax.random.key(2), num_matvecs=7, method=method).standard_error
        assert_allclose(error(other) / scale, error(one), rtol=1e-3)
    entries = lambda a: diagonal(a, key=jax.random.key(2), num_matvecs=7).standard_error
    assert_allclose(entries(other) / scale, entries(one), rtol=1e-3)
