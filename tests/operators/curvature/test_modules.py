"""Modules of flax.nnx as parameters, models that return more than outputs, and pytrees with other leaves."""

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

import eigenjax
from eigenjax import eigsh, fisher, gauss_newton, hessian, hvp, jacobian, stream, svds, to_dense


class Net(nnx.Module):
    def __init__(self, rngs, **norm):
        self.hidden, self.norm = nnx.Linear(2, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs, **norm)
        self.drop, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)
        self.table = nnx.Param(jnp.arange(2))

    def __call__(self, x):
        return self.out(self.drop(jnp.tanh(self.norm(self.hidden(x)))))


def loss(module, batch):
    return jnp.mean((module(batch[0]) - batch[1]) ** 2)


@pytest.fixture(params=["trained", "evaluated"])
def net(request):
    module = Net(nnx.Rngs(0))
    return module if request.param == "trained" else nnx.view(module, deterministic=True, use_running_average=True)


@pytest.fixture
def data(rng):
    inputs = rng.normal(size=(7, 2)).astype(np.float32)
    return jnp.asarray(inputs), jnp.asarray(inputs[:, :1] ** 2)


def of_params(net, function):
    """Return `function` as a function of the raveled floating-point parameters, and their values."""
    graph, params, others = nnx.split(net, nnx.Param, ...)
    is_floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    floating = jax.tree.map(lambda x: x if is_floating(x) else None, params)
    flat, unravel = jax.flatten_util.ravel_pytree(floating)

    def call(flat, *args):
        merged = jax.tree.map(lambda x, y: y if x is None else x, unravel(flat), params, is_leaf=lambda x: x is None)
        return function(nnx.merge(graph, merged, others, copy=True), *args)

    return call, flat


def state_of(net):
    return jax.tree.map(np.asarray, [x for x in jax.tree.leaves(nnx.state(net)) if x.dtype != jax.random.key(0).dtype])


@pytest.mark.slow
def test_hessian_of_a_module(net, data):
    before = state_of(net)
    op = hessian(loss, net, data)
    function, flat = of_params(net, loss)
    dense = jax.hessian(function)(flat, data)
    assert_allclose(to_dense(op), dense, atol=2e-5)
    assert op.size == flat.size
    chex.assert_trees_all_equal(before, state_of(net))


def test_eigenvectors_are_shaped_like_the_state_of_the_parameters(data):
    net = Net(nnx.Rngs(1))
    result = eigsh(hessian(loss, net, data), 2)
    assert isinstance(result.eigenvectors, nnx.State)
    assert result.eigenvectors["hidden"]["kernel"].shape == (2, 2, 3)


def test_hvp_of_a_module(data):
    line = nnx.Linear(2, 1, rngs=nnx.Rngs(5))
    ones = jax.tree.map(jnp.ones_like, nnx.state(line, nnx.Param))
    product = hvp(loss, line, ones, data)
    with_bias = np.column_stack([data[0], np.ones(7)])
    expected = 2 * with_bias.T @ with_bias @ np.ones(3) / 7
    assert_allclose(product["kernel"][:, 0], expected[:2], rtol=1e-5)
    assert_allclose(product["bias"], expected[2:], rtol=1e-5)


@pytest.mark.slow
def test_models_that_are_modules(data):
    net = nnx.view(Net(nnx.Rngs(2)), deterministic=True, use_running_average=True)
    model, squares = lambda module, x: module(x), lambda z, y: jnp.mean((z - y) ** 2)
    function, flat = of_params(net, lambda module: module(data[0]).reshape(-1))
    dense = np.asarray(jax.jacobian(function)(flat))
    assert_allclose(svds(jacobian(model, net, data[0], batch_size=3), 1).values[0], np.linalg.norm(dense, 2), rtol=1e-4)
    expected = dense.T @ dense / 7
    assert_allclose(to_dense(gauss_newton(model, squares, net, data, batch_size=4)), 2 * expected, atol=1e-5)
    assert_allclose(to_dense(fisher(model, net, data, likelihood="gaussian")), expected, atol=1e-5)


