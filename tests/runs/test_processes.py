"""Two and four processes, each with two devices, joined over loopback: what one process finds."""

import importlib
from pathlib import Path

import pytest

# Results of float32: eigenvalues to rounding, eigenvectors and what depends on them to the tolerance of the solve.
ALLOWED = {"eigenvalues": 2e-6, "streamed": 2e-6, "read again": 2e-6, "eigenvectors": 1e-3, "gradient": 1e-3}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_many_processes_find_what_one_finds(processes, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    rows = importlib.import_module("benchmarks.processes").compare(processes, 2)
    assert len(rows) == 6
    for row in rows:
        assert row["difference"] <= ALLOWED[row["result"].split(", ")[1]], row
