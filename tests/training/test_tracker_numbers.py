"""Flags of a tracker match its current values, and the tracker itself creates no NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from eigenjax import Status, as_operator, hessian, spectrum_tracker
from eigenjax.training.learning_rate import scale_by_sharpness

TOL = 2e-2
VALUES = np.array([8.0, 4.0, 0.5, -0.25, 0.125, -1.5], np.float32)


@pytest.fixture(scope="module")
def between():
    """Return a tracker between two updates, its state for diag(VALUES), and one compiled step."""
    tracker = spectrum_tracker(2, every=4, between="rayleigh", matvecs_per_update=3, tol=TOL)
    with jax.numpy_dtype_promotion("strict"):
        state = tracker.init(as_operator(jnp.diag(VALUES)), jax.random.key(2))
        for _ in range(60):
            state, metrics = tracker.update(as_operator(jnp.diag(VALUES)), state)
    assert metrics["age"] == 3
    assert metrics["converged_0"]
    assert metrics["converged_1"]
    return tracker, state._replace(num_steps=jnp.int32(1))


def truth(matrix, state):
    """Compute the Rayleigh quotient of the first vector and its residual, in float64."""
    vector, dense = np.asarray(state.eigenvectors[0], float), np.asarray(matrix, float)
    value = vector @ dense @ vector
    return value, np.linalg.norm(dense @ vector - value * vector)


def turned(angle):
    """Return diag(VALUES) with its first two eigenvectors rotated in their plane."""
    rotation = np.eye(6)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation @ np.diag(VALUES) @ rotation.T


@pytest.mark.slow
@pytest.mark.parametrize(
    "matrix",
    [
        np.diag(VALUES),
        turned(1e-3),
        turned(0.1),
        turned(1.2),
        1e-3 * turned(0.1),
        np.diag(VALUES[::-1]),
        40 * turned(0),
    ],
    ids=["same", "hardly turned", "turned", "turned far", "shrunk and turned", "reversed", "grown"],
)
def test_between_updates_the_flag_of_the_first_pair_is_that_of_its_numbers(between, matrix):
    tracker, state = between
    now, metrics = tracker.update(as_operator(jnp.asarray(matrix, jnp.float32)), state)
    value, residual = truth(matrix, state)
    assert_allclose(metrics["eigenvalue_0"], value, atol=1e-5 * np.abs(matrix).max())
    assert_allclose(metrics["residual_0"], residual, atol=2e-5 * np.abs(matrix).max())
    is_converged = residual <= TOL * np.linalg.norm(matrix, 2)
    assert bool(metrics["converged_0"]) == bool(now.converged[0]) == is_converged
    assert int(metrics["status"]) == (Status.CONVERGED if is_converged else Status.NOT_CONVERGED)
    # The other pair is unchanged.
    assert metrics["converged_1"]
    assert_array_equal(now.eigenvalues[1], state.eigenvalues[1])
    assert int(metrics["num_matvecs"]) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_between_updates_what_is_not_finite_is_told_and_forgotten(between, bad):
    tracker, state = between
    broken, metrics = tracker.update(as_operator(jnp.diag(VALUES).at[0, 0].set(bad)), state)
    assert not metrics["converged_0"]
    assert int(metrics["status"]) == Status.NONFINITE
    _, metrics = tracker.update(as_operator(jnp.diag(VALUES)), broken)
    assert metrics["converged_0"]
    assert int(metrics["status"]) == Status.CONVERGED


def test_held_numbers_keep_their_flags():
    tracker = spectrum_tracker(1, every=2, matvecs_per_update=2, tol=TOL)
    state = tracker.init(as_operator(jnp.diag(VALUES)))
    for _ in range(21):
        state, measured = tracker.update(as_operator(jnp.diag(VALUES)), state)
    _, held = tracker.update(as_operator(jnp.diag(VALUES) * jnp.nan), state)
    assert (measured["age"], held["age"], int(held["num_matvecs"])) == (0, 1, 0)
    for name in ("eigenvalue_0", "residual_0", "converged_0", "status"):
        assert_array_equal(measured[name], held[name])


def loss(params):
    return jnp.sum(jnp.cosh(params["w"])) + jnp.prod(params["b"])


OPTIONS = [
    {"k": 2, "matvecs_per_update": 3},
    {"k": 1, "every": 3, "between": "rayleigh", "which": "SA"},
    {"k": 1, "max_k": 3, "threshold": 1.5, "matvecs_per_update": 4},
    {"k": 5, "matvecs_per_update": 6, "which": "LM"},  # all pairs of the operator: there is no next eigenvalue
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_training_step_runs_under_debug_nans(options):
    params = {"w": jnp.linspace(0.2, 1.0, 3), "b": jnp.array([0.5, -0.25])}
    tracker = spectrum_tracker(**options)

    @jax.jit
    def step(params, state):
        state, metrics = tracker.update(hessian(loss, params), state)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params)), state, metrics

    with jax.debug_nans(True):
        state = tracker.init(hessian(loss, params), jax.random.key(1))
        for _ in range(4):
            params, state, metrics = step(params, state)
    assert np.isfinite(metrics["eigenvalue_0"])
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves((state, metrics)) if leaf.dtype == jnp.float32)
    if options["k"] == 5:
        assert np.isneginf(metrics["next_eigenvalue"])


@pytest.mark.slow
def test_nan_of_the_operator_is_still_found_by_debug_nans():
    tracker = spectrum_tracker(1, matvecs_per_update=2)
    state = tracker.init(jnp.eye(4))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        tracker.update(hessian(lambda w: jnp.sum(jnp.log(w)), jnp.zeros(4)), state)


def test_where_there_is_no_value_it_is_infinite_on_the_side_that_is_not_wanted():
    for which, sign in (("LA", -1), ("SA", 1), ("LM", -1), ("BE", -1)):
        state = spectrum_tracker(2, which=which).init(jnp.eye(5))
        assert_array_equal(state.eigenvalues, [sign * np.inf] * 2)
        assert_array_equal(state.residuals, [np.inf] * 2)
        assert state.next_eigenvalue == sign * np.inf
        assert not state.converged.any()


def test_a_sharpness_that_is_infinite_leaves_the_factor_as_it_was():
    rule = scale_by_sharpness(0.1)
    _, state = rule.update(jnp.ones(2), rule.init(jnp.ones(2)), sharpness=jnp.float32(36.0))
    for sharpness in (jnp.inf, -jnp.inf, jnp.nan):
        updates, after = rule.update(jnp.ones(2), state, sharpness=jnp.float32(sharpness))
        assert_allclose(updates, [0.5, 0.5])
        assert_allclose(after.factor, 0.5)
