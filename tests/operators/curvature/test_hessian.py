"""The Hessian against dense derivatives, closed forms, and a spectrum from another framework."""

import dataclasses

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import hessian, hvp, lanczos, to_dense

from .conftest import (
    cross_entropy,
    cube,
    network,
    product_bytes,
    reference,
    reference_model,
    scanned_cube,
    temporary_bytes,
)

MODES = ("auto", "forward_over_reverse", "linearize", "reverse_over_reverse")


def mlp_loss(params, batch):
    return cross_entropy(network(params, batch[0]), batch[1])


def example_losses(params, batch):
    return jax.vmap(lambda x, y: mlp_loss(params, (x[None], y[None])))(*batch)


def dense_hessian(loss, params):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.hessian(lambda x: loss(unravel(x)))(flat)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_dense_hessian(problem, mode):
    params, data = problem
    dense = dense_hessian(lambda p: mlp_loss(p, data), params)
    assert_allclose(to_dense(hessian(mlp_loss, params, data, mode=mode)), dense, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 9, 10, 11])
def test_microbatches_give_the_full_data_hessian_to_rounding(problem, batch_size):
    params, data = problem
    full = to_dense(hessian(mlp_loss, params, data))
    parts = to_dense(hessian(mlp_loss, params, data, batch_size=batch_size))
    assert_allclose(parts, full, rtol=0, atol=4e-15 * np.abs(full).max())


def test_microbatches_need_the_memory_of_one(rng):
    params = {"w0": jnp.ones((8, 64)), "b0": jnp.ones(64), "w1": jnp.ones((64, 2))}
    data = (jnp.ones((4096, 8)), jnp.zeros(4096, jnp.int32))

    def temporaries(batch_size):
        op = hessian(mlp_loss, params, data, batch_size=batch_size)
        return product_bytes(op, params)

    assert temporaries(64) < temporaries(None) / 16


def test_the_derivative_of_a_product_needs_the_memory_of_one_microbatch_too():
    params = {"w0": jnp.ones((8, 64)), "b0": jnp.ones(64), "w1": jnp.ones((64, 2))}
    data = (jnp.ones((4096, 8)), jnp.zeros(4096, jnp.int32))

    def temporaries(batch_size):
        square = lambda p: jnp.sum(hessian(mlp_loss, p, data, batch_size=batch_size)(params)["w0"] ** 2)
        return temporary_bytes(jax.grad(square), params)

    assert temporaries(64) < temporaries(None) / 8


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 4])
def test_weights_make_a_weighted_mean(problem, batch_size, rng):
    params, data = problem
    weights = rng.uniform(size=10)
    weights[3] = 0
    dense = dense_hessian(lambda p: jnp.sum(weights * example_losses(p, data)) / weights.sum(), params)
    op = hessian(example_losses, params, data, weights=weights, batch_size=batch_size)
    assert_allclose(to_dense(op), dense, rtol=1e-9, atol=1e-13)


def test_select_makes_a_block_and_leaves_none_in_place_of_the_others(problem):
    params, data = problem
    op = hessian(mlp_loss, params, data, select=lambda path, leaf: leaf.ndim == 2)
    assert op.structure["b0"] is None
    assert op.size == 20
    block = dense_hessian(lambda p: mlp_loss({**p, "b0": params["b0"]}, data), {"w0": params["w0"], "w1": params["w1"]})
    assert_allclose(to_dense(op), block, rtol=1e-10, atol=1e-13)
    named = hessian(mlp_loss, params, data, select=lambda path, leaf: "b0" in jax.tree_util.keystr(path))
    assert named.size == 4


def test_integer_leaves_never_enter_the_vector_space(float64):
    params = {"weights": jnp.array([1.0, 2.0]), "table": jnp.array([3, 1]), "on": jnp.array(True)}
    loss = lambda p: jnp.sum(p["table"].astype(jnp.float64) * p["weights"] ** 2) * p["on"].astype(jnp.float64)
    op = hessian(loss, params)
    assert op.size == 2
    assert_allclose(to_dense(op), np.diag([6.0, 2.0]))
    assert lanczos(op, 1).eigenvectors["table"] is None


