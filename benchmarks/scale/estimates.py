"""Claim: the memory and traffic of a solve on hundreds of devices are estimated in advance, without these devices.

`estimate` of the Hessian of the transformer of `large_operator`, k = 10, from shapes alone: the program is compiled for
simulated devices, nothing runs and no array is created. Parameters are sharded over all devices along one
axis, and the examples along theirs (one for each device, of 64 tokens). All columns are in GB of one device; `network`
is what one matvec sends.

    python -m benchmarks.scale.estimates
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import eigenjax
from benchmarks.scale.large_operator import TOKENS, Shape, loss, structure
from benchmarks.support import timing
from eigenjax.vectors.tree import size

K = 10
# Shapes by the number of devices.
SHAPES = {1: Shape(1024, 12, 48_000), 16: Shape(2048, 24, 51_200), 256: Shape(4096, 48, 51_200)}
QUICK = {1: Shape(128, 2, 640), 4: Shape(128, 2, 640)}
_GB = 1e9


def estimated(num_devices: int, shape: Shape) -> dict[str, Any]:
    """Return one row, in a process with the given number of devices."""
    mesh = jax.make_mesh((num_devices,), ("all",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("all"))
    tokens = jax.ShapeDtypeStruct((num_devices, TOKENS + 1), jnp.int32, sharding=spread)
    make = lambda params, tokens: eigenjax.hessian(loss, params, tokens)
    op = jax.eval_shape(make, structure(shape), tokens)
    needed = eigenjax.estimate(op, K, mesh=mesh)
    return {
        "parameters": size(structure(shape)),
        "devices": num_devices,
        "operator": needed.operator_bytes / _GB,
        "product": needed.matvec_bytes / _GB,
        "solver": needed.solver_bytes / _GB,
        "total": needed.total_bytes / _GB,
        "network": needed.network_bytes / _GB,
        "fewest_products": needed.num_matvecs[0],
    }


def in_a_process(num_devices: int, quick: bool) -> dict[str, Any]:
    """Return one row from a new process, because the number of simulated devices is fixed at its start."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
    shape = (QUICK if quick else SHAPES)[num_devices]
    program = "import json; from benchmarks.scale.estimates import *; "
    program += f"print(json.dumps(estimated({num_devices}, {shape})))"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    ).stdout
    return json.loads(printed.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Estimate the memory and record it."""
    args = timing.arguments(__doc__, 1, argv)
    rows = [in_a_process(num_devices, args.quick) for num_devices in (QUICK if args.quick else SHAPES)]
    timing.record("estimates", rows, args)


if __name__ == "__main__":
    main()
