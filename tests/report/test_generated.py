"""The built-in problem on generated data."""

import sys

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from eigenjax import eigsh, hessian
from eigenjax.report.inputs import errors
from eigenjax.report.inputs.generated import rings
from eigenjax.report.inputs.problem import check_problem, load_problem


def test_the_network_tells_the_rings_apart():
    problem = rings()
    check_problem(problem)
    points, classes = problem.data
    radii = np.linalg.norm(np.asarray(points), axis=1)
    np.testing.assert_allclose([radii[classes == i].mean() for i in range(3)], [1, 2, 3], atol=0.05)
    chosen = np.argmax(problem.model(problem.params, points), axis=1)
    assert np.mean(chosen == np.asarray(classes)) > 0.98
    whole = problem.loss_of_output(problem.model(problem.params, points), classes)
    np.testing.assert_allclose(whole, problem.loss(problem.params, problem.data))


def test_it_is_found_by_the_name_that_the_error_gives():
    problem = load_problem(errors.GENERATED)
    again = rings()
    jax.tree.map(np.testing.assert_array_equal, problem.params, again.params)


def test_its_spectrum_is_that_of_the_dense_hessian():
    problem = rings()
    flat, unravel = ravel_pytree(problem.params)
    dense = np.asarray(jax.hessian(lambda x: problem.loss(unravel(x), problem.data))(flat), np.float64)
    found = eigsh(hessian(problem.loss, problem.params, problem.data), k=2, tol=1e-5)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh((dense + dense.T) / 2)[:-3:-1], rtol=1e-4)


def test_it_needs_no_other_package(monkeypatch):
    for package in ("flax", "optax", "sklearn"):
        monkeypatch.setitem(sys.modules, package, None)
    assert rings().data[0].shape == (600, 2)
