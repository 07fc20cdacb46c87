"""Eight simulated devices, programs compiled quickly, strict promotion of dtypes and ranks, and float64 on demand."""

import os
import pathlib

import jaxlib

# Nearly all of the time of the tests is XLA's, which compiles what then runs for milliseconds. Machine code that is
# not optimised takes it a quarter of that (half in later jaxlibs, which do not know the second flag). Flags set from
# outside come later, and hold.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if jaxlib.__version__.startswith("0.10.") else "",
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    )
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest

# Of a process under Linux, where the kernel allows 65,530: each compiled program takes about seven.
_MAX_MEMORY_MAPPINGS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    # XLA keeps every program that a jitted function has compiled; past the kernel's bound the next one crashes.
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MAX_MEMORY_MAPPINGS:
        jax.clear_caches()


# What these run is written as users write it, a bias added to a batch of rows among it.
_RANKS_ARE_PROMOTED = ("test_accelerator_benchmark", "test_benchmarks", "test_notebooks", "report", "runs")


@pytest.fixture(autouse=True)
def _strict_promotion(request):
    is_users = any(part in _RANKS_ARE_PROMOTED for part in request.path.with_suffix("").parts)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("allow" if is_users else "raise"):
        yield


@pytest.fixture
def float64():
    """Enables float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    """A NumPy generator, the same for every test."""
    return np.random.default_rng(0)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both working precisions; float64 enabled for the second."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture
def counted_compilations():
    """How many programs XLA has compiled since the test began."""
    compiled = []
    listen = lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(compiled)
    jax.monitoring.unregister_event_duration_listener(listen)
