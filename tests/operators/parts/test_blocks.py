"""Blocks of operators against slices of dense matrices, and the spectra of all layers in one call."""

import re

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from eigenjax import (
    as_operator,
    block_spectra,
    blocks,
    diagonal_operator,
    eigsh,
    hessian,
    precondition,
    restrict,
    to_dense,
)
from eigenjax.operators.parts.restriction import RestrictedOperator
from eigenjax.operators.parts.selection import paths_of

LAYERS = ("hidden_0", "hidden_1", "hidden_2", "last")


def network_loss(params, batch):
    hidden, targets = batch
    for name in LAYERS[:3]:
        hidden = jnp.tanh(hidden @ params[name]["kernel"] + params[name]["bias"][None, :])
    return jnp.mean((hidden @ params["last"]["kernel"] - targets) ** 2)


@pytest.fixture
def problem(rng, float64):
    layer = lambda m, n: {"bias": 0.3 * rng.normal(size=n), "kernel": rng.normal(size=(m, n))}
    params = {name: layer(3, 3) for name in LAYERS[:3]}
    params["last"] = {"kernel": rng.normal(size=(3, 1))}
    return jax.tree.map(jnp.asarray, (params, (rng.normal(size=(7, 3)), rng.normal(size=(7, 1)))))


@pytest.fixture
def dense(problem):
    """Compute the dense Hessian of the raveled loss, and the layer that each row belongs to."""
    params, batch = problem
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    owners = np.repeat([path.split("/")[0] for path in paths_of(params)], sizes)
    return np.asarray(jax.hessian(lambda x: network_loss(unravel(x), batch))(flat)), owners


@pytest.mark.slow
def test_blocks_of_curvature_are_those_of_the_dense_hessian(problem, dense):
    matrix, owners = dense
    layers = blocks(hessian(network_loss, *problem, batch_size=3))
    assert tuple(layers) == LAYERS
    for name, layer in layers.items():
        assert not isinstance(layer, RestrictedOperator)  # its matvec uses this layer only
        rows = owners == name
        assert_allclose(to_dense(layer), matrix[rows][:, rows], atol=1e-13)


def test_blocks_of_other_operators_pad_with_zeros(rng, float64):
    matrix = rng.normal(size=(6, 6))
    like = {"a": jnp.zeros(2), "b": (jnp.zeros((1, 3)), jnp.zeros(()))}
    unravel = jax.flatten_util.ravel_pytree(like)[1]
    op = as_operator(lambda v: unravel(jnp.asarray(matrix) @ jax.flatten_util.ravel_pytree(v)[0]), like=like)
    block = restrict(op, "b/*")
    assert isinstance(block, RestrictedOperator)
    assert block.structure["a"] is None
    assert_allclose(to_dense(block), matrix[2:, 2:], rtol=1e-14)
    assert_allclose(to_dense(restrict(block, "b/1")), matrix[5:, 5:], rtol=1e-14)
    assert restrict(op, "*") is op
    # A composed operator restricts the parts of each operand.
    diagonal = {"a": jnp.array([1.0, 2.0]), "b": (jnp.full((1, 3), 4.0), jnp.array(9.0))}
    composed = precondition((op + 2.0 * diagonal_operator(diagonal)).shift(0.5), diagonal)
    whole = to_dense(composed)
    assert_allclose(to_dense(restrict(composed, ["a", "b/1"])), whole[np.ix_([0, 1, 5], [0, 1, 5])], rtol=1e-14)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (None, {"enc/0": 2, "enc/1": 2, "": 1}),
        (1, {"enc": 4, "top": 1}),
        (3, {"enc/0/b": 1, "enc/0/w": 1, "enc/1/b": 1, "enc/1/w": 1, "top": 1}),
        (lambda path: path[-1] if "enc" in path else None, {"b": 2, "w": 2}),
        (["*/w", re.compile("enc/0")], {"*/w": 2, "enc/0": 1}),
    ],
)
def test_what_makes_a_layer(by, expected):
    layer = {"b": jnp.ones(1), "w": jnp.ones(1)}
    op = diagonal_operator({"enc": [layer, layer], "top": jnp.ones(1)})
    assert {name: block.size for name, block in blocks(op, by).items()} == expected


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        (0, ValueError, "by=0"),
        ("*", TypeError, "by='\\*'"),
        (["none"], ValueError, "'none' matches none"),
        (lambda path: None, ValueError, "none of the leaves.*'a'"),
    ],
)
def test_bad_layers_are_refused(by, error, message):
    with pytest.raises(error, match=message):
        blocks(diagonal_operator({"a": jnp.ones(1)}), by)


