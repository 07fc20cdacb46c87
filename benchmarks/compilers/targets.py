"""Devices to compile for, and what the compiler says of a program."""

import contextlib
import functools
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, SingleDeviceSharding

from benchmarks.support import compiled_program

_ERROR_LENGTH = 200
_GB = 1e9
_TOTAL = re.compile(r"Memory Space: default \(color=0\)\s+Total bytes: (\d+)")
# An H100, as XLA prints it.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 9 }
"""


class Target(NamedTuple):
    """Devices of one kind."""

    name: str
    platform: str  # for which programs are lowered
    devices: tuple[Any, ...]
    options: dict[str, str]  # of the compiler

    @property
    def place(self) -> SingleDeviceSharding:
        """Return the sharding of an array on the first device."""
        return SingleDeviceSharding(self.devices[0])

    def mesh(self, axes: dict[str, int], kind: AxisType) -> Mesh:
        """Return a mesh over all devices, with the sizes of its axes by their names."""
        devices = np.array(self.devices).reshape(*axes.values())
        return Mesh(devices, tuple(axes), axis_types=(kind,) * len(axes))


@functools.cache
def tpu(topology: str) -> Target:
    """Describe the chips of a topology such as "v5e:4x4"; an error if no TPU compiler is installed."""
    return Target(topology, "tpu", tuple(topologies.get_topology_desc(topology, platform="tpu").devices), {})


@functools.cache
def h100() -> Target:
    """Describe one H100; an error if no CUDA plugin is installed."""
    found = topologies.get_topology_desc("H100", platform="cuda", target_config=_H100, topology="1x1x1")
    # Kernels are not tuned, because there is no device to time them on.
    return Target("H100", "cuda", tuple(found.devices), {"xla_gpu_autotune_level": "0"})


class Figures(NamedTuple):
    """Figures of a compiled program; bytes are those of one device."""

    seconds: float  # tracing, lowering and compiling
    temporary: int  # bytes beside arguments and results
    on_host: int  # bytes of temporaries in host memory
    total: int  # arguments, results that are no arguments, and temporaries
    gathers: int  # collectives that move whole arrays: gathers, all-to-alls, permutes
    reductions: int
    text: str


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Return a context in which programs are on this mesh; None changes nothing."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def compiled(target: Target, function: Callable, *shapes: Any, mesh: Mesh | None = None) -> Figures:
    """Compile a function of arguments with these shapes and shardings."""
    start = time.perf_counter()
    with on_mesh(mesh), tempfile.TemporaryDirectory() as dump:
        traced = jax.jit(function).trace(*shapes)
        lowered, options = traced.lower(lowering_platforms=(target.platform,)), dict(target.options)
        if target.platform == "tpu":
            options |= {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
        program = lowered.compile(compiler_options=options)
        seconds, memory, text = time.perf_counter() - start, program.memory_analysis(), program.as_text() or ""
        total = _allocated(Path(dump))
    kinds = [one.kind for one in compiled_program.collectives(text)]
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    others = memory.argument_size_in_bytes + results
    total = others + memory.temp_size_in_bytes if total is None else total
    return Figures(
        seconds=seconds,
        temporary=total - others,
        on_host=memory.host_temp_size_in_bytes,
        total=total,
        gathers=sum(kind != "all-reduce" for kind in kinds),
        reductions=sum(kind == "all-reduce" for kind in kinds),
        text=text,
    )


def _allocated(dump: Path) -> int | None:
    """Return the bytes that a program allocates on a TPU, of its compiler's report.

    The temporaries in `memory_analysis` count some buffers twice that do not live at the same time.
    """
    reports = [path.read_text() for path in dump.glob("*memory-usage-report.txt")]
    found = [int(match[1]) for report in reports if (match := _TOTAL.search(report))]
    return max(found, default=None)


def row(
    target: Target, name: str, function: Callable, *shapes: Any, vector: int, base: int = 0, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Compile a program, and return its figures or the compiler's error.

    Args:
        target: the devices.
        name: name of the program.
        function: the program.
        *shapes: shapes of its arguments, with shardings.
        vector: bytes of one vector on a device.
        base: bytes of a matvec's temporaries, which are subtracted.
        mesh: mesh of the program.
    """
    try:
        found = compiled(target, function, *shapes, mesh=mesh)
    except Exception as error:  # any error of a compiler
        columns = ("compile_s", "vectors", "host_vectors", "total_GB", "gathers", "reductions")
        message = " ".join(f"{type(error).__name__}: {error}".split())[:_ERROR_LENGTH]
        return {"target": target.name, "program": name} | dict.fromkeys(columns) | {"error": message}
    return row_of(target, name, found, vector, base)


def row_of(target: Target, name: str, found: Figures, vector: int, base: int = 0) -> dict[str, Any]:
    """Return the figures of a compiled program in vectors."""
    return {
        "target": target.name,
        "program": name,
        "compile_s": round(found.seconds, 1),
        "vectors": (found.temporary - base) / vector,
        "host_vectors": found.on_host / vector,
        "total_GB": found.total / _GB,
        "gathers": found.gathers,
        "reductions": found.reductions,
        "error": "",
    }
