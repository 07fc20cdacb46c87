"""Claim: several processes, each with its own devices, compute the same results as one process, up to rounding.

Processes on this machine are joined by `jax.distributed.initialize` over loopback, with the gloo collectives of the CPU
backend. Parameters are sharded over the devices of all processes. The results are compared with those of one process on
one device: the eigenvalues of `eigsh` and of `lanczos`, the vectors of `eigsh` (their signs are fixed), its gradient,
and the result of `run` on streamed data, with checkpoints that all processes write together. `difference` is the
largest difference of two numbers over the largest number.

    python -m benchmarks.scale.processes --processes 2 --devices 2
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Time limit of the workers in seconds: if one fails, the others would wait for it forever.
_LIMIT = 900


def environment(devices: int) -> dict[str, str]:
    """Return the environment of a worker: the number of simulated CPU devices, and the launcher's flags."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def launch(processes: int, devices: int, folder: Path) -> dict[str, Any]:
    """Run the workers, and return the results of the first one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "benchmarks.scale.processes",
        "--worker",
        str(folder),
        "--processes",
        str(processes),
    ]
    command += ["--devices", str(devices), "--port", str(port)]
    workers = [
        subprocess.Popen(
            [*command, "--index", str(index)],
            env=environment(devices),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(processes)
    ]
    try:
        printed = [worker.communicate(timeout=_LIMIT)[0].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    if any(worker.returncode for worker in workers):
        raise RuntimeError("a worker failed:\n" + "\n".join(printed))
    return json.loads((folder / f"{processes}.json").read_text())


def work(arguments: argparse.Namespace) -> None:
    """Run the same program in each process, on its part of the arrays."""
    import jax

    if arguments.processes > 1:
        # The CPU backend needs these options; accelerators need none of them.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{arguments.port}", arguments.processes, arguments.index)
    from benchmarks.support.process_problem import solved

    found = solved(arguments.worker / f"checkpoints-{arguments.processes}")
    if arguments.index == 0:
        (arguments.worker / f"{arguments.processes}.json").write_text(json.dumps(found))


def compare(processes: int, devices: int) -> list[dict[str, Any]]:
    """Return a row for each result."""
    import numpy as np

    with tempfile.TemporaryDirectory() as name:
        alone = launch(1, 1, Path(name))
        together = launch(processes, devices, Path(name))
    rows = []
    for key, value in alone.items():
        one, other = np.asarray(value), np.asarray(together[key])
        worst = float(np.abs(one - other).max() / np.abs(one).max())
        rows.append({"result": key, "processes": processes, "devices": processes * devices, "difference": worst})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Launch the workers, or run as one of them."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--devices", type=int, default=2, help="of each process")
    options.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options_given, remaining = options.parse_known_args(argv)
    if options_given.worker is not None:
        work(options_given)
        return
    from benchmarks.support import timing

    args = timing.arguments(__doc__, 1, remaining)
    timing.record("processes", compare(options_given.processes, options_given.devices), args)


if __name__ == "__main__":
    main()
