"""The accelerator benchmark: each stage runs, and neither a time limit nor an error removes rows."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ACCELERATOR = {
    "right": {"case", "name", "value", "bound", "ok"},
    "overhead": {"problem", "solver", "matvecs", "solve_s", "bare_s", "ratio", "compile_s", "peak_bytes"},
    "peers": {"problem", "program", "seconds", "residual", "target", "enough", "compile_s"},
    "split": {"n", "piece", "each_s"},
}


@pytest.fixture
def benchmark(monkeypatch):
    """Return an import function for the modules of benchmarks/."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ACCELERATOR)
def test_stage_of_the_accelerator_runs(stage, benchmark, tmp_path):
    benchmark("accelerator.__main__").main(["--quick", "--stages", stage, "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    assert path.name == f"accelerator_{stage}-cpu.json"
    assert document["arguments"]["quick"] is True
    for row in document["rows"]:
        assert ACCELERATOR[stage] <= row.keys()
        assert not row["error"] or row["error"].startswith("not installed")
        assert row.get("ok") is not False
        assert row.get("enough") is not False


@pytest.mark.slow
def test_a_limit_of_time_loses_nothing(benchmark, tmp_path):
    harness, timing = benchmark("accelerator.harness"), benchmark("support.timing")
    args = timing.arguments("what for", 1, ["--out", str(tmp_path)])
    log = harness.Log("some", args, harness.deadlines(0.5, [1.0])[0])

    def broken():
        yield {"value": 2.0}
        raise ValueError("on the way")

    items = [("short", 1, lambda: [{"value": 1.0}]), ("long", 60, None), ("broken", 1, broken)]
    log.run([harness.Item({"item": name}, seconds, rows) for name, seconds, rows in items])
    (path,) = tmp_path.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert [(row["item"], row["value"]) for row in rows] == [
        ("short", 1.0),
        ("long", None),
        ("broken", 2.0),
        ("broken", None),
    ]
    assert rows[1]["error"].startswith("skipped: ")
    assert rows[3]["error"] == "ValueError: on the way"


@pytest.mark.slow
def test_a_program_that_fails_is_left_out_of_the_rounds(benchmark):
    harness = benchmark("accelerator.harness")
    order = []
    programs = {"a": lambda: order.append("a"), "b": lambda: order.append("b") or 1 // 0}
    timings = harness.rounds(programs, 2, harness.deadlines(1.0, [1.0])[0])
    assert "".join(order) == "abaa"
    assert timings["b"].error.startswith("ZeroDivisionError")
    assert len(timings["a"].samples) == 2


def test_stages_share_the_minutes(benchmark):
    harness = benchmark("accelerator.harness")
    first, last = harness.deadlines(2.0, [0.2, 0.8])
    assert last.end - first.end == pytest.approx(90)
    assert last.left == pytest.approx(120, abs=5)
