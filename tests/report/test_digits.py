"""The built-in problem, at a tenth of its training steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from eigenjax.report.inputs import digits


@pytest.fixture(scope="module")
def problem():
    return digits.digits_problem(jax.random.key(0), num_steps=9)


@pytest.mark.slow
def test_the_data_are_the_digits(problem):
    images, labels = problem.data
    assert images.shape == (1797, 64)
    assert float(images.max()) == 1.0
    np.testing.assert_array_equal(np.unique(labels), np.arange(10))


def test_the_history_is_of_this_training(problem):
    history = problem.history
    np.testing.assert_array_equal(history.steps, [0, 2, 4, 6, 8, 9])
    np.testing.assert_allclose(history.losses[-1], problem.loss(problem.params, problem.data), rtol=1e-5)
    assert history.losses[-1] < history.losses[0]
    flat, unravel = ravel_pytree(problem.params)
    gradient = jax.grad(lambda flat: problem.loss(unravel(flat), problem.data))
    product = jax.jit(lambda vector: jax.jvp(gradient, (flat,), (vector,))[1])
    matvec = lambda vector: np.asarray(product(np.float32(vector.ravel())))
    operator = scipy.sparse.linalg.LinearOperator((flat.size, flat.size), matvec, dtype=np.float32)
    (truth,) = scipy.sparse.linalg.eigsh(operator, k=1, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(history.eigenvalues[-1], truth, rtol=1e-3)


def test_the_parts_make_the_loss(problem):
    images, labels = problem.data
    outputs = problem.model(problem.params, images)
    assert outputs.shape == (1797, 10)
    np.testing.assert_allclose(problem.loss_of_output(outputs, labels), problem.loss(problem.params, problem.data))
    assert 0.1 < digits.accuracy(problem) <= 1


@pytest.mark.slow
def test_the_seed_decides(problem):
    # A second training of equal shapes reuses the compiled program.
    other = digits.digits_problem(jax.random.key(1), num_steps=0)
    same = digits.digits_problem(jax.random.key(0), num_steps=0)
    difference = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), other.params, same.params)
    assert max(jax.tree.leaves(difference)) > 0.1
    np.testing.assert_allclose(same.history.losses[0], problem.history.losses[0], rtol=1e-6)