def test_parameters_that_the_loss_does_not_use_give_zeros(float64):
    op = hessian(lambda p: jnp.sum(p["used"] ** 3), {"unused": jnp.ones(2), "used": jnp.ones(1)})
    assert_allclose(to_dense(op), np.diag([0.0, 0.0, 6.0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "mode"),
    [
        (cube, "auto"),
        (cube, "linearize"),
        (cube, "reverse_over_reverse"),
        (scanned_cube, "auto"),
        (scanned_cube, "reverse_over_reverse"),
    ],
)
def test_a_loss_with_a_custom_vjp(function, mode, float64):
    point = jnp.array([1.0, 2.0])
    product = hessian(lambda p: jnp.sum(function(p)), point, mode=mode)(jnp.ones(2))
    assert_allclose(product, [6.0, 12.0])
    assert_allclose(hvp(lambda p: jnp.sum(function(p)), point, jnp.ones(2)), [6.0, 12.0])


@pytest.mark.slow
@pytest.mark.parametrize("function", [cube, scanned_cube])
def test_a_loss_with_a_custom_vjp_within_a_solver(function, float64):
    op = hessian(lambda p: jnp.sum(function(p)), jnp.array([1.0, 2.0]))
    assert_allclose(jax.jit(op)(jnp.ones(2)), [6.0, 12.0])
    assert_allclose(to_dense(op), np.diag([6.0, 12.0]))
    assert_allclose(lanczos(op, 1).eigenvalues, [12.0])


def test_the_mode_asked_for_is_the_mode_used():
    with pytest.raises(TypeError, match="custom_vjp"):
        hessian(lambda p: jnp.sum(cube(p)), jnp.ones(2), mode="forward_over_reverse")(jnp.ones(2))


def test_an_error_in_the_loss_is_not_mistaken_for_a_custom_vjp():
    with pytest.raises(TypeError, match="my own"):
        hessian(lambda p: (_ for _ in ()).throw(TypeError("my own")), jnp.ones(2))(jnp.ones(2))


def test_bfloat16_parameters_sum_their_microbatches_in_float32(rng):
    # 512 batches of equal curvature 1/512: a sum in bfloat16 would stop growing near 2^-1.
    data = jnp.ones((512, 1), jnp.bfloat16)
    op = hessian(lambda p, b: 0.5 * jnp.mean((b @ p) ** 2), jnp.ones(1, jnp.bfloat16), data, batch_size=1)
    assert_allclose(float(op(jnp.ones(1, jnp.bfloat16))[0]), 1.0, rtol=1e-2)


def test_hvp_is_a_product_with_the_dense_hessian(problem, rng):
    params, data = problem
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    v = rng.normal(size=flat.size)
    product, _ = jax.flatten_util.ravel_pytree(hvp(mlp_loss, params, unravel(jnp.asarray(v)), data))
    assert_allclose(product, dense_hessian(lambda p: mlp_loss(p, data), params) @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_loss_that_closes_over_tracers(problem):
    params, data = problem

    def top(params, inputs):
        return lanczos(hessian(lambda p: mlp_loss(p, (inputs, data[1])), params), 1, which="LA").eigenvalues[0]

    dense = lambda params, inputs: jnp.linalg.eigvalsh(dense_hessian(lambda p: mlp_loss(p, (inputs, data[1])), params))[
        -1
    ]
    assert_allclose(jax.jit(top)(params, data[0]), dense(params, data[0]), rtol=1e-10)
    for argument in (0, 1):
        ours = jax.jit(jax.grad(top, argument))(params, data[0])
        theirs = jax.grad(dense, argument)(params, data[0])
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_a_loss_that_cannot_be_hashed():
    @dataclasses.dataclass
    class Power:  # a dataclass with __eq__ has no __hash__
        exponent: int

        def __call__(self, params):
            return jnp.sum(params**self.exponent)

    assert_allclose(lanczos(hessian(Power(3), jnp.array([1.0, 2.0])), 1).eigenvalues, [12.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "backward"}, ValueError, "mode='backward'"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"batch_size": 2.5}, ValueError, r"batch_size=2\.5"),
        ({"weights": np.ones(3, np.float32)}, ValueError, r"weights has shape \(3,\).*10"),
        ({"select": lambda path, leaf: False}, ValueError, r"no floating-point leaf.*'b0'"),
    ],
)
def test_bad_options_are_refused(problem, options, error, message):
    with pytest.raises(error, match=message):
        hessian(mlp_loss, *problem, **options)


def test_bad_losses_and_data_are_refused(problem):
    params, data = problem
    with pytest.raises(TypeError, match=r"loss\(params, batch\) must return the shape \(\)"):
        hessian(example_losses, params, data)(params)
    with pytest.raises(TypeError, match=r"weights=.*\(10,\)"):
        hessian(mlp_loss, params, data, weights=jnp.ones(10))(params)
    with pytest.raises(ValueError, match=r"same number of examples.*10.*9"):
        hessian(mlp_loss, params, (data[0], data[1][:9]))
    with pytest.raises(ValueError, match="pass data="):
        hessian(lambda p: jnp.sum(p), jnp.ones(2), batch_size=2)
    with pytest.raises(TypeError, match=r"params\['z'\] is complex"):
        hessian(lambda p: jnp.abs(p["z"]) ** 2, {"z": jnp.ones((), complex)})


def reference_loss(params, batch):
    return cross_entropy(reference_model(params, batch[0]), batch[1])


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"], indirect=True)
def test_the_spectrum_is_that_of_another_framework(dtype, batch_size):
    tolerance = 1e-8 if dtype == np.float64 else 1e-4
    saved, params, batch = reference(dtype)
    op = hessian(reference_loss, params, batch, batch_size=batch_size)
    truth = saved["hessian_eigenvalues"]
    solve = jax.jit(lanczos, static_argnames=("k", "which", "krylov_dim"))
    for which, expected in (("LA", truth[::-1][:5]), ("SA", truth[:5])):
        result = solve(op, k=5, which=which, krylov_dim=200)
        assert bool(jnp.all(result.converged))
        assert_allclose(result.eigenvalues, expected, rtol=tolerance)
        if which == "LA":
            rows = np.concatenate([np.asarray(x).reshape(5, -1) for x in jax.tree.leaves(result.eigenvectors)], axis=1)
            overlaps = np.abs(np.sum(rows[::-1] * saved["hessian_top_eigenvectors"], axis=1))
            assert_allclose(overlaps, 1, atol=tolerance)
