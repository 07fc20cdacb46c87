"""Every benchmark runs, and writes down what it found with all that it depends on."""

import importlib
import json
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLOW = ("gradient_cost", "lanczos_overhead", "products")
COLUMNS = {
    "gradient_cost": {"products_forward", "products_both", "time_ratio", "error_float64"},
    "import_time": {"median_s", "ratio"},
    "lanczos_overhead": {"median_s", "ratio", "beyond_one_product"},
    "products": {"products", "worst_residual", "found", "converged", "seconds"},
}


@pytest.fixture
def benchmark(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def programs():
    return sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "timing")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in programs()]
)
def test_quick_run_writes_what_it_measured(name, benchmark, tmp_path, capsys):
    module = benchmark(name)
    module.main(["--quick", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    assert path.name == f"{name}-cpu.json"
    assert document["device"] in capsys.readouterr().out
    assert {"date", "versions", "arguments", "cores"} <= document.keys()
    assert document["arguments"]["quick"] is True
    assert all(COLUMNS[name] <= row.keys() for row in document["rows"])
    CHECKS.get(name, lambda rows: None)(document["rows"])


def check_products(rows):
    for row in rows:
        assert row["converged"] == f"{row['found']} of 1"
        assert row["products"] > 0


def check_gradient_cost(rows):
    for row in rows:
        assert row["error_float64"] < 1e-6
        # Three pairs are pulled back; only a loss of the eigenvectors asks for a solve beyond that.
        assert (row["products_both"] == row["products_forward"] + 3) == (row["loss"] == "of_eigenvalues")


CHECKS = {"products": check_products, "gradient_cost": check_gradient_cost}


def test_every_benchmark_is_in_the_readme():
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"python -m benchmarks.{name}" in readme for name in programs())


def test_programs_take_turns_and_warmup_is_thrown_away(benchmark):
    timing = benchmark("timing")
    order = []
    clock = lambda program: program() or float(len(order))
    timings = timing.interleaved(
        {name: lambda name=name: order.append(name) for name in "ab"}, repeats=3, warmup=1, measure=clock
    )
    assert "".join(order) == "abababab"
    assert timings["a"].samples == (3.0, 5.0, 7.0)
    assert timings["b"] == (6.0, 4.0, 8.0, (4.0, 6.0, 8.0))
    assert timing.ratio(timings["b"], timings["a"]) == statistics.median([4 / 3, 6 / 5, 8 / 7])


def test_a_failed_write_leaves_nothing(benchmark, tmp_path):
    timing = benchmark("timing")
    args = timing.arguments("what for", 3, ["--quick", "--out", str(tmp_path)])
    with pytest.raises(TypeError, match="not JSON serializable"):
        timing.record("broken", [{"value": object()}], args)
    assert list(tmp_path.iterdir()) == []