def test_nothing_selected_is_refused():
    with pytest.raises(ValueError, match="no leaf"):
        restrict(diagonal_operator({"a": jnp.ones(1)}), lambda path, leaf: False)


def test_padding_keeps_the_sharding():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    place = lambda x: jax.device_put(x, NamedSharding(mesh, P("x")))
    with jax.set_mesh(mesh):
        like = {"a": place(jnp.ones((8, 2))), "b": place(2 * jnp.ones((16,)))}
        op = as_operator(lambda v: jax.tree.map(lambda x, d: x * d, v, like), like=like)
        image = jax.jit(lambda op, v: op(v))(restrict(op, "b"), {"a": None, "b": like["b"]})
        assert image["b"].sharding.spec == P("x")
        assert_allclose(image["b"], 4.0)


def check_spectra(found, dense, k):
    matrix, owners = dense
    assert tuple(found) == LAYERS
    for name, result in found.items():
        rows = owners == name
        truth = np.linalg.eigvalsh(matrix[rows][:, rows])[::-1][:k]
        assert_allclose(result.eigenvalues, truth, atol=1e-8 * abs(matrix).max())
        assert bool(result.converged.all())
        vectors = np.concatenate([np.reshape(x, (len(truth), -1)) for x in jax.tree.leaves(result.eigenvectors)], 1)
        assert_allclose(matrix[rows][:, rows] @ vectors.T, vectors.T * truth, atol=1e-6 * abs(matrix).max())
        assert [name] == [path.split("/")[0] for path in paths_of(result.eigenvectors)][:1]


@pytest.mark.slow
def test_spectra_of_all_layers_are_those_of_the_dense_blocks(problem, dense):
    op = hessian(network_loss, *problem)
    found = block_spectra(op, k=4)
    check_spectra(found, dense, 4)
    assert found["last"].eigenvalues.shape == (3,)  # the layer has three parameters


@pytest.mark.slow
def test_spectra_start_from_those_of_before(problem, dense):
    op = hessian(network_loss, *problem)
    found = block_spectra(op, k=4)
    # The first solve includes a missed-pair search, so that the warm start skips it.
    warm = block_spectra(op, k=4, v0=found, verify=False)
    check_spectra(warm, dense, 4)
    assert all(warm[name].num_matvecs <= 5 for name in LAYERS[:3])


@pytest.mark.slow
def test_spectra_one_layer_after_another_in_a_program_compiled_once(problem, dense, counted_compilations):
    params, batch = problem
    traces, programs = [], []

    def counted(params, batch):
        traces.append(1)
        return network_loss(params, batch)

    for tol in (1e-9, 1e-10):
        check_spectra(block_spectra(hessian(counted, params, batch), k=4, simultaneous=1, tol=tol), dense, 4)
        programs.append(counted_compilations())
    assert len(traces) == 2  # one trace for each Hessian, not one for each layer
    assert programs[0] == programs[1]


@pytest.mark.slow
def test_layers_that_are_alike_are_one_program(problem):
    op = hessian(network_loss, *problem)
    loops = lambda program: jax.jit(program).lower(op).as_text().count("stablehlo.while")
    three, one = re.compile("hidden"), re.compile("hidden_0")
    together = loops(lambda op: block_spectra(restrict(op, three), k=2))
    apart = loops(lambda op: {name: eigsh(block, 2) for name, block in blocks(restrict(op, three)).items()})
    alone = loops(lambda op: eigsh(restrict(op, one), 2))
    assert together == alone
    assert apart == 3 * alone


@pytest.mark.slow
def test_spectra_have_derivatives(problem, dense):
    params, batch = problem
    total = lambda p: sum(r.eigenvalues[0] for n, r in block_spectra(hessian(network_loss, p, batch), k=1).items())
    matrix_of = lambda p: {n: to_dense(b) for n, b in blocks(hessian(network_loss, p, batch)).items()}
    truth = lambda p: sum(jnp.linalg.eigvalsh(matrix)[-1] for matrix in matrix_of(p).values())
    ours, theirs = jax.jit(jax.grad(total))(params), jax.jit(jax.grad(truth))(params)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-7, atol=1e-6 * abs(dense[0]).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"simultaneous": 0}, "simultaneous=0"), ({"v0": {}}, r"v0 has no result of the layers \['a'\]")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        block_spectra(diagonal_operator({"a": {"w": jnp.ones(2)}}), k=1, **options)
