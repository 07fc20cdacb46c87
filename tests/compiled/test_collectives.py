"""Collectives, memory and results of compiled programs with FSDP sharding on 4 x 2 simulated devices."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from eigenjax import hessian, to_dense
from eigenjax.spectrum.probing.probes import random_signs, random_sphere
from eigenjax.vectors.placement import placed_like
from eigenjax.vectors.pseudorandom import arbitrary_vector

MODES = ("auto", "explicit")
# Solvers that take Lanczos, Arnoldi or bidiagonalization steps.
KRYLOV = ("eigsh", "eigsh, verified", "eigsh, near", "eigsh, bfloat16 basis", "lanczos", "eigs", "density")
OTHERS = ("eigsh, block of 2", "eigsh, recomputed basis", "power", "svds", "trace", "tracker")
# Each case runs in 1 s and compiles in 15 s: one case always runs, the others are marked slow.
QUICK = {("eigsh", "auto")}
CASES = [
    pytest.param(name, mode, marks=[] if (name, mode) in QUICK else [pytest.mark.slow])
    for name in KRYLOV + OTHERS
    for mode in MODES
]


@pytest.fixture
def benchmark(monkeypatch):
    """Return an import function for the modules of benchmarks/."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_step_sends_a_few_small_sums_and_no_vector(benchmark, name, mode):
    collectives, problems = benchmark("scale.collectives"), benchmark("support.sharded_problem")
    problem = problems.fully_sharded(mode, width=16)
    program = collectives.compiled(name, problem)
    rows = collectives.rows_of(name, mode, problem, program, with_share=False)
    assert rows
    for row in rows:
        assert row["others"] == 0
        # In units of vectors (1,184 numbers): the largest sum is a Gram matrix of 12 rows for each of four leaves.
        assert row["largest"] <= 4 * 12**2 / 1184
        if name in KRYLOV and row["innermost"]:
            assert row["step"] + row["passes"] <= 3
    if name == "eigsh":
        single = problems.fully_sharded("auto", (1, 1), width=16)
        check_pairs(problem, single, problems.numbers(problem), program)


def check_pairs(problem, single, numbers, program):
    """Compare the pairs with the dense matrix, and check that they are sharded like the parameters."""
    with jax.set_mesh(single.mesh):
        alone = jax.jit(lambda p, b: to_dense(hessian(single.loss, p, b)))(*single.placed(*numbers))
    result = program(*problem.placed(*numbers))
    matrix = np.asarray(alone, np.float64)
    expected = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1][:3]
    assert_allclose(result.eigenvalues, expected, rtol=1e-5)
    for name, x in result.eigenvectors.items():
        if name == "head" and problem.mesh.axis_types[0] is AxisType.Auto and jax.__version_info__ >= (0, 12):
            assert x.sharding.is_fully_replicated, "the compiler shards this leaf again: remove the exception"
            continue
        like = problem.params[name].sharding
        assert x.sharding.is_equivalent_to(NamedSharding(problem.mesh, P(None, *like.spec)), x.ndim), name
        assert x.addressable_shards[0].data.size == x.size // problem.parts
    flat = np.concatenate([np.asarray(x, np.float64).reshape(3, -1) for x in jax.tree.leaves(result.eigenvectors)], 1)
    assert np.linalg.norm(flat @ matrix - expected[:, None] * flat, axis=1).max() < 1e-3 * expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_sends_small_sums_and_is_that_of_one_device(benchmark, mode):
    collectives, problems = benchmark("scale.collectives"), benchmark("support.sharded_problem")
    name, problem, single = "eigsh, gradient", *(problems.fully_sharded(mode, sizes) for sizes in ((4, 2), (1, 1)))
    program = collectives.compiled(name, problem)
    rows = collectives.rows_of(name, mode, problem, program, with_share=False)
    for row in rows:
        assert row["others"] == 0
    # The loops are the Lanczos steps and the linear solves.
    # A step of the solves needs four sums for all pairs at once, and two for the norm of each pair.
    lanczos, solves = sorted((row for row in rows if row["passes"]), key=lambda row: row["step"])
    assert lanczos["step"] + lanczos["passes"] <= 3
    assert solves["step"] <= 4
    assert solves["passes"] <= 2
    numbers = problems.numbers(problem)
    together, alone = program(*problem.placed(*numbers)), collectives.compiled(name, single)(*single.placed(*numbers))
    largest = max(np.abs(x).max() for x in jax.tree.leaves(alone))
    for leaf, x in together.items():
        assert_allclose(x, alone[leaf], atol=1e-3 * largest)
        assert x.sharding.is_equivalent_to(problem.params[leaf].sharding, x.ndim), leaf


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["eigsh", "eigsh, gradient"])
def test_a_device_holds_its_part_of_the_vectors(benchmark, name, mode):
    collectives, problems = benchmark("scale.collectives"), benchmark("support.sharded_problem")
    program = collectives.compiled(name, problems.fully_sharded(mode))
    assert collectives.share(name, mode, program) <= 1.25


