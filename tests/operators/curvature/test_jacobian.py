"""Jacobians and the kernel J J^T against dense jax.jacobian in float64."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import eigsh, jacobian, neural_tangent_kernel, svds, to_dense

from .conftest import product_bytes, scanned_cube

N = 7


def model(params, inputs):
    """Return outputs of rank two and three, in a dict."""
    hidden = jnp.tanh(inputs @ params["w"] + params["b"][None, :])
    return {"flat": hidden @ params["head"], "pairs": hidden[:, None, :2] * inputs[:, :2, None]}


@pytest.fixture
def problem(rng, float64):
    params = {"b": rng.normal(size=4), "head": rng.normal(size=(4, 2)), "w": rng.normal(size=(3, 4))}
    return jax.tree.map(jnp.asarray, (params | {"table": np.arange(2)}, rng.normal(size=(N, 3))))


def dense_jacobian(params, inputs):
    """Compute the dense Jacobian, (outputs, parameters), in the order of raveled leaves."""
    table = params.pop("table")
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    ravel = lambda outputs: jax.flatten_util.ravel_pytree(outputs)[0]
    return np.asarray(jax.jacobian(lambda x: ravel(model(unravel(x) | {"table": table}, inputs)))(flat))


def dense_maps(op):
    """Compute the matrices of mv and of adjoint_mv, column by column."""

    def columns(product, structure):
        flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structure))
        return jax.vmap(lambda unit: jax.flatten_util.ravel_pytree(product(unravel(unit)))[0])(jnp.eye(flat.size)).T

    return columns(op.mv, op.domain), columns(op.adjoint_mv, op.codomain)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 3, 7])
def test_both_products_are_those_of_the_dense_jacobian(problem, batch_size):
    truth = dense_jacobian(dict(problem[0]), problem[1])
    op = jacobian(model, *problem, batch_size=batch_size)
    assert op.shape == truth.shape
    assert jax.tree.map(jnp.shape, op.codomain) == {"flat": (N, 2), "pairs": (N, 2, 2)}
    forward, transposed = dense_maps(op)
    assert_allclose(forward, truth, atol=1e-14)
    assert_allclose(transposed, truth.T, atol=1e-13)
    assert op.transposed().shape == truth.T.shape


def test_of_some_parameters_only(problem):
    truth = dense_jacobian(dict(problem[0]), problem[1])
    op = jacobian(model, *problem, select=["b", "w"])
    assert op.domain["head"] is None
    assert op.domain["table"] is None
    columns = np.r_[0:4, 12:24]
    assert_allclose(dense_maps(op)[0], truth[:, columns], atol=1e-14)


def test_the_kernel_is_the_jacobian_times_its_transpose(problem):
    truth = dense_jacobian(dict(problem[0]), problem[1])
    assert_allclose(to_dense(neural_tangent_kernel(model, *problem, batch_size=3)), truth @ truth.T, atol=1e-12)


@pytest.mark.slow
def test_singular_values_and_the_eigenvalues_of_the_kernel(problem):
    truth = dense_jacobian(dict(problem[0]), problem[1])
    singular = np.linalg.svd(truth)[1]
    op = jacobian(model, *problem, batch_size=3)
    assert_allclose(svds(op, k=3, tol=1e-12).values, singular[:3], rtol=1e-10)
    kernel = neural_tangent_kernel(model, *problem, batch_size=3)
    # J J^T and J^T J have the same nonzero eigenvalues.
    truth = np.linalg.eigvalsh(truth.T @ truth)[::-1][:3]
    assert_allclose(eigsh(kernel, k=3).eigenvalues, truth, rtol=1e-9)


@pytest.mark.slow
def test_a_model_that_closes_over_arrays_and_gradients_through_it(problem, rng):
    params, inputs = problem
    shift = jnp.asarray(rng.normal(size=3))

    def top(params, shift):
        return jacobian(lambda p, x: model(p, x + shift[None, :])["flat"], params, inputs, batch_size=4)

    assert any(leaf is shift for leaf in jax.tree.leaves(top(params, shift)))
    vector = jax.tree.map(jnp.ones_like, top(params, shift).domain)
    length = lambda shift: jnp.sum(top(params, shift).mv(vector) ** 2)
    gradient = jax.jit(jax.grad(length))(shift)
    step = 1e-3 * jnp.eye(3)
    central = [
        (8 * (length(shift + h) - length(shift - h)) - length(shift + 2 * h) + length(shift - 2 * h)) / 12e-3
        for h in step
    ]
    assert_allclose(gradient, jnp.stack(central), rtol=1e-8)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_model_with_a_custom_vjp(float64, batch_size):
    model = lambda p, x: scanned_cube(p)[None, :] * x
    op = jacobian(model, jnp.array([1.0, 2.0]), jnp.ones((3, 2)), batch_size=batch_size)
    for product in (op.mv, jax.jit(op.mv)):
        assert_allclose(product(jnp.ones(2)), np.tile([3.0, 12.0], (3, 1)))
    assert_allclose(op.adjoint_mv(jnp.ones((3, 2))), [9.0, 36.0])


def test_microbatches_need_the_memory_of_one():
    params = {"w": jnp.ones((8, 64)), "v": jnp.ones((64, 2))}
    deep = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]

    def temporaries(batch_size):
        kernel = neural_tangent_kernel(deep, params, jnp.ones((4096, 8)), batch_size=batch_size)
        return product_bytes(kernel, jnp.ones((4096, 2)))

    assert temporaries(64) < temporaries(None) / 8


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p, x: jacobian(model, p, x, batch_size=0), ValueError, "batch_size=0"),
        (lambda p, x: jacobian(lambda p, x: jnp.sum(p["w"] * x[0, 0]), p, x, batch_size=2), ValueError, "leading axis"),
        (lambda p, x: jacobian(lambda p, x: x[0] > 0, p, x), TypeError, "output has dtype bool"),
        (
            lambda p, x: jacobian(lambda p, x: {"z": p["w"].astype(complex)}, p, x),
            TypeError,
            r"output\['z'\] has dtype complex",
        ),
        (lambda p, x: jacobian(model, p, x, select="v"), ValueError, "'v' matches none"),
    ],
)
def test_what_has_no_jacobian_is_refused(problem, make, error, message):
    with pytest.raises(error, match=message):
        make(*problem)
