"""Operators chosen by name, against dense matrices; layers without enough matvecs left."""

import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.operators.convert import as_operator
from eigenjax.operators.inspection import to_dense
from eigenjax.report.analysis import layers
from eigenjax.report.analysis.solve import Programs
from eigenjax.report.inputs.errors import ReportError
from eigenjax.report.inputs.operators import lacking, operator_of
from eigenjax.report.inputs.problem import Problem
from eigenjax.result import EigenResult

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
MODEL = lambda w, x: jnp.tanh(x @ w)
SQUARES = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
TARGETS = jnp.asarray(np.linspace(0, 1, 5), jnp.float32)
WEIGHTS = jnp.array([0.5, -0.2, 0.1], jnp.float32)


def problem(model=MODEL, loss_of_output=SQUARES, data=(INPUTS, TARGETS)):
    return Problem(lambda w, batch: SQUARES(MODEL(w, batch[0]), batch[1]), WEIGHTS, data, model, loss_of_output)


@pytest.mark.parametrize(("name", "scale"), [("gauss-newton", 2.0), ("fisher", 1.0)])
def test_of_squares_they_are_products_of_the_jacobian(name, scale):
    jacobian = np.asarray((1 - jnp.tanh(INPUTS @ WEIGHTS)[:, None] ** 2) * INPUTS, np.float64)
    # With unit variance, -log p is half a square.
    exact = scale * jacobian.T @ jacobian / 5
    for batch_size in (None, 2):
        found = to_dense(operator_of(problem(), name, batch_size=batch_size))
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "lack"),
    [
        ("gauss-newton", {"model": None}, "model"),
        ("gauss-newton", {"loss_of_output": None}, "loss_of_output"),
        ("fisher", {"data": INPUTS}, "data that are a pair"),
    ],
)
def test_what_is_lacking_is_named(name, options, lack):
    with pytest.raises(ReportError, match=f"--operator {name}: the problem has no {lack}"):
        operator_of(problem(**options), name)
    assert lacking(problem(**options), "hessian") is None


def test_where_there_are_many_layers_the_largest_come_first(monkeypatch):
    def solved(layer, programs, k, krylov_dim, most, tol):
        asked.append((float(layer.outside), krylov_dim, most))
        values = np.arange(float(k))
        return EigenResult(values, None, values, values < 1, np.int32(0), np.int32(7))

    asked, notes = [], []
    monkeypatch.setattr(layers, "MAX_MATVECS", 80)
    monkeypatch.setattr(layers, "_solve", solved)
    vector = {name: jnp.ones(size) for name, size in {"a": 2, "b": 40, "c": 1, "d": 30}.items()}
    options = {"k": 3, "krylov_dim": 50, "largest": 8.0, "tol": 1e-4}
    update = lambda completed, note: notes.append(note)
    found = layers.solve_layers(as_operator(lambda v: v, like=vector), Programs(), update=update, **options)
    assert list(found.results) == ["b", "d"]
    assert found.left_out == ["a", "c"]
    assert asked == [(-10.0, 50, 40), (-10.0, 50, 40)]
    assert notes == ["1 of 2, 7 matvecs", "2 of 2, 14 matvecs"]


def test_a_layer_smaller_than_k_has_as_many_pairs_and_none_from_outside():
    vector = {"a": jnp.ones(1), "b": jnp.ones(6)}
    # The small layer has negative eigenvalues only: zeros outside the layer would rank higher.
    op = as_operator(lambda v: {"a": -3 * v["a"], "b": jnp.arange(6.0) * v["b"] - 5 * v["b"]}, like=vector)
    options = {"k": 3, "krylov_dim": 7, "largest": 5.0, "tol": 1e-4}
    found = layers.solve_layers(op, Programs(), update=lambda *_: None, **options)
    np.testing.assert_allclose(found.results["a"].eigenvalues, [-3.0], rtol=1e-5)
    np.testing.assert_allclose(found.results["b"].eigenvalues, [0.0, -1.0, -2.0], atol=1e-5)
    assert found.results["a"].eigenvectors is None
