"""Solver `svds` on operators of each form: pytrees, symmetric, small and sharded ones, and wrong arguments."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from eigenjax import Status, as_operator, svds
from eigenjax.operators.rectangular import as_rectangular

from .conftest import check_result

SLOW = pytest.mark.slow


@SLOW
@pytest.mark.parametrize(("p", "n"), [(1, 1), (5, 1), (1, 5)])
def test_the_smallest_operators(p, n):
    matrix = np.arange(1.0, p * n + 1).reshape(p, n).astype(np.float32) - 4
    check_result(svds(jnp.asarray(matrix), 1), matrix)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["derived", pytest.param("wrong", marks=SLOW)])
def test_pytrees_on_both_sides_and_one_trace(adjoint, rng):
    matrix = rng.standard_normal((7, 9)).astype(np.float32)

    def product(v):
        image = jnp.asarray(matrix) @ jnp.concatenate([v["a"].ravel(), v["b"][None], v["c"].astype(jnp.float32)])
        return image[:3], {"rest": image[3:].reshape(2, 2)}

    like = {"a": jnp.ones((2, 3)), "b": jnp.ones(()), "c": jnp.ones(2), "empty": jnp.ones(0)}
    if adjoint == "wrong":
        wrong = svds(product, 7, v0=like, adjoint=lambda u: jax.tree.map(jnp.ones_like, like))
        assert int(wrong.status) == Status.INCONSISTENT
        assert not np.any(wrong.converged)
        return
    result = svds(chex.assert_max_traces(product, n=1), 7, v0=like)
    check_result(result, matrix)
    assert jax.tree.map(jnp.shape, result.left) == ((7, 3), {"rest": (7, 2, 2)})
    assert jax.tree.map(jnp.shape, result.right) == {"a": (7, 2, 3), "b": (7,), "c": (7, 2), "empty": (7, 0)}
    wrong = svds(product, 7, v0=like, adjoint=lambda u: jax.tree.map(jnp.ones_like, like))
    assert int(wrong.status) == Status.INCONSISTENT
    assert not np.any(wrong.converged)


@SLOW
def test_a_symmetric_operator_has_the_moduli_of_its_eigenvalues(float64):
    result = svds(as_operator(jnp.diag(jnp.array([1.0, -5.0, 3.0, 0.0]))), 3)
    assert_allclose(result.values, [5, 3, 1], atol=1e-14)
    assert_allclose(jnp.sum(result.left * result.right, axis=1), [-1, 1, 1], atol=1e-14)


@SLOW
def test_one_basis_is_held_on_each_side():
    n, m, k = 40_000, 32, 5
    op = as_rectangular(lambda v: jnp.concatenate([v[1:] - v[:-1], v]), like=jnp.zeros(n))
    for options in ({}, {"verify": True}):
        solve = jax.jit(lambda op, options=options: svds(op, k, krylov_dim=m, **options))
        held = solve.lower(op).compile().memory_analysis().temp_size_in_bytes
        assert held <= (m + k + 3) * 4 * sum(op.shape)


@SLOW
@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
def test_sharded_vectors_stay_where_they_are(mode, rng):
    weights = rng.standard_normal((64, 32)).astype(np.float32)
    like = {"x": np.ones((32, 4), np.float32), "w": np.ones(16, np.float32)}
    mesh = jax.make_mesh((8,), ("d",), axis_types=(mode,))
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    def solve(weights, v0, sharding):
        def product(v):
            return {"y": jnp.einsum("ij,jk->ik", weights, v["x"], out_sharding=sharding), "z": 2 * v["w"]}

        return svds(product, 3, v0=v0, krylov_dim=12)

    alone = solve(jnp.asarray(weights), like, None)
    with jax.set_mesh(mesh):
        sharding = PartitionSpec("d", None) if mode == AxisType.Explicit else None
        program = jax.jit(lambda weights, v0: solve(weights, v0, sharding))
        placed = place(weights, "d", None), {"x": place(like["x"], None, None), "w": place(like["w"], "d")}
        compiled = program.lower(*placed).compile()
        together = compiled(*placed)
    assert "all-gather" not in compiled.as_text()
    assert "all-to-all" not in compiled.as_text()
    assert_allclose(together.values, alone.values, rtol=2e-6)
    for leaf in (together.left["y"], together.left["z"], together.right["w"]):
        assert leaf.addressable_shards[0].data.size == leaf.size // 8


WRONG = {
    "k too large": ({"k": 4}, ValueError, "k=4: the operator is 3 x 5, so choose 1 <= k <= 3"),
    "k zero": ({"k": 0}, ValueError, "choose 1 <= k <= 3"),
    "k float": ({"k": 2.0}, TypeError, "give an int, the number of triplets"),
    "krylov_dim small": ({"k": 2, "krylov_dim": 2}, ValueError, "k=2 triplets need krylov_dim >= 3"),
    "krylov_dim float": ({"k": 2, "krylov_dim": 9.0}, TypeError, "krylov_dim=9.0: give an int"),
    "budget": ({"k": 2, "max_matvecs": -1}, ValueError, "max_matvecs=-1: give 0 or more"),
    "budget float": ({"k": 2, "max_matvecs": 1.5}, TypeError, "max_matvecs=1.5: give an int"),
    "v0": ({"k": 2, "v0": jnp.ones(3)}, ValueError, r"v0: the array has shape \(3,\), but the operator needs \(5,\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_answered_by_name(case):
    options, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        svds(jnp.ones((3, 5)), **options)