@pytest.mark.slow
def test_selected_parts_and_streams_of_a_module(data):
    net = nnx.view(Net(nnx.Rngs(3)), deterministic=True, use_running_average=True)
    whole, part = hessian(loss, net, data), hessian(loss, net, data, select="out/kernel")
    assert part.size == 3
    flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
    ones = jax.tree.map(lambda x: jnp.ones(x.shape), whole.structure)
    cut = [tuple(x[:4] for x in data), tuple(x[4:] for x in data)]
    assert_allclose(flat(stream(loss, net, cut)(ones)), flat(whole(ones)), atol=1e-5)


@pytest.mark.slow
def test_a_module_changed_by_training_is_read_again(data):
    net = nnx.view(Net(nnx.Rngs(4)), deterministic=True, use_running_average=True)
    top = lambda: float(eigsh(hessian(loss, net, data), 1).eigenvalues[0])
    before = top()
    net.norm.mean[...] = net.norm.mean[...] + 1.0
    function, flat = of_params(net, loss)
    assert abs(top() - before) > 1e-3
    assert_allclose(top(), np.linalg.eigvalsh(jax.hessian(function)(flat, data))[-1], rtol=1e-4)


def test_pytrees_with_leaves_that_are_no_arrays():
    params = {"activation": jnp.tanh, "name": "first", "kernel": jnp.array([0.3, -0.2])}
    function = lambda p: jnp.sum(p["activation"](p["kernel"]) ** 2) * len(p["name"])
    dense = jax.hessian(lambda kernel: function({**params, "kernel": kernel}))(params["kernel"])
    assert_allclose(to_dense(hessian(function, params)), dense, rtol=1e-5)


def test_what_is_returned_beside_is_dropped(data):
    params = jnp.array([[0.5], [-1.0]])
    model = lambda p, x: (jnp.tanh(x @ p), {"seen": len(x)})
    plain = lambda p, x: model(p, x)[0]
    squares = lambda z, y: jnp.mean((z - y) ** 2)
    both = lambda p, batch: (squares(plain(p, batch[0]), batch[1]), batch)
    one = lambda p, batch: both(p, batch)[0]
    same = lambda with_aux, without: assert_allclose(to_dense(with_aux), to_dense(without), rtol=1e-6)
    same(hessian(both, params, data, batch_size=3, has_aux=True), hessian(one, params, data))
    same(gauss_newton(model, squares, params, data, has_aux=True), gauss_newton(plain, squares, params, data))
    same(
        fisher(model, params, data, likelihood="gaussian", has_aux=True),
        fisher(plain, params, data, likelihood="gaussian"),
    )
    rows = [jacobian(model, params, data[0], has_aux=True), jacobian(plain, params, data[0])]
    assert_allclose(rows[0].mv(params), rows[1].mv(params))


def test_a_linear_head_stands_for_its_logits():
    rows, params = jnp.arange(6.0).reshape(3, 2), jnp.ones((2, 2))
    op = jacobian(lambda p, x: eigenjax.LinearHead(x, p), params, rows)
    assert_allclose(op @ jnp.eye(2), rows)
    product = hvp(lambda p: (jnp.sum(p**3), p), jnp.array([1.0, 2.0]), jnp.ones(2), has_aux=True)
    assert_allclose(product, [6.0, 12.0])


