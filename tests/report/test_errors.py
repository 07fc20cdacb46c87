"""Invalid requests: one clear line, exit status 2, and no file left behind."""

import subprocess
import sys

import pytest

from eigenjax.__main__ import main

CASES = {
    "unknown option": (["spectrum", "--sharp"], "--sharp"),
    "no command": ([], "command"),
    "unknown command": (["spectra"], "spectra"),
    "zero pairs": (["spectrum", "--k", "0"], "--k: 0 is not a positive number"),
    "pairs in words": (["spectrum", "--k", "ten"], "invalid whole number value: 'ten'"),
    "negative seed": (["spectrum", "--seed", "-1"], "--seed: -1 is not between 0 and 4294967295"),
    "large seed": (["spectrum", "--seed", str(2**32)], "--seed: 4294967296 is not between 0 and 4294967295"),
    "huge seed": (["spectrum", "--seed", str(2**63 + 5)], "is not between 0 and 4294967295"),
    "endless seed": (["spectrum", "--seed", "9" * 5000], "--seed: invalid whole number value"),
    "seed with a point": (["spectrum", "--seed", "1.5"], "--seed: invalid whole number value: '1.5'"),
    "too many products": (["spectrum", "--max-iter", str(2**31)], "--max-iter: 2147483648 is too large"),
    "unknown format": (["spectrum", "--formats", "png,gif"], "'gif' is no format of pictures: give one or more of png"),
    "no format": (["spectrum", "--formats", ""], "'' is no format of pictures"),
    "tolerance that is none": (["spectrum", "--tol", "nan"], "nan is not between 0 and 1"),
    "NUL in a path": (["spectrum", "--out", "a\0b"], "is no path"),
    "unknown end": (["spectrum", "--which", "SM"], "--which"),
    "momentum": (["spectrum", "--momentum", "1.5"], "1.5 is not between 0 and 1"),
    "no function named": (["spectrum", "--problem", "small_problems"], "expected package.module:function"),
    "wrong module": (["spectrum", "--problem", "no_such.module:function"], "No module named 'no_such'"),
    "module that fails": (["spectrum", "--problem", "failing_module:function"], "ZeroDivisionError: division by zero"),
    "no such function": (["spectrum", "--problem", "small_problems:huge"], "no function huge"),
    "not a function": (["spectrum", "--problem", "small_problems:constant"], "no function constant"),
    "wrong return": (["spectrum", "--problem", "small_problems:not_a_problem"], "got int"),
    "function that fails": (["spectrum", "--problem", "small_problems:failing"], "RuntimeError: no such file"),
    "vector loss": (["spectrum", "--problem", "small_problems:vector_loss"], "an array of shape (3,)"),
    "integer parameters": (["spectrum", "--problem", "small_problems:integer_params"], "no floating-point numbers"),
    "ragged data": (["spectrum", "--problem", "small_problems:ragged_data"], "leading axis of examples"),
    "loss that fails": (["spectrum", "--problem", "small_problems:broken_loss"], "the loss cannot be evaluated"),
    "complex": (["spectrum", "--problem", "small_problems:complex_params", "--k", "2"], "complex"),
    "swapped": (["spectrum", "--problem", "small_problems:swapped"], "the loss must be a function"),
    "params of text": (["spectrum", "--problem", "small_problems:params_of_text"], "params must be a pytree of arrays"),
    "data of text": (["spectrum", "--problem", "small_problems:data_of_text"], "leading axis of examples"),
    "data of objects": (["spectrum", "--problem", "small_problems:data_of_objects"], "the loss cannot be evaluated"),
    "model": (["spectrum", "--problem", "small_problems:model_of_words"], "model must be a function or None"),
    "loss_of_output": (["spectrum", "--problem", "small_problems:loss_of_words"], "loss_of_output must be a function"),
    "history": (["spectrum", "--problem", "small_problems:history_of_words"], "history must be a dict of steps"),
    "keys of history": (
        ["spectrum", "--problem", "small_problems:history_of_other_keys"],
        "history has the keys ['eigenvalues', 'loss', 'steps']",
    ),
    "ragged history": (["spectrum", "--problem", "small_problems:ragged_history"], "must be as many, and are [1, 2]"),
    "history of text": (
        ["spectrum", "--problem", "small_problems:history_of_text"],
        "history.steps must be (t,) numbers",
    ),
    "no records": (["spectrum", "--problem", "small_problems:history_without_records"], "and has the shape (0,)"),
    "learning rate": (
        ["spectrum", "--problem", "small_problems:history_of_negative_rate"],
        "learning_rate must be a pos",
    ),
    "function with arguments": (
        ["spectrum", "--problem", "small_problems:wants_arguments"],
        "must take no arguments",
    ),
    "too many pairs": (["spectrum", "--problem", "small_problems:small", "--k", "19"], "18 x 18"),
    "small basis": (["spectrum", "--problem", "small_problems:small", "--krylov-dim", "9"], "at least k = 10"),
    "batches of nothing": (
        ["spectrum", "--problem", "small_problems:without_data", "--k", "2", "--batch-size", "2"],
        "no data",
    ),
    "no model": (
        ["spectrum", "--problem", "small_problems:small", "--k", "2", "--operator", "gauss-newton"],
        "--operator gauss-newton: the problem has no model",
    ),
    "unknown operator": (["spectrum", "--operator", "jacobian"], "--operator"),
    "unknown part": (["spectrum", "--without", "pictures"], "--without"),
    "a file for a folder": (["spectrum", "--out", "small_problems.py"], "is a file, not a folder"),
    "a file for a parent": (["spectrum", "--out", "small_problems.py/out"], "cannot write there"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left(case, workplace, capsys):
    words, message = CASES[case]
    (workplace / "failing_module.py").write_text("1 / 0")
    before = sorted(path.name for path in workplace.iterdir())
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("eigenjax: error: ")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert sorted(path.name for path in workplace.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize("name", ["report.html", "spectrum.json", "eigenpairs.npz", "landscape.png"])
def test_files_of_somebody_else_are_refused_before_the_problem_is_even_loaded(name, workplace, capsys):
    (workplace / "kept").mkdir()
    (workplace / "kept" / name).write_text("years of work")
    assert main(["spectrum", "--problem", "no_such_module:function", "--out", "kept"]) == 2
    assert f"{name} there is not as a report of this version wrote it" in capsys.readouterr().err
    assert (workplace / "kept" / name).read_text() == "years of work"


@pytest.mark.parametrize("package", ["matplotlib", "rich", "flax", "optax", "sklearn"])
def test_a_missing_extra_is_named(package, workplace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["spectrum"]) == 2
    other = "" if package in ("matplotlib", "rich") else ", or use --problem eigenjax.report.inputs.generated:rings"
    remedy = f'pip install "eigenjax[all]"{other}'
    assert capsys.readouterr().err == f"eigenjax: error: {package} is not installed: {remedy}\n"
    assert not (workplace / "eigenjax-out").exists()


@pytest.mark.slow
def test_a_problem_of_ones_own_needs_no_demo(workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.setitem(sys.modules, "optax", None)
    for problem in ("small_problems:without_data", "eigenjax.report.inputs.generated:rings"):
        words = [
            "spectrum",
            "--problem",
            problem,
            "--k",
            "1",
            "--algorithm",
            "lanczos",
            "--out",
            problem.partition(":")[2],
        ]
        assert main([*words, "--without", "density", "layers", "gauss-newton"]) == 0


@pytest.mark.slow
def test_an_interruption_leaves_nothing(workplace, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("eigenjax.report.output.record.write_json", interrupted)
    words = ["spectrum", "--problem", "small_problems:without_data", "--k", "1", "--algorithm", "lanczos"]
    words += ["--without", "density", "layers"]
    assert main(words) == 130
    assert "interrupted, nothing written" in capsys.readouterr().err
    assert not (workplace / "eigenjax-out").exists()


def test_help_imports_nothing_optional():
    code = (
        "import sys; from eigenjax.__main__ import main\n"
        "try: main(['spectrum', '--help'])\n"
        "except SystemExit as stop: status = stop.code\n"
        "heavy = {'flax', 'optax', 'matplotlib', 'sklearn', 'rich', 'eigenjax.report.command'} & set(sys.modules)\n"
        "sys.exit(status or sorted(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "package.module:function" in done.stdout