@pytest.mark.slow
def test_weak_scaling_is_flat(benchmark):
    rows = [benchmark("scale.weak_scaling").row("auto", devices, 1024) for devices in (1, 2, 4, 8)]
    sizes, sent = [row["bytes"] for row in rows], [row["sent"] for row in rows[1:]]
    assert max(sizes[1:]) <= 1.05 * min(sizes[1:])
    assert max(sent) <= 1.05 * min(sent)
    # XLA places the temporaries of the one-device program otherwise: with more of them, by a measured 6%.
    assert 0.8 * sizes[1] <= sizes[0] <= 1.1 * sizes[1]


@pytest.mark.parametrize("mode", MODES)
def test_microbatches_are_shared_among_the_devices(benchmark, mode):
    programs, problem = (
        benchmark("support.compiled_program"),
        benchmark("support.sharded_problem").fully_sharded(mode, examples=64),
    )
    product = lambda params, batch: programs.named(hessian(problem.loss, params, batch, batch_size=32))(params)
    with jax.set_mesh(problem.mesh):
        program = jax.jit(product).lower(problem.params, problem.batch).compile()
    # In hidden layers of 64 units, each device holds four of the 32 examples in a microbatch.
    assert "f32[4,64]" in program.as_text()
    assert "f32[32,64]" not in program.as_text()
    assert {one.kind for one in programs.collectives(program.as_text())} >= {"all-reduce"}


@pytest.mark.parametrize("draw", [arbitrary_vector, random_signs, random_sphere])
def test_random_vectors_are_drawn_where_they_lie(draw):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    params = jax.ShapeDtypeStruct((1024, 64), np.float32, sharding=NamedSharding(mesh, P("model")))

    def drawn(key, params):
        return placed_like(draw(key, jax.ShapeDtypeStruct(params.shape, params.dtype)), params)

    program = jax.jit(drawn).lower(jax.random.key(0), params).compile()
    # No device holds an array of the full size, and none is sent.
    for whole in ("[1024,64]", "[65536]", "all-gather", "all-to-all", "collective-permute"):
        assert whole not in program.as_text()
    assert program.output_shardings.is_equivalent_to(params.sharding, 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_is_placed_like_another_and_keeps_its_numbers(mode):
    types = {"auto": jax.sharding.AxisType.Auto, "explicit": jax.sharding.AxisType.Explicit}
    mesh = jax.make_mesh((8,), ("model",), axis_types=(types[mode],))
    like = jax.device_put(np.array([np.inf, np.nan, -np.inf, 0] * 4, np.float32), NamedSharding(mesh, P("model")))
    x = np.arange(16, dtype=np.float32)
    with jax.set_mesh(mesh):
        placed = jax.jit(lambda like: placed_like(jax.numpy.asarray(x), like))(like)
        gradient = jax.grad(lambda like: jax.numpy.sum(placed_like(2 * like, like)))(like)
    assert_allclose(placed, x)
    assert_allclose(gradient, np.full(16, 2, np.float32))
    if mode == "auto":
        assert placed.sharding.is_equivalent_to(like.sharding, 1)
    transposed = jax.linear_transpose(lambda x: placed_like(x, like), like)
    assert_allclose(transposed(like)[0], like)
