"""Claim: with twice the parameters on twice the devices, each device holds and sends the same, from two devices on.

A network whose hidden units are sharded over 1, 2, 4 and 8 simulated devices, in proportion to their number. `bytes` is
the memory of arguments, results and temporaries on a device. `sent` counts the bytes of all collectives of a Lanczos
step on a device, and `own` those of the solver. The matvec's collectives are its outputs, whose number is constant.
On one device the program is different, and XLA allocates its temporaries differently.

    python -m benchmarks.scale.weak_scaling
"""

from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.support import compiled_program, sharded_problem, timing
from eigenjax import eigsh, hessian

DEVICES = (1, 2, 4, 8)


def row(mode: str, devices: int, width: int) -> dict[str, Any]:
    """Return the memory and traffic of a solve compiled for the given number of devices."""
    problem = sharded_problem.model_parallel(mode, devices, width=width * devices)

    def solve(params, batch):
        return eigsh(compiled_program.named(hessian(problem.loss, params, batch)), 2, krylov_dim=12)

    with jax.set_mesh(problem.mesh):
        program = jax.jit(solve).lower(problem.params, problem.batch).compile()
    memory, text = program.memory_analysis(), program.as_text()
    loops = [loop for loop in compiled_program.product_loops(text) if loop.is_innermost and loop.passes]
    of_solver = sum(one.bytes for loop in loops for one in (*loop.step, *loop.passes))
    return {
        "mode": mode,
        "devices": devices,
        "n": sum(leaf.size for leaf in jax.tree.leaves(problem.params)),
        "bytes": memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes,
        "sent": of_solver + sum(one.bytes for loop in loops for one in loop.product),
        "own": of_solver,
        "all_reduces": sum(len(loop.step) + len(loop.passes) for loop in loops),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Compile the programs, and count and record their bytes."""
    args = timing.arguments(__doc__, 1, argv)
    modes = ("auto",) if args.quick else tuple(sharded_problem.MODES)
    rows = [
        row(mode, devices, 256 if args.quick else 4096)
        for mode in modes
        for devices in (DEVICES[-2:] if args.quick else DEVICES)
    ]
    timing.record("weak_scaling", rows, args)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES[-1])
    main()
