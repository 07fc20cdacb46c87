"""Losses, models and callables use current values at each call; nothing is compiled again if nothing changed."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import as_operator, eigsh, fisher, gauss_newton, hessian, jacobian, stream, svds, to_dense
from eigenjax.operators.functions.closure import hoist

POINT = jnp.array([1.0, -2.0])
DATA = jnp.array([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
# Globals that the functions below read and the tests change.
rows, factor, settings = jnp.eye(2), 1.0, types.SimpleNamespace(power=2)


class Model:
    scale = 1.0

    def loss(self, weights):
        return self.scale * jnp.sum(weights**2)


model = Model()


def outputs(weights, inputs):
    return factor * (inputs @ (rows @ weights))


def mean_square(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


@jax.custom_vjp
def doubled(x):
    return 2 * x


# The backward rule reads a global that does not appear in the program of the function itself.
doubled.defvjp(lambda x: (2 * x, x), lambda x, g: (2 * factor * x * g,))


def with_default(weights, scale=rows):
    return jnp.sum((scale @ weights) ** 2)


GAUSS_NEWTON = lambda: gauss_newton(outputs, mean_square, POINT, (DATA, jnp.zeros(3)), batch_size=2)
# Each case: the function that builds an operator, the owner of the changed attribute (None: this module),
# its name, its new value, and the factor by which the matrix grows.
CASES = {
    "a global array": (lambda: hessian(lambda p: jnp.sum((rows @ p) ** 2), POINT), None, "rows", 3 * jnp.eye(2), 9.0),
    "a global number": (lambda: hessian(lambda p: factor * jnp.sum(p**2), POINT), None, "factor", 5.0, 5.0),
    "a global number, with data": (
        lambda: hessian(lambda p, b: factor * jnp.mean((b @ p) ** 2), POINT, DATA, batch_size=2),
        None,
        "factor",
        5.0,
        5.0,
    ),
    "an attribute of a bound method": (lambda: hessian(model.loss, POINT), model, "scale", 4.0, 4.0),
    "a namespace": (lambda: hessian(lambda p: jnp.sum(settings.power * p**2), POINT), settings, "power", 6, 3.0),
    "a default argument": (lambda: hessian(with_default, POINT), with_default, "__defaults__", (2 * rows,), 4.0),
    "a rule of custom_vjp": (lambda: hessian(lambda p: jnp.sum(doubled(p)), POINT), None, "factor", 5.0, 5.0),
    "gauss_newton": (GAUSS_NEWTON, None, "factor", 3.0, 9.0),
    "gauss_newton, an array": (GAUSS_NEWTON, None, "rows", 2 * jnp.eye(2), 4.0),
    "fisher": (
        lambda: fisher(outputs, POINT, (DATA, jnp.zeros(3)), likelihood="gaussian"),
        None,
        "rows",
        2 * jnp.eye(2),
        4.0,
    ),
    "a callable": (lambda: as_operator(lambda v: factor * (rows @ v), like=POINT), None, "factor", 2.5, 2.5),
    "a partial": (lambda: hessian(functools.partial(with_default, scale=rows), POINT), None, "rows", 2 * rows, 4.0),
}


@pytest.fixture
def changed(monkeypatch):
    import sys

    return lambda owner, name, value: monkeypatch.setattr(owner or sys.modules[__name__], name, value)


@pytest.mark.parametrize("case", CASES)
def test_a_call_answers_for_the_values_of_now(case, changed):
    build, owner, name, value, growth = CASES[case]
    solve = lambda: np.asarray(jit_matrix(build()))
    before = solve()
    changed(owner, name, value)
    assert_allclose(solve(), growth * before, rtol=1e-6)


# Compiled for the static parts of an operator, like the solvers.
jit_matrix = jax.jit(lambda op: jax.vmap(op.mv)(jnp.eye(2)))


@pytest.mark.slow
def test_eigsh_and_svds_answer_for_the_values_of_now(changed):
    solve = lambda: eigsh(lambda v: factor * jnp.arange(1.0, 4.0) * v, 1, v0=jnp.ones(3)).eigenvalues[0]
    norms = lambda: svds(jacobian(outputs, POINT, DATA), 1).values[0]
    assert_allclose([solve(), norms()], [3, np.linalg.norm(DATA, 2)], rtol=1e-5)
    changed(None, "factor", -2.0)
    assert_allclose([solve(), norms()], [-2, 2 * np.linalg.norm(DATA, 2)], rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_compiled_when_nothing_changed(case, counted_compilations):
    build = CASES[case][0]
    jit_matrix(build())
    before = counted_compilations()
    jit_matrix(build())
    assert counted_compilations() == before


def test_other_arrays_need_no_other_program(changed, counted_compilations):
    solve = lambda: jit_matrix(hessian(lambda p: jnp.sum((rows @ p) ** 2), POINT))
    solve()
    changed(None, "rows", jnp.array([[0.0, 2.0], [1.0, 1.0]]))
    before = counted_compilations()
    found = solve()
    assert counted_compilations() == before
    assert_allclose(found, 2 * rows.T @ rows)


def test_a_stream_answers_for_the_values_of_now(changed, counted_compilations):
    product = lambda: stream(lambda p, b: factor * jnp.mean((b @ p) ** 2), POINT, [DATA[:2], DATA[2:]])(POINT)
    first = product()
    assert_allclose(first, 2 * DATA.T @ DATA @ POINT / 3, rtol=1e-6)
    before = counted_compilations()
    product()
    assert counted_compilations() == before
    changed(None, "factor", 3.0)
    assert_allclose(product(), 3 * first, rtol=1e-6)


def test_gradients_flow_to_globals_that_are_traced(changed):
    def top(matrix):
        changed(None, "rows", matrix)
        return eigsh(hessian(lambda p: jnp.sum((rows @ p) ** 2) / 2, POINT), 1).eigenvalues[0]

    # R = diag(3, 1): the derivative of the largest eigenvalue of R^T R in its first entry is 2 x 3.
    assert_allclose(jax.grad(top)(jnp.diag(jnp.array([3.0, 1.0]))), [[6.0, 0.0], [0.0, 0.0]], atol=1e-4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: 0.0 * x, lambda x: -0.0 * x),
        (lambda x: jnp.sum(x, 0), lambda x: jnp.sum(x, 1)),
        (lambda x: x + jnp.float32(1), lambda x: x + jnp.float32(2)),
        (
            lambda x: jax.lax.scan(lambda c, r: (c * 2, r), x[0], x),
            lambda x: jax.lax.scan(lambda c, r: (c, r), x[0], x),
        ),
        (lambda x: (x[0], x[1]), lambda x: (x[1], x[0])),
        (lambda x: {"a": x}, lambda x: {"b": x}),
        (lambda x: jnp.where(x > 0, x, 1.0), lambda x: jnp.where(x > 0, x, 2.0)),
    ],
)
def test_different_programs_are_told_apart(one, other):
    program = lambda function: hoist(function, jnp.ones((2, 2)))[0].shared()
    assert program(one) is program(one)
    assert program(one) is not program(other)


def test_callbacks_to_other_objects_are_other_programs():
    def program(seen):
        def function(x):
            jax.debug.callback(lambda: seen.append(1))
            return x

        return hoist(function, jnp.ones(2))[0].shared()

    first = program([])
    assert program([]) is not first


def test_an_operator_is_built_of_the_values_at_that_time(changed):
    op = hessian(lambda p: factor * jnp.sum(p**2), POINT)
    changed(None, "factor", 7.0)
    assert_allclose(to_dense(op), 2 * np.eye(2))


def test_an_operator_keeps_its_shapes():
    import dataclasses

    op = hessian(lambda p, b: jnp.mean((b @ p) ** 2), POINT, DATA)
    with pytest.raises(ValueError, match="traced for other shapes"):
        dataclasses.replace(op, data=DATA[:2])(POINT)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["alone", "within jit"])
def test_an_operator_keeps_the_numbers_of_numpy_arrays_that_are_written_into_later(wrap):
    def built(scales):
        return hessian(wrap(lambda p: jnp.sum(scales * p**2) / 2), jnp.ones(3))

    scales = np.full(3, 5, np.float32)
    before = built(scales)
    scales *= 3
    assert_allclose(before(jnp.ones(3)), np.full(3, 5))
    assert_allclose(built(scales)(jnp.ones(3)), np.full(3, 15))
    assert_allclose(built(np.full(3, 5, np.float32))(jnp.ones(3)), np.full(3, 5))
