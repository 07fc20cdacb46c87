"""Claim: a TPU's compiler accepts every program, in the memory that its docstring promises, on chips and on pods.

Every public solver, estimator, gradient and product is compiled for TPU chips, which need not exist. `vectors` are the
temporaries of a device without those of a matvec, in vectors; `promised` is the number in the docstring, if there is
one. (A TPU stores flat vectors in tiles of eight, so that 20 take the memory of 24, and 10 that of 16.) `host_vectors`
are those in host memory; `gathers` and `reductions` count collectives, those of the matvec included. `total_GB` is all
that a device holds.

    python -m benchmarks.compilers.tpu [--quick] [--stages chip,mesh,model] [--out DIR]

One chip: an operator on 2^22 numbers in one array and in four leaves. Mesh: 33.5 million parameters in eight leaves on
4 x 4 chips (v5e), with Auto axes (FSDP) and Explicit axes (parameters sharded over four chips), and on 2 x 2 x 4 chips
(v5p). Model: the transformers of `estimates`, 1.3 and 9.9 billion parameters on 16 and 256 chips; `estimated_GB` is
what `estimate` says of them.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

import eigenjax
from benchmarks.compilers import problems, targets
from benchmarks.compilers.problems import Shapes
from benchmarks.compilers.programs import DENSE, PROGRAMS, SOLVES, K, M, loss_of, tracked
from benchmarks.compilers.targets import Target, row, row_of
from benchmarks.scale.estimates import SHAPES
from benchmarks.support import timing

Row = dict[str, Any]
_BATCH = (64, 32, 32)
# Programs that are compiled on a mesh.
_ON_MESH = ("lanczos", "eigsh", "eigsh, offload", "trace", "spectrum_tracker")
_PODS = {16: "v5e:4x4", 256: "v5e:16x16"}


def chip(quick: bool) -> Iterator[Row]:
    """Compile all programs for one chip."""
    target = targets.tpu("v5e:2x2")
    for kind, problem in {"flat": problems.flat(target), "leaves": problems.leaves(target)}.items():
        if not (quick and kind == "leaves"):
            yield from _programs(
                target, problem, kind, [name for name in PROGRAMS if not quick or PROGRAMS[name].is_quick]
            )
            yield from _gradients(target, problem, kind, [] if quick else list(SOLVES))
    for name, problem in [] if quick else problems.curvature(target).items():
        product = row(target, name, problem.product, *_with_vector(problem), vector=problem.vector)
        yield _with(product, "curvature", None)
    matrices = jax.ShapeDtypeStruct(_BATCH, jnp.float32, sharding=target.place)
    for name in ["eigh"] if quick else DENSE:
        yield _with(row(target, name, DENSE[name], matrices, vector=problems.shard_bytes(matrices)), "dense", None)


def mesh(quick: bool) -> Iterator[Row]:
    """Compile some programs for 16 chips."""
    kinds = (AxisType.Auto, AxisType.Explicit)
    for topology, kind in [("v5e:4x4", kind) for kind in kinds] + [("v5p:2x2x4", AxisType.Auto)] * (not quick):
        target = targets.tpu(topology)
        problem = problems.network(target, kind)
        yield from _programs(target, problem, kind.name, ["eigsh"] if quick else _ON_MESH)
        yield from _gradients(target, problem, kind.name, [] if quick else ["eigsh"])


def model(quick: bool) -> Iterator[Row]:
    """Compile a solve and a step of a tracker for the transformers of `estimates`."""
    pods = [] if quick else list(_PODS.items())
    for devices, topology in pods:
        target = targets.tpu(topology)
        problem = problems.language_model(target, SHAPES[devices])
        solve = lambda op: eigenjax.eigsh(op, 10)
        yield _with(_row(target, "eigsh, k = 10", problem, solve, 0), "model", None) | _estimated(problem, 10, None)
    for devices, topology in pods:
        target = targets.tpu(topology)
        problem, step = problems.language_model(target, SHAPES[devices]), lambda op: tracked(op, 1)
        yield _with(_row(target, "spectrum_tracker, k = 1", problem, step, 0), "model", None)


STAGES = {"chip": chip, "mesh": mesh, "model": model}


def _programs(target: Target, problem: Shapes, kind: str, names: Sequence[str]) -> Iterator[Row]:
    product = targets.compiled(target, problem.product, *_with_vector(problem), mesh=problem.mesh)
    yield _with(row_of(target, "matvec", product, problem.vector), kind, None)
    for name in names:
        program = PROGRAMS[name]
        found = _with(_row(target, name, problem, program.run, product.temporary), kind, program.promised)
        yield found | (_estimated(problem, K, M) if name == "eigsh" else {})


def _gradients(target: Target, problem: Shapes, kind: str, names: Sequence[str]) -> Iterator[Row]:
    def loss(solve, *arguments):
        return loss_of(solve(problem.build(*arguments)))

    gradient = jax.grad(lambda *arguments: _sum_of_squares(problem.product(*arguments)), argnums=1)
    product = targets.compiled(target, gradient, *_with_vector(problem), mesh=problem.mesh)
    for name in names:
        solve = SOLVES[name]
        function = jax.grad(lambda *arguments, solve=solve: loss(solve, *arguments))
        options = {"vector": problem.vector, "base": product.temporary, "mesh": problem.mesh}
        yield _with(row(target, f"gradient of {name}", function, *problem.arguments, **options), kind, None)


def _row(target: Target, name: str, problem: Shapes, run: Any, base: int) -> Row:
    function = lambda *arguments: run(problem.build(*arguments))
    return row(target, name, function, *problem.arguments, vector=problem.vector, base=base, mesh=problem.mesh)


def _estimated(problem: Shapes, k: int, krylov_dim: int | None) -> Row:
    with targets.on_mesh(problem.mesh):
        op = jax.eval_shape(problem.build, *problem.arguments)
        found = eigenjax.estimate(op, k, mesh=problem.mesh, krylov_dim=krylov_dim)
    return {"estimated_GB": found.total_bytes / 1e9}


def _with_vector(problem: Shapes) -> tuple[Any, ...]:
    return problem.arguments[0], *problem.arguments


def _sum_of_squares(vector: Any) -> jax.Array:
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(vector))


def _with(found: Row, kind: str, promised: float | None) -> Row:
    return {"target": found["target"], "kind": kind} | found | {"promised": promised, "estimated_GB": None}


def main(argv: Sequence[str] | None = None) -> None:
    """Compile all programs and record what the compiler says: a file for each stage, written after every row."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--stages", default=",".join(STAGES), help="which (default %(default)s)")
    given, remaining = options.parse_known_args(argv)
    args = timing.arguments(__doc__, 1, remaining)
    for stage in given.stages.split(","):
        rows: list[Row] = []
        for found in STAGES[stage](args.quick):
            rows.append(found)
            timing.write(f"compiled_for_tpu_{stage}", rows, args)
            print(timing.table(rows).splitlines()[-1], flush=True)
        if rows:
            timing.record(f"compiled_for_tpu_{stage}", rows, args)


if __name__ == "__main__":
    main()
