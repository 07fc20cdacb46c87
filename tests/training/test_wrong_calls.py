"""Wrong calls: an immediate error names the function, the argument, the given value and the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eigenjax import (
    adam_preconditioner,
    as_operator,
    scale_by_sharpness,
    sharpness_penalty,
    spectral_norm,
    spectrum_tracker,
)

MATRIX = jnp.diag(jnp.arange(1.0, 6.0))
OP = as_operator(MATRIX)
ONES = jnp.ones(4)
TRACKER = spectrum_tracker(2, matvecs_per_update=3)
STATE = TRACKER.init(OP)
RULE = scale_by_sharpness(0.3)
ADAM = optax.adam(0.1).init({"w": ONES})
FACTORED = optax.adafactor(0.1).init({"w": ONES})


def shorten(**options):
    return lambda: RULE.update(ONES, RULE.init(ONES), **options)


CASES = {
    "tracker: no k": (lambda: spectrum_tracker(), "spectrum_tracker needs k"),
    "tracker: k": (lambda: spectrum_tracker(0), "spectrum_tracker got k=0: give 1 or more"),
    "tracker: which": (lambda: spectrum_tracker(1, which="la"), "spectrum_tracker got which='la': write which='LA'"),
    "tracker: no which": (lambda: spectrum_tracker(1, which=None), "spectrum_tracker got which=None: choose"),
    "tracker: tol as text": (lambda: spectrum_tracker(1, tol="low"), "spectrum_tracker got tol='low': give a number"),
    "tracker: negative tol": (lambda: spectrum_tracker(1, tol=-0.5), r"spectrum_tracker got tol=-0\.5"),
    "tracker: NaN tol": (lambda: spectrum_tracker(1, tol=np.nan), "spectrum_tracker got tol=nan"),
    "tracker: no tol": (lambda: spectrum_tracker(1, tol=None), "spectrum_tracker got tol=None"),
    "tracker: several tols": (lambda: spectrum_tracker(1, tol=ONES), r"got tol=an array float32\[4\]"),
    "tracker: traced tol": (lambda: jax.jit(lambda t: spectrum_tracker(1, tol=t))(0.1), "got tol=.*Python numbers"),
    "tracker: threshold": (lambda: spectrum_tracker(1, max_k=2, threshold="2"), "got threshold='2': give one number"),
    "tracker: NaN threshold": (lambda: spectrum_tracker(1, max_k=2, threshold=np.nan), "got threshold=nan"),
    "tracker: between": (lambda: spectrum_tracker(1, between=["hold"]), "spectrum_tracker got between=.*choose one of"),
    "tracker: an option": (lambda: spectrum_tracker(1, interval=3), "spectrum_tracker got interval=3"),
    "init: nothing": (lambda: TRACKER.init(None), "init of spectrum_tracker: expected an operator"),
    "init: parameters": (lambda: TRACKER.init({"w": ONES}), "init of spectrum_tracker: expected an operator.*dict"),
    "init: a function": (lambda: TRACKER.init(lambda v: v), r"init of spectrum_tracker got .*as_operator\(f, like="),
    "init: key": (lambda: TRACKER.init(OP, 5), "init of spectrum_tracker got key=5: give a typed key"),
    "init: too many pairs": (lambda: spectrum_tracker(7).init(OP), "spectrum_tracker got k=7: the operator is 5 x 5"),
    "update: no state": (lambda: TRACKER.update(OP), "update needs state"),
    "update: None": (lambda: TRACKER.update(OP, None), "update of spectrum_tracker got NoneType as state"),
    "update: the pair": (lambda: TRACKER.update(OP, (STATE, {})), "got the pair that update returns as state"),
    "update: another order": (lambda: TRACKER.update(STATE, OP), "got MatrixOperator as state: give update.op, state"),
    "update: another tracker's": (
        lambda: spectrum_tracker(4).update(OP, STATE),
        r"got a state of \(2,\) pairs.*follows 4",
    ),
    "update: no operator": (lambda: TRACKER.update(None, STATE), "update of spectrum_tracker: expected an operator"),
    "update: another size": (lambda: TRACKER.update(jnp.eye(3), STATE), "the state's vector: the array has shape"),
    "penalty: nothing": (lambda: sharpness_penalty(None), "sharpness_penalty: expected an operator"),
    "penalty: a function": (lambda: sharpness_penalty(lambda v: v), "sharpness_penalty: a callable operator says"),
    "penalty: a loss": (lambda: sharpness_penalty(jnp.sum, ONES), r"sharpness_penalty takes \(op\) by position"),
    "penalty: tol": (lambda: sharpness_penalty(OP, tol="1"), "sharpness_penalty: eigsh got tol='1'"),
    "penalty: max_matvecs": (lambda: sharpness_penalty(OP, max_matvecs=0), "sharpness_penalty got max_matvecs=0"),
    "penalty: has_aux": (lambda: sharpness_penalty(OP, has_aux=1), "sharpness_penalty got has_aux=1: give True or"),
    "penalty: v0": (lambda: sharpness_penalty(OP, v0=ONES), r"sharpness_penalty: v0: the array has shape \(4,\)"),
    "rule: no rate": (lambda: scale_by_sharpness(None), "scale_by_sharpness got learning_rate = None: give"),
    "rule: rate as text": (lambda: scale_by_sharpness("0.1"), "scale_by_sharpness got learning_rate = '0.1'"),
    "rule: several rates": (lambda: scale_by_sharpness(ONES), r"learning_rate = an array float32\[4\]"),
    "rule: negative rate": (lambda: scale_by_sharpness(-0.3), r"learning_rate=-0\.3: give a number from 0 up"),
    "rule: an optimizer": (lambda: scale_by_sharpness(optax.sgd(0.1)), "learning_rate = Gradient.*a number, or a sch"),
    "rule: bound": (lambda: scale_by_sharpness(0.1, bound="2"), "scale_by_sharpness got bound = '2': give a positive"),
    "rule: no bound": (lambda: scale_by_sharpness(0.1, bound=0.0), r"scale_by_sharpness got bound=0\.0: give a posit"),
    "rule: NaN bound": (lambda: scale_by_sharpness(0.1, bound=np.nan), "scale_by_sharpness got bound=nan"),
    "rule: several bounds": (lambda: scale_by_sharpness(0.1, bound=ONES), r"bound = an array float32\[4\]"),
    "rule: no sharpness": (shorten(), "scale_by_sharpness got sharpness = None: pass one number"),
    "rule: sharpness as text": (shorten(sharpness="5"), "scale_by_sharpness got sharpness = '5'"),
    "rule: metrics": (shorten(sharpness={"eigenvalue_0": 1.0}), r'sharpness=metrics\["eigenvalue_0"\]'),
    "rule: several": (shorten(sharpness=ONES), r"sharpness = an array float32\[4\]"),
    "rule: complex": (shorten(sharpness=2j), "scale_by_sharpness got sharpness = 2j"),
    "rule: another state": (lambda: RULE.update(ONES, ADAM, sharpness=1.0), "scale_by_sharpness got .*as state: give"),
    "rule: a schedule": (
        lambda: scale_by_sharpness(lambda step: "0.1").update(ONES, RULE.init(ONES), sharpness=1.0),
        "got a schedule that gives '0.1'",
    ),
    "adam: nothing": (lambda: adam_preconditioner(None), "adam_preconditioner: opt_state holds no second moment"),
    "adam: an optimizer": (lambda: adam_preconditioner(optax.adam(0.1)), "adam_preconditioner: .*optimizer.init or"),
    "adam: sgd": (lambda: adam_preconditioner(optax.sgd(0.1).init(ONES)), "adam_preconditioner: opt_state holds no"),
    "adam: b2": (lambda: adam_preconditioner(ADAM, b2="0.9"), "adam_preconditioner got b2='0.9': give the decay"),
    "adam: large b2": (lambda: adam_preconditioner(ADAM, b2=1.0), r"adam_preconditioner got b2=1\.0: .*below 1"),
    "adam: eps": (lambda: adam_preconditioner(ADAM, eps=-1e-8), "adam_preconditioner got eps=-1e-08"),
    "adam: eps_in_sqrt": (lambda: adam_preconditioner(ADAM, eps_in_sqrt=1), "adam_preconditioner got eps_in_sqrt=1"),
    "adam: path": (lambda: adam_preconditioner(ADAM, path=0), "adam_preconditioner got path=0: give a string"),
    "adam: other shapes": (
        lambda: adam_preconditioner(ADAM, params={"w": jnp.ones(3)}),
        r"shapes \[\(3,\)\].*\[\(4,\)\]",
    ),
    "adam: more params": (
        lambda: adam_preconditioner(ADAM, params={"w": ONES, "b": ONES}),
        "params with leaves of the",
    ),
    "adam: params as text": (lambda: adam_preconditioner(FACTORED, params="w"), "got params='w', which is no array"),
    "adam: another structure": (
        lambda: adam_preconditioner(FACTORED, params={"b": ONES}),
        "got params of the structure",
    ),
    "norm: nothing": (lambda: spectral_norm(None), r"spectral_norm: expected a \(p, n\) array"),
    "norm: a function": (lambda: spectral_norm(lambda v: v), "spectral_norm: the operator is a callable"),
    "norm: a kernel": (
        lambda: spectral_norm(jnp.ones((3, 3, 2, 2))),
        "spectral_norm: the operator is a batch of matrices",
    ),
    "norm: num_steps": (lambda: spectral_norm(MATRIX, num_steps=1.5), r"spectral_norm got num_steps=1\.5: give an int"),
    "norm: no steps": (lambda: spectral_norm(MATRIX, num_steps=0), "spectral_norm got num_steps=0: give 1 or more"),
    "norm: v0": (lambda: spectral_norm(MATRIX, ONES), r"spectral_norm: v0: the array has shape \(4,\)"),
    "norm: v0 as text": (lambda: spectral_norm(MATRIX, "ones"), "spectral_norm got v0='ones', which is no array"),
    "norm: like": (lambda: spectral_norm(lambda v: v, like="w"), "spectral_norm got like='w', which is no array"),
    "norm: key": (lambda: spectral_norm(MATRIX, key=3), "spectral_norm got key=3: give a typed key"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_call_is_answered_in_words(case):
    call, message = CASES[case]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_tracker_takes_a_plain_function_once_it_knows_the_vectors():
    _, of_operator = TRACKER.update(OP, STATE)
    _, of_function = TRACKER.update(lambda v: MATRIX @ v, STATE)
    np.testing.assert_allclose(of_function["eigenvalue_0"], of_operator["eigenvalue_0"], rtol=1e-5)


def test_the_norm_of_before_is_a_start_as_its_vector_is():
    before = spectral_norm(MATRIX, num_steps=3)
    np.testing.assert_array_equal(spectral_norm(MATRIX, before).value, spectral_norm(MATRIX, before.right).value)


def test_masked_moments_fit_the_parameters_they_are_of():
    params = {"w": ONES, "frozen": jnp.ones(2)}
    optimizer = optax.masked(optax.adam(0.1), {"w": True, "frozen": False})
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(params, optimizer.init(params), params)
    found = adam_preconditioner(state, params=params)
    assert found["frozen"] is None
    np.testing.assert_allclose(found["w"], ONES, rtol=1e-5)
