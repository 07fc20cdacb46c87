"""The diagonal read from an optax state, against the update that optax computes from the same state.

Without a first moment the update is the gradient over the diagonal.
With a first moment the update is the first moment over the diagonal.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from eigenjax import adam_preconditioner, hessian, precondition, to_dense

SHAPES = {"bias": (3,), "deep": (4, 2, 3), "kernel": (3, 5), "tall": (5, 3), "square": (4, 4)}


@pytest.fixture
def problem(rng, float64):
    draw = lambda: {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}
    return draw(), [draw() for _ in range(3)]


def after_steps(optimizer, params, gradients):
    """Apply the gradients in turn; return the last update and the final state."""
    state, updates = optimizer.init(params), None
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
    return updates, state


def check_direction(diagonal, gradient, updates):
    """Check that the updates are minus the gradient over the diagonal, for learning rate one."""
    for name in SHAPES:
        if diagonal[name] is not None:
            assert_allclose(-gradient[name] / diagonal[name], updates[name], rtol=1e-9, err_msg=name)


factor_all = {"min_dim_size_to_factor": 1, "multiply_by_parameter_scale": False, "clipping_threshold": None}
OPTIMIZERS = {
    "adam": (optax.adam(1.0, b1=0.0), {}),
    "adam, other decay": (optax.adam(1.0, b1=0.0, b2=0.9, eps=1e-3), {"b2": 0.9, "eps": 1e-3}),
    "adamw": (optax.adamw(1.0, b1=0.0, weight_decay=0.0), {}),
    "amsgrad": (optax.amsgrad(1.0, b1=0.0), {}),
    "yogi": (optax.yogi(1.0, b1=0.0), {"eps": 1e-3}),
    "rmsprop": (optax.rmsprop(1.0), {}),
    "rmsprop, eps outside": (optax.rmsprop(1.0, eps=0.1, eps_in_sqrt=False), {"eps": 0.1, "eps_in_sqrt": False}),
    "rmsprop, corrected": (optax.rmsprop(1.0, bias_correction=True), {}),
    "rmsprop, centered": (optax.rmsprop(1.0, centered=True), {}),
    "rmsprop, centered, corrected": (optax.rmsprop(1.0, centered=True, bias_correction=True), {}),
    "adafactor": (optax.adafactor(1.0, **factor_all), {"params": SHAPES}),
    "adafactor, unfactored": (optax.adafactor(1.0, **factor_all, factored=False), {"params": SHAPES}),
    "chain": (optax.chain(optax.clip_by_global_norm(1e9), optax.adam(1.0, b1=0.0)), {}),
    "inject": (optax.inject_hyperparams(optax.adam)(learning_rate=1.0, b1=0.0, b2=0.9, eps=1e-2), {}),
    "inject, rmsprop": (optax.inject_hyperparams(optax.rmsprop)(1.0, decay=0.7, bias_correction=True), {}),
    "finite": (optax.apply_if_finite(optax.adam(1.0, b1=0.0), 3), {}),
    "masked": (optax.masked(optax.adam(1.0, b1=0.0), {name: name != "bias" for name in SHAPES}), {}),
    "masked, adafactor": (
        optax.masked(optax.adafactor(1.0, **factor_all), {name: name != "bias" for name in SHAPES}),
        {"params": SHAPES},
    ),
    "multi": (
        optax.multi_transform(
            {"a": optax.chain(optax.adam(1.0, b1=0.0)), "b": optax.rmsprop(1.0), "c": optax.sgd(1.0)},
            {name: "abcac"[place] for place, name in enumerate(sorted(SHAPES))},
        ),
        {"path": "inner_states/a/*"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_of_optax_is_the_gradient_over_the_diagonal(name, problem):
    params, gradients = problem
    optimizer, options = OPTIMIZERS[name]
    updates, state = after_steps(optimizer, params, gradients)
    options = options | ({"params": params} if "params" in options else {})
    diagonal = adam_preconditioner(state, **options)
    present = {leaf for leaf in SHAPES if diagonal[leaf] is not None}
    left_out = {"masked": {"bias"}, "masked, adafactor": {"bias"}, "multi": {"deep", "kernel", "tall"}}
    assert present == set(SHAPES) - left_out.get(name, set())
    assert all(diagonal[leaf].shape == SHAPES[leaf] for leaf in present)
    check_direction(diagonal, gradients[-1], updates)


def test_adabelief_divides_its_first_moment(problem):
    # The second moment is that of g - mu, which is zero for b1 = 0.
    params, gradients = problem
    updates, state = after_steps(optax.adabelief(1.0, b1=0.5), params, gradients)
    diagonal = adam_preconditioner(state)
    corrected = jax.tree.map(lambda mu: mu / (1 - 0.5**3), state[0].mu)
    check_direction(diagonal, corrected, updates)


def test_steps_that_accumulate(problem):
    params, gradients = problem
    optimizer = optax.MultiSteps(optax.adam(1.0, b1=0.0), 3, accumulator_dtype=jnp.float64)
    updates, state = after_steps(optimizer, params, gradients[:1] * 3)  # their mean equals each of them
    check_direction(adam_preconditioner(state), gradients[0], updates)


@pytest.mark.slow
def test_the_state_of_an_nnx_optimizer():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1.0, b1=0.0), wrt=nnx.Param)
    _, params = nnx.split(model, nnx.Param)
    gradient = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        optimizer.update(model, gradient)
    diagonal = adam_preconditioner(optimizer.opt_state, params=params)
    assert jax.tree.structure(diagonal) == jax.tree.structure(params)
    jax.tree.map(lambda d: assert_allclose(d, 1.0, rtol=1e-4), diagonal)


@pytest.mark.slow
def test_under_jit_and_in_narrow_dtypes(problem):
    params, gradients = jax.tree.map(lambda x: x.astype(jnp.bfloat16), problem)
    _, state = after_steps(optax.adam(1.0), params, gradients)
    diagonal = jax.jit(adam_preconditioner)(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(diagonal)} == {jnp.dtype("float32")}
    before = adam_preconditioner(optax.adam(1.0).init(params))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(before))


@pytest.mark.slow
def test_the_sharpness_that_adam_sees(problem):
    """Compare the eigenvalues of D^-1 H with those of a known, diagonal Hessian."""
    params, gradients = problem
    curvature = jax.tree.map(lambda x: x**2 + 0.5, gradients[1])
    loss = lambda p: 0.5 * sum(jax.tree.leaves(jax.tree.map(lambda c, x: jnp.sum(c * x**2), curvature, p)))
    _, state = after_steps(optax.adam(1e-3), params, gradients)
    op = precondition(hessian(loss, params), adam_preconditioner(state))
    nu_hat = jax.tree.map(lambda *gs: sum(0.001 * 0.999 ** (2 - i) * g**2 for i, g in enumerate(gs)), *gradients)
    d = jax.tree.map(lambda nu: np.sqrt(nu / (1 - 0.999**3)) + 1e-8, nu_hat)
    truth = np.sort(np.concatenate([np.ravel(curvature[name] / d[name]) for name in SHAPES]))
    assert_allclose(np.sort(np.diagonal(to_dense(op))), truth, rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (optax.sgd(1.0, momentum=0.9), {}, r"no second moment.*its states are: TraceState"),
        (optax.novograd(1.0), {}, r"ScaleByNovogradState"),
        (optax.chain(optax.adam(1.0), optax.scale_by_rms()), {}, r"several.*'0/0' \(ScaleByAdamState\), '1' \(Scale"),
        (optax.adam(1.0), {"path": "1/*"}, r"no second moment at path='1/\*'; they are at '0'"),
        (optax.adafactor(1.0), {}, "params="),
    ],
)
def test_a_state_without_one_second_moment_is_refused(optimizer, options, message):
    with pytest.raises(ValueError, match=message):
        adam_preconditioner(optimizer.init({"w": jnp.ones((2, 3))}), **options)
