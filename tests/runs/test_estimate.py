"""Estimates before a solve, against the compiler's analysis of the whole solve."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from eigenjax import eigsh, estimate, hessian
from eigenjax.runs.estimate import moved_bytes


def loss(params, batch):
    return jnp.mean((jnp.tanh(batch @ params["inner"]) @ params["outer"]) ** 2)


SHAPES = {
    "inner": jax.ShapeDtypeStruct((64, 512), jnp.float32),
    "outer": jax.ShapeDtypeStruct((512, 8), jnp.float32),
}
DATA = jax.ShapeDtypeStruct((32, 64), jnp.float32)


def network(params, data):
    return hessian(loss, params, data)


@pytest.mark.slow
def test_estimated_memory_agrees_with_the_compiler():
    op = jax.eval_shape(network, SHAPES, DATA)
    estimated = estimate(op, 3, krylov_dim=30)
    solve = jax.jit(lambda op: eigsh(op, 3, krylov_dim=30)).lower(op).compile().memory_analysis()
    truth = solve.argument_size_in_bytes + solve.temp_size_in_bytes + solve.output_size_in_bytes
    assert estimated.operator_bytes == solve.argument_size_in_bytes == 4 * (64 * 512 + 512 * 8 + 32 * 64)
    assert 0.8 < estimated.total_bytes / truth < 1.25
    assert estimated.network_bytes == 0
    assert estimated.num_matvecs == (6, 10_000)


def test_on_a_mesh_the_estimate_is_for_one_device():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    op = jax.eval_shape(network, SHAPES, DATA)
    alone, together = estimate(op, 3), estimate(op, 3, mesh=mesh)
    assert together.solver_bytes == alone.solver_bytes // 8
    assert together.operator_bytes == alone.operator_bytes // 8
    assert together.network_bytes > 0
    # The operator's data cross the network a few times at most.
    assert together.network_bytes < 10 * alone.operator_bytes


def test_moved_bytes_counts_the_outputs_of_collectives():
    assert moved_bytes("%a = f32[8,4]{1,0} all-gather(%b), dimensions={0}") == 128
    assert moved_bytes("%a = bf16[3]{0} all-reduce-start(%b)\n%c = f32[3]{0} add(%a, %a)") == 12
    assert moved_bytes("%a = (s32[], pred[4]) collective-permute(%b, %c)") == 8


def test_arguments_are_checked_as_those_of_eigsh():
    op = jax.eval_shape(network, SHAPES, DATA)
    with pytest.raises(ValueError, match="krylov_dim=2"):
        estimate(op, 3, krylov_dim=2)