WEIGHTS, ROWS, TARGETS = jnp.ones(3), jnp.ones((4, 3)), jnp.ones(4)
LINEAR, SQUARES = lambda p, x: x @ p, lambda z, y: jnp.mean((z - y) ** 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: hessian(WEIGHTS, LINEAR), TypeError, "loss is of type ArrayImpl: give a function"),
        (lambda: hessian(lambda p: (p.sum(), 1), WEIGHTS), TypeError, "a scalar, and returned a tuple.*has_aux=True"),
        (lambda: hessian(lambda p: p.sum(), WEIGHTS, has_aux=True), TypeError, r"return a pair \(value, aux\)"),
        (lambda: hessian(lambda p: p**2, WEIGHTS), TypeError, r"must return the shape \(\), and returned \(3,\)"),
        (
            lambda: hessian(lambda p: jax.lax.complex(p.sum(), p.sum()), WEIGHTS),
            TypeError,
            "real floating-point numbers.*complex64",
        ),
        (lambda: hessian(lambda p: jnp.argmax(p), WEIGHTS), TypeError, "real floating-point numbers.*int32"),
        (lambda: hessian(lambda p: "high", WEIGHTS), TypeError, "loss .* returns what is no array"),
        (lambda: hessian(lambda p: None, WEIGHTS), TypeError, "loss .* returns no array"),
        (lambda: hessian(lambda p: float(p.sum()), WEIGHTS), TypeError, "asks for the numbers in an array"),
        (lambda: hessian(lambda p: 1.0 if p[0] > 0 else 2.0, WEIGHTS), TypeError, "asks for the numbers in an array"),
        (lambda: hessian(lambda p: np.sum(np.asarray(p)), WEIGHTS), TypeError, "asks for the numbers in an array"),
        (lambda: hessian(lambda p, b: p.sum(), WEIGHTS), TypeError, "is called with 1 arguments"),
        (lambda: hessian(lambda p: p.sum(), WEIGHTS, ROWS), TypeError, "is called with 2 arguments"),
        (lambda: hessian(lambda p: p.sum(), jnp.arange(3)), ValueError, "integer leaves are constants"),
        (lambda: hessian(lambda p: 1.0, "weights"), ValueError, "params holds no floating-point leaf"),
        (lambda: hessian(lambda p, b: 1.0, WEIGHTS, {"x": "rows"}), TypeError, r"data\['x'\] is no array"),
        (lambda: hessian(lambda p, b: 1.0, WEIGHTS, ROWS, batch_size=True), ValueError, "batch_size=True"),
        (lambda: hessian(lambda p, b: 1.0, WEIGHTS, ROWS, weights="even"), TypeError, "weights is of type str"),
        (lambda: hessian(lambda p, b: 1.0, WEIGHTS, ROWS, weights=[1, 2, 3, 4]), TypeError, r"the shape \(4,\)"),
        (lambda: gauss_newton(SQUARES, WEIGHTS, LINEAR, (ROWS, TARGETS)), TypeError, "loss is of type ArrayImpl"),
        (lambda: gauss_newton(LINEAR, SQUARES, WEIGHTS, ROWS), ValueError, r"give the pair \(inputs, targets\)"),
        (
            lambda: gauss_newton(LINEAR, lambda z, y: z - y, WEIGHTS, (ROWS, TARGETS)),
            TypeError,
            "must return the shape",
        ),
        (lambda: fisher(WEIGHTS, LINEAR, (ROWS, TARGETS)), TypeError, "model is of type ArrayImpl"),
        (lambda: fisher(LINEAR, WEIGHTS, (ROWS, ROWS), likelihood="gaussian"), ValueError, "give equal ones"),
        (lambda: jacobian(WEIGHTS, LINEAR, ROWS), TypeError, "model is of type ArrayImpl"),
        (lambda: jacobian(lambda p, x: (), WEIGHTS, ROWS), TypeError, "model .* returns no array"),
        (lambda: jacobian(lambda p, x: x @ p, WEIGHTS, {"x": object()}), TypeError, r"inputs\['x'\] is no array"),
    ],
)
def test_wrong_calls_are_reported(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_sizes_of_microbatches_may_be_numpy_integers():
    op = hessian(lambda p, b: jnp.mean((b @ p) ** 2), WEIGHTS, ROWS, batch_size=np.int64(3))
    assert_allclose(op(WEIGHTS), 2 * ROWS.T @ ROWS @ WEIGHTS / 4)
