"""Two and four processes, each with two devices, joined over loopback: equal to the results of one process."""

import importlib
from pathlib import Path

import pytest

# Float32 solves to sqrt(eps): eigenvalue errors are eps / gap, eigenvector errors sqrt(eps) / gap.
ALLOWED = {"eigenvalues": 1e-5, "streamed": 1e-5, "read again": 1e-5, "eigenvectors": 1e-3, "gradient": 1e-3}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_many_processes_find_what_one_finds(processes, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    rows = importlib.import_module("benchmarks.scale.processes").compare(processes, 2)
    assert len(rows) == 6
    for row in rows:
        assert row["difference"] <= ALLOWED[row["result"].split(", ")[1]], row
