"""Selection of parameters by path: globs, regular expressions, lists of them, and errors that list the paths."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from eigenjax import hessian, to_dense
from eigenjax.operators.parts.selection import chosen, merge, part_like, partition, paths_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Scale:
    gain: jax.Array


PARAMS = {
    "params": {
        "Dense_0": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))},
        "Dense_1": {"bias": jnp.ones(1), "kernel": jnp.ones((2, 1))},
        "layers": [Scale(jnp.ones(2)), (jnp.ones(1), jnp.ones(2))],
    },
    "table": jnp.arange(3, dtype=jnp.int32),
}
PATHS = [
    "params/Dense_0/bias",
    "params/Dense_0/kernel",
    "params/Dense_1/bias",
    "params/Dense_1/kernel",
    "params/layers/0/gain",
    "params/layers/1/0",
    "params/layers/1/1",
    "table",
]


def names(select):
    return [path for path, keep in zip(PATHS, chosen(PARAMS, select), strict=True) if keep]


def test_paths_of_dicts_lists_and_attributes():
    assert paths_of(PARAMS) == PATHS
    assert paths_of(jnp.ones(3)) == [""]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("*/kernel", [PATHS[1], PATHS[3]]),
        ("**/kernel", [PATHS[1], PATHS[3]]),
        ("params/Dense_0/**", PATHS[:2]),
        ("params/Dense_?/bias", [PATHS[0], PATHS[2]]),
        ("params/layers/[01]/[1g]*", [PATHS[4], PATHS[6]]),
        ("table", ["table"]),
        (re.compile(r"Dense_\d/k"), [PATHS[1], PATHS[3]]),
        (re.compile("^t"), ["table"]),
        (["*/gain", re.compile("Dense_1")], PATHS[2:5]),
        (("table", lambda path, leaf: leaf.shape == (3, 2)), [PATHS[1], "table"]),
        (lambda path, leaf: leaf.ndim == 2, [PATHS[1], PATHS[3]]),
    ],
)
def test_a_leaf_is_selected_by_its_path(select, expected):
    assert names(select) == expected


def test_paths_of_an_nnx_state_leave_the_variable_out():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])

    state = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    assert paths_of(state) == ["layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"]
    assert chosen(state, "*/kernel") == [False, True, False, True]


def test_a_part_and_the_rest_make_the_whole():
    varying, constant = partition(PARAMS, "*")
    assert varying["table"] is None
    assert constant["params"]["Dense_0"] == {"bias": None, "kernel": None}
    chex.assert_trees_all_equal(merge(varying, constant), PARAMS)
    bias_only = partition(PARAMS, "*/bias")[0]
    part = part_like(PARAMS, bias_only)
    assert jax.tree.structure(part) == jax.tree.structure(bias_only)


@pytest.mark.parametrize(
    ("select", "error", "message"),
    [
        ("kernel", ValueError, r"'kernel' matches none of the leaves 'params/Dense_0/bias'.*'table'; .*whole path"),
        (re.compile("^kernel"), ValueError, r"re.compile\('\^kernel'\) matches none"),
        (["*/kernel", "*/bais"], ValueError, r"'\*/bais' matches none"),
        ("table", ValueError, "no floating-point leaf of params"),
        ([], TypeError, r"select=\[\]"),
        (3, TypeError, "select=3"),
    ],
)
def test_a_pattern_without_a_leaf_is_an_error(select, error, message):
    with pytest.raises(error, match=message):
        partition(PARAMS, select)


def test_an_error_lists_a_few_of_many_paths():
    with pytest.raises(ValueError, match=r"'layer_019' and 80 more; "):
        partition({f"layer_{i:03}": jnp.ones(1) for i in range(100)}, "none")


def test_hessian_takes_a_pattern(float64):
    params = {"a": {"w": jnp.array([1.0, 2.0])}, "b": {"w": jnp.array([3.0])}}
    op = hessian(lambda p: jnp.sum(p["a"]["w"] ** 3) * p["b"]["w"][0], params, select="a/*")
    assert op.structure["b"]["w"] is None
    assert_allclose(to_dense(op), [[18.0, 0], [0, 36.0]])
