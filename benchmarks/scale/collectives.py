"""Claim: besides the matvec's own collectives, a step sends a few small sums between devices; no vector is replicated.

Each program is compiled for 8 simulated devices, 4 x 2. The parameters of a residual network are sharded over the first
axis and gathered one layer at a time, its examples over both axes (FSDP). For each loop with matvecs the columns are:

- `step`: the all-reduces of a step;
- `passes`: those of a Gram-Schmidt pass within it (one pass is typical, two follow a restart); in the linear solves of
  a gradient, the norm of one solution;
- `rare`: those of operations that seldom run;
- `product`: the collectives of the matvec;
- `others`: all-gathers, all-to-alls and permutes outside the matvec, anywhere in the program;
- `largest`: the largest all-reduce outside the matvec, in vectors;
- `share`: the temporaries of a device without those of a matvec, relative to those of one device alone divided by the
  number of devices that share the parameters; 0 if it was not computed.

    python -m benchmarks.scale.collectives
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.support import compiled_program, sharded_problem, timing
from benchmarks.support.sharded_problem import Sharded
from eigenjax import (
    deflated_power_iteration,
    eigs,
    eigsh,
    hessian,
    lanczos,
    spectral_density,
    spectrum_tracker,
    svds,
    trace,
)
from eigenjax.operators.base import LinearOperator

DEVICES = 8
# Programs whose memory is compared with that of one device.
MEASURED = ("eigsh", "eigsh, gradient")


def gradient(op_of: Callable, params: Any, batch: Any) -> Any:
    """Compute the gradient of a loss of eigenvalues and eigenvectors."""

    def objective(params):
        result = eigsh(op_of(params, batch), 2, krylov_dim=12, verify=False)
        return jnp.sum(result.eigenvalues) + jnp.sum(result.eigenvectors["head"] ** 4)

    return jax.grad(objective)(params)


def tracked(op: LinearOperator) -> Any:
    """Run one update of a tracker."""
    tracker = spectrum_tracker(2)
    return tracker.update(op, tracker.init(op))


def of_operator(solve: Callable[[LinearOperator], Any]) -> Callable:
    """Convert a program of an operator to a program of parameters and batch."""
    return lambda op_of, params, batch: solve(op_of(params, batch))


PROGRAMS = {
    "eigsh": of_operator(lambda op: eigsh(op, 3, krylov_dim=12, verify=False)),
    "eigsh, gradient": gradient,
    "eigsh, verified": of_operator(lambda op: eigsh(op, 2, krylov_dim=12, verify=True)),
    "eigsh, near": of_operator(lambda op: eigsh(op, 2, krylov_dim=12, sigma=0.1, verify=False)),
    "eigsh, block of 2": of_operator(lambda op: eigsh(op, 2, krylov_dim=12, block_size=2, verify=False)),
    "eigsh, bfloat16 basis": of_operator(lambda op: eigsh(op, 2, krylov_dim=12, basis_dtype="bfloat16")),
    "eigsh, recomputed basis": of_operator(lambda op: eigsh(op, 2, basis="recompute")),
    "lanczos": of_operator(lambda op: lanczos(op, 2, krylov_dim=12)),
    "power": of_operator(lambda op: deflated_power_iteration(op, 2)),
    "eigs": of_operator(lambda op: eigs(op, 2, krylov_dim=12)),
    "svds": of_operator(lambda op: svds(op, 2, krylov_dim=12)),
    "density": of_operator(lambda op: spectral_density(op, key=jax.random.key(0), num_probes=2, krylov_dim=8)),
    "trace": of_operator(lambda op: trace(op, key=jax.random.key(0), num_matvecs=8)),
    "tracker": of_operator(tracked),
}


def compiled(name: str, problem: Sharded) -> Any:
    """Compile the program for the problem's devices."""
    op_of = lambda params, batch: compiled_program.named(hessian(problem.loss, params, batch))
    with jax.set_mesh(problem.mesh):
        return jax.jit(functools.partial(PROGRAMS[name], op_of)).lower(problem.params, problem.batch).compile()


def temporaries(program: Any) -> int:
    """Return the bytes of a device's memory beside arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def of_one_product(problem: Sharded) -> int:
    """Return the bytes of a device's memory beside arguments and results, for one matvec."""
    product = lambda params, batch: hessian(problem.loss, params, batch)(params)
    with jax.set_mesh(problem.mesh):
        return temporaries(jax.jit(product).lower(problem.params, problem.batch).compile())


@functools.cache
def alone(name: str) -> int:
    """Return the bytes of the solver's temporaries on one device."""
    single = sharded_problem.fully_sharded("auto", (1, 1))
    return temporaries(compiled(name, single)) - of_one_product(single)


def share(name: str, mode: str, program: Any) -> float:
    """Compute a device's memory for the solver relative to its share of the memory on one device."""
    together = sharded_problem.fully_sharded(mode)
    return (temporaries(program) - of_one_product(together)) / (alone(name) / together.parts)


def rows_of(name: str, mode: str, problem: Sharded, program: Any, *, with_share: bool) -> list[dict[str, Any]]:
    """Return a row for each loop of a compiled program that contains matvecs."""
    text = program.as_text()
    of_solver = [one for one in compiled_program.collectives(text) if not one.is_product]
    vector = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(problem.params))
    whole = {
        "others": sum(one.kind != "all-reduce" for one in of_solver),
        "largest": max((one.bytes for one in of_solver), default=0) / vector,
        "temporaries": temporaries(program),
        "share": share(name, mode, program) if with_share else 0.0,
    }
    loops = compiled_program.product_loops(text)
    return [
        {
            "program": name,
            "mode": mode,
            "loop": f"{i} of {len(loops)}",
            "innermost": loop.is_innermost,
            "step": len(loop.step),
            "passes": len(loop.passes),
            "rare": len(loop.rare),
            "bytes": sum(one.bytes for one in (*loop.step, *loop.passes)),
            "of_product": len(loop.product),
            **whole,
        }
        for i, loop in enumerate(loops, 1)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Compile the programs, and count and record their collectives."""
    args = timing.arguments(__doc__, 1, argv)
    rows = []
    for name in list(PROGRAMS)[:1] if args.quick else PROGRAMS:
        with_share = name in MEASURED and not args.quick
        # The tests compile the other programs for Explicit axes.
        for mode in sharded_problem.MODES if name == "eigsh" and not args.quick else ("auto",):
            problem = sharded_problem.fully_sharded(mode)
            rows += rows_of(name, mode, problem, compiled(name, problem), with_share=with_share)
            print(timing.table(rows[-1:]), flush=True)
    timing.record("collectives", rows, args)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES)
    main()
