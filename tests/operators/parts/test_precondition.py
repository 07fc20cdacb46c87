"""Diagonal operators and preconditioned operators against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax import Status, as_operator, diagonal_operator, eigsh, hessian, precondition, to_dense


def loss(params):
    return jnp.sum(jnp.sin(params["w"])) ** 2 + jnp.sum(params["w"]) * params["b"] ** 3


@pytest.fixture
def problem(rng, float64):
    params = {"b": jnp.asarray(0.7), "w": jnp.asarray(rng.normal(size=4))}
    diagonal = {"b": jnp.asarray(2.5), "w": jnp.asarray(rng.uniform(0.1, 3, size=4))}
    matrix = np.asarray(to_dense(hessian(loss, params)))
    return params, diagonal, matrix, np.concatenate([[2.5], diagonal["w"]])


def test_preconditioned_is_the_generalised_problem(problem):
    params, diagonal, matrix, d = problem
    op = precondition(hessian(loss, params), diagonal)
    assert_allclose(to_dense(op), matrix / np.sqrt(np.outer(d, d)), atol=1e-14)
    result = eigsh(op, 2)
    assert_allclose(result.eigenvalues, scipy.linalg.eigh(matrix, np.diag(d))[0][::-1][:2], rtol=1e-9)


@pytest.mark.slow
def test_the_derivative_flows_to_the_diagonal(problem):
    params, diagonal, matrix, d = problem
    top = lambda diagonal: eigsh(precondition(hessian(loss, params), diagonal), 1).eigenvalues[0]
    gradient = jax.jit(jax.grad(top))(diagonal)
    value = lambda d: scipy.linalg.eigh(matrix, np.diag(d))[0][-1]
    step = 1e-3 * np.eye(5)
    fourth_order = [(8 * (value(d + h) - value(d - h)) - value(d + 2 * h) + value(d - 2 * h)) / 12e-3 for h in step]
    assert_allclose(np.concatenate([[gradient["b"]], gradient["w"]]), fourth_order, rtol=1e-6, atol=1e-8)


def test_the_diagonal_of_all_parameters_serves_for_a_part(problem):
    params, diagonal, matrix, d = problem
    op = precondition(hessian(loss, params, select="w"), diagonal)
    assert_allclose(to_dense(op), matrix[1:, 1:] / np.sqrt(np.outer(d[1:], d[1:])), atol=1e-14)
    decay = diagonal_operator({"b": True, "w": True}, like=op.structure)
    assert_allclose(to_dense(op + 0.1 * decay), to_dense(op) + 0.1 * np.eye(4))


@pytest.mark.slow
def test_a_diagonal_that_is_not_positive_is_told_by_the_status():
    diagonals = jnp.array([1.0, 2.0, 3.0, 4.0]).at[2].set
    results = jax.vmap(lambda entry: eigsh(precondition(jnp.eye(4), diagonals(entry)), 2))(
        jnp.array([0.0, -1.0, jnp.nan, 3.0])
    )
    assert results.status.tolist() == [Status.NONFINITE] * 3 + [Status.CONVERGED]
    assert results.converged.any(axis=1).tolist() == [False, False, False, True]


def test_a_narrow_operator_has_a_wide_diagonal():
    op = precondition(as_operator(jnp.eye(2, dtype=jnp.bfloat16)), jnp.array([4.0, 2.0], jnp.float16))
    assert op.dtype == jnp.bfloat16
    assert_allclose(to_dense(op), np.diag([0.25, 0.5]), rtol=1e-2)


def test_weight_decay_on_what_a_mask_selects(problem):
    params, diagonal, matrix, d = problem
    op = hessian(loss, params) + 0.5 * diagonal_operator({"b": False, "w": True}, like=params)
    assert_allclose(to_dense(op), matrix + np.diag([0, 0.5, 0.5, 0.5, 0.5]), atol=1e-14)
    assert_allclose(to_dense(diagonal_operator(2.0, like=params)), 2 * np.eye(5))
    assert_allclose(to_dense(as_operator(diagonal_operator(diagonal))), np.diag(d))
    # The diagonal entries are leaves: another diagonal needs no new program.
    assert len(jax.tree.leaves(diagonal_operator(diagonal))) == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda op, tree: precondition(op, {"w": tree["w"]}), ValueError, r"diagonal has the structure.*\['b'\]"),
        (lambda op, tree: precondition(op, tree | {"w": tree["w"][:2]}), ValueError, r"\['w'\] has shape \(2,\)"),
        (lambda op, tree: precondition(op, tree | {"b": 1j}), TypeError, r"diagonal\['b'\] has dtype complex"),
        (lambda op, tree: precondition(op, tree | {"b": 1}), TypeError, r"diagonal\['b'\] has dtype int"),
        (lambda op, tree: precondition(lambda v: v, tree), TypeError, "like="),
        (lambda op, tree: diagonal_operator(tree | {"w": tree["w"][:1]}, like=tree), ValueError, "one number"),
        (lambda op, tree: diagonal_operator(tree | {"w": 1j}, like=tree), TypeError, "complex"),
        (lambda op, tree: diagonal_operator({"w": 1.0}, like=tree), ValueError, "leaves missing"),
        (lambda op, tree: diagonal_operator({"w": 1}), TypeError, "dtype int"),
    ],
)
def test_a_diagonal_that_does_not_fit_is_refused(problem, call, error, message):
    params, diagonal, _, _ = problem
    with pytest.raises(error, match=message):
        call(hessian(loss, params), diagonal)
