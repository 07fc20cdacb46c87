"""A cross-section of the solvers, compiled for a TPU and an H100 by their compilers, where these are installed.

A compiler is looked for in this environment, and in that of the interpreter that EIGENJAX_TPU_PYTHON or
EIGENJAX_GPU_PYTHON names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = {"tpu": "libtpu", "gpu": "jax_cuda12_plugin"}
# Memory of a program over what its docstring promises: on 16 chips gathered parameters come on top.
LARGEST_SHARE = 1.05
# Error of `estimate`. For a network as small as this one gathered parameters are an eighth of the memory.
LARGEST_ERROR = 0.15


@pytest.fixture(scope="module")
def rows(request, tmp_path_factory):
    kind = request.param
    python = os.environ.get(f"EIGENJAX_{kind.upper()}_PYTHON")
    if python is None:
        pytest.importorskip(PLUGINS[kind], reason=f"no compiler for a {kind.upper()} is installed")
        python = sys.executable
    out = tmp_path_factory.mktemp(kind)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    command = [python, "-m", f"benchmarks.compilers.{kind}", "--quick", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment)
    return [row for path in sorted(out.iterdir()) for row in json.loads(path.read_text())["rows"]]


of_tpu = pytest.mark.parametrize("rows", ["tpu"], indirect=True)
of_gpu = pytest.mark.parametrize("rows", ["gpu"], indirect=True)


@of_tpu
def test_tpu_compiler_accepts_every_program(rows):
    assert {row["kind"] for row in rows} == {"flat", "dense", "Auto", "Explicit"}
    assert [row["error"] for row in rows if row["error"]] == []


@of_tpu
def test_tpu_holds_the_vectors_that_docstrings_promise(rows):
    promised = [row for row in rows if row["promised"] is not None]
    assert len(promised) >= 4
    for row in promised:
        assert 0 < row["vectors"] <= LARGEST_SHARE * row["promised"], row


@of_tpu
def test_offloaded_basis_is_in_host_memory_of_a_tpu(rows):
    (row,) = [row for row in rows if row["program"] == "eigsh, offload"]
    assert row["host_vectors"] >= 20
    (plain,) = [row for row in rows if row["program"] == "eigsh" and row["kind"] == "flat"]
    assert plain["host_vectors"] == 0


@of_tpu
def test_solver_gathers_nothing_beside_its_matvecs(rows):
    gathers = {(row["kind"], row["program"]): row["gathers"] for row in rows}
    # A solve has matvecs at two places: at a step and for the residuals. XLA may gather a parameter for each.
    assert gathers["Auto", "eigsh"] <= 2.5 * gathers["Auto", "matvec"]
    assert gathers["Explicit", "eigsh"] == gathers["Explicit", "matvec"] == 0


@of_tpu
def test_estimate_agrees_with_the_compiler_of_a_tpu(rows):
    estimated = [row for row in rows if row["estimated_GB"] is not None]
    assert len(estimated) == 3
    for row in estimated:
        assert abs(row["estimated_GB"] - row["total_GB"]) <= LARGEST_ERROR * row["total_GB"], row


@of_gpu
def test_gpu_holds_the_promised_vectors_and_makes_few_kernels(rows):
    assert all(row["vectors"] <= row["promised"] for row in rows)
    (step,) = [row["kernels"] for row in rows if row["loop"] == "1"]
    (gram_schmidt,) = [row["kernels"] for row in rows if row["loop"] == "1.1"]
    assert step + gram_schmidt <= 30
