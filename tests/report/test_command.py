"""The command, in process, against the dense Hessian."""

import json
import math
import pathlib
import re

import numpy as np
import pytest

import eigenjax
from eigenjax.__main__ import main

SMALL = ("--k", "4", "--max-iter", "20000")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tolerance"), [pytest.param("float32", 2e-5, marks=pytest.mark.slow), ("float64", 1e-8)]
)
def test_both_algorithms_agree_with_the_dense_hessian(run, dense, name, tolerance):
    values, _ = dense
    _, report = run("small", *SMALL, "--dtype", name)
    assert report["problem"]["dtype"] == name
    for algorithm in ("lanczos", "power"):
        pairs = report["algorithms"][algorithm]["pairs"]
        scale = np.abs(values).max()
        np.testing.assert_allclose(pairs["LA"]["eigenvalues"], values[::-1][:4], atol=tolerance * scale)
        np.testing.assert_allclose(pairs["SA"]["eigenvalues"], values[:4], atol=tolerance * scale)
        assert all(pairs["LA"]["converged"])
        assert pairs["LA"]["status"] == "CONVERGED"
    assert np.max(report["relative_disagreement"]["LA"]) < 1e-3


@pytest.mark.slow
def test_the_eigenpairs_can_be_read_back(run, dense):
    _, matrix = dense
    folder, report = run("small", *SMALL, "--dtype", "float64", "--algorithm", "lanczos")
    with np.load(folder / "eigenpairs.npz", allow_pickle=False) as pairs:
        vectors = pairs["eigenvectors"]
        assert vectors.shape == (4, matrix.shape[0])
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-12)
        # The dense Hessian has the parameters raveled in the same order.
        np.testing.assert_allclose(vectors @ matrix, pairs["eigenvalues"][:, None] * vectors, atol=1e-9)
        lowest = pairs["lowest_eigenvectors"]
        np.testing.assert_allclose(lowest @ matrix, pairs["lowest_eigenvalues"][:, None] * lowest, atol=1e-9)
        layout = json.loads(str(pairs["layout"]))
    assert [leaf["path"] for leaf in layout] == ["bias", "first", "second"]
    assert sum(math.prod(leaf["shape"]) for leaf in layout) == matrix.shape[0]
    assert [leaf["offset"] for leaf in layout] == [0, 3, 15]
    assert report["problem"]["num_parameters"] == matrix.shape[0]


@pytest.mark.slow
@pytest.mark.parametrize(("which", "groups"), [("LM", {"LM": 4, "SA": 4}), ("SA", {"SA": 4}), ("BE", {"BE": 4})])
def test_which_chooses_the_end(run, dense, which, groups):
    values, _ = dense
    _, report = run("small", *SMALL, "--which", which, "--algorithm", "lanczos", "--dtype", "float64")
    pairs = report["algorithms"]["lanczos"]["pairs"]
    assert {name: len(group["eigenvalues"]) for name, group in pairs.items()} == groups
    wanted = {"LM": values[np.argsort(-np.abs(values))][:4], "SA": values[:4], "BE": values[[-1, 0, -2, 1]]}[which]
    np.testing.assert_allclose(pairs[which]["eigenvalues"], wanted, rtol=1e-8)


@pytest.mark.slow
def test_all_pairs_of_a_small_problem_without_data(run):
    folder, report = run("without_data", "--k", "4", "--dtype", "float64", "--max-iter", "20000")
    matrix = np.diag(12 * np.arange(1.0, 5.0) ** 2) + 2
    for record in report["algorithms"].values():
        np.testing.assert_allclose(record["pairs"]["LA"]["eigenvalues"], np.linalg.eigvalsh(matrix)[::-1], rtol=1e-8)
        assert list(record["pairs"]) == ["LA"]
    assert report["problem"]["num_examples"] is None
    assert report["history"] is None
    assert not (folder / "training.png").exists()
    np.testing.assert_allclose(report["problem"]["loss"], 354 + 100)


@pytest.mark.slow
def test_integer_parameters_are_left_alone(run):
    folder, report = run("with_integers", "--k", "2", "--dtype", "float64", "--algorithm", "lanczos")
    np.testing.assert_allclose(report["algorithms"]["lanczos"]["pairs"]["LA"]["eigenvalues"], [3 * 192, 3 * 108])
    assert (folder / "landscape.png").exists()


@pytest.mark.slow
def test_a_module_of_flax_takes_the_place_of_the_parameters(run, workplace):
    folder, report = run("module", "--k", "3", "--algorithm", "lanczos")
    import small_problems

    problem = small_problems.module()
    inputs, targets = (np.asarray(x, np.float32) for x in problem.data)
    op = eigenjax.hessian(problem.loss, problem.params, (inputs, targets))
    exact = np.linalg.eigvalsh(eigenjax.to_dense(op))[::-1][:3]
    np.testing.assert_allclose(report["algorithms"]["lanczos"]["pairs"]["LA"]["eigenvalues"], exact, rtol=1e-4)
    assert "landscape" not in report["notes"]
    assert (folder / "landscape.png").exists()


@pytest.mark.slow
def test_a_history_may_be_a_dict(run):
    folder, report = run("with_a_dict", "--k", "2", "--algorithm", "lanczos")
    assert report["history"]["losses"] == [2.0, 1.0]
    assert (folder / "training.png").exists()


@pytest.mark.slow
def test_a_picture_that_fails_leaves_the_rest_of_the_report(run, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("no room for the plane")

    monkeypatch.setattr("eigenjax.report.command.survey", fail)
    folder, report = run("one_leaf", "--k", "2", "--algorithm", "lanczos")
    assert report["notes"]["landscape"].startswith("failed: MemoryError: no room for the plane")
    assert "Failed: MemoryError: no room for the plane" in (folder / "report.html").read_text()
    assert not (folder / "landscape.png").exists()


@pytest.mark.slow
def test_the_example_of_the_manual_runs(workplace):
    text = (pathlib.Path(__file__).parents[2] / "notebooks" / "manual" / "pages" / "command.md").read_text()
    (workplace / "mine.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    arguments = re.search(r"```sh\neigenjax (.*?)\n```", text)[1].split()
    assert main([*arguments, "--without", "density", "--algorithm", "lanczos"]) == 0
    report = json.loads((workplace / "mine-out" / "spectrum.json").read_text())
    assert report["algorithms"]["lanczos"]["pairs"]["LA"]["status"] == "CONVERGED"
    assert report["gauss_newton"]["pairs"]["LA"]["status"] == "CONVERGED"


@pytest.mark.slow
def test_batches_change_nothing(run):
    options = ("--k", "2", "--algorithm", "lanczos", "--dtype", "float64")
    _, whole = run("one_leaf", *options, out="whole")
    _, batched = run("one_leaf", *options, "--batch-size", "7", out="batched")
    first, second = (report["algorithms"]["lanczos"]["pairs"]["LA"] for report in (whole, batched))
    np.testing.assert_allclose(first["eigenvalues"], second["eigenvalues"], rtol=1e-12)
    np.testing.assert_allclose(whole["problem"]["loss"], batched["problem"]["loss"], rtol=1e-12)


@pytest.mark.slow
def test_the_seed_decides_every_digit(run):
    options = ("--k", "2", "--algorithm", "power", "--which", "SA")
    reports = [
        run("one_leaf", *options, "--seed", seed, out=out)[1] for seed, out in (("1", "a"), ("1", "b"), ("2", "c"))
    ]
    first, again, other = (report["algorithms"]["power"]["pairs"] for report in reports)
    assert first == again
    assert first["SA"]["residuals"] != other["SA"]["residuals"]


def test_products_are_counted(run):
    _, report = run("one_leaf", "--k", "2", "--krylov-dim", "5")
    lanczos, power = report["algorithms"]["lanczos"], report["algorithms"]["power"]
    assert lanczos["pairs"]["LA"]["num_matvecs"] == 6
    assert lanczos["num_matvecs"] == 7
    assert power["num_matvecs"] == sum(group["num_matvecs"] for group in power["pairs"].values())


@pytest.mark.slow
def test_what_does_not_converge_is_said(run, capsys):
    folder, report = run("one_leaf", "--k", "4", "--algorithm", "power", "--max-iter", "1")
    group = report["algorithms"]["power"]["pairs"]["LA"]
    assert group["status"] == "NOT_CONVERGED"
    assert not any(group["converged"])
    assert "NOT_CONVERGED" in capsys.readouterr().out
    assert (folder / "eigenvalues.png").exists()


@pytest.mark.slow
def test_products_that_are_not_finite_are_said(run, capsys):
    folder, report = run("infinite_curvature", "--k", "2", "--algorithm", "lanczos")
    for record in report["algorithms"].values():
        assert record["pairs"]["LA"]["status"] == "NONFINITE"
        assert not any(record["pairs"]["LA"]["converged"])
    assert "NONFINITE" in capsys.readouterr().out
    assert not (folder / "landscape.png").exists()


NOT_FINITE = {
    "infinite": ("the loss is inf at the parameters",),
    "infinite_slope": ("the loss is 3 at the parameters, but 2 of 2 numbers of gradient", "['a'] are not finite (inf)"),
    "no_parameter": ("2 of 3 numbers of params['b'] are not finite (nan)",),
    "too_large": ("3 of 3 numbers of params['b'] are not finite (inf)", "--dtype"),
    "no_data": ("the loss is nan at the parameters", "1 of 80 numbers of data['x'] are not finite (nan)"),
}


@pytest.mark.parametrize("function", NOT_FINITE)
def test_what_is_not_finite_is_refused_before_the_first_product(workplace, capsys, monkeypatch, function):
    monkeypatch.setattr("eigenjax.report.command._solve", lambda *_: pytest.fail("a solve has begun"))
    assert main(["spectrum", "--problem", f"small_problems:{function}", "--k", "2", "--out", "out"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"eigenjax: error: --problem small_problems:{function}: ")
    assert output.err.count("\n") == 1
    for part in NOT_FINITE[function]:
        assert part in output.err
    assert not (workplace / "out").exists()


def test_in_batches_the_one_that_is_not_finite_is_named(workplace, capsys):
    words = ["spectrum", "--problem", "small_problems:no_data", "--k", "2", "--batch-size", "8"]
    assert main(words) == 2
    stderr = capsys.readouterr().err
    assert "the loss of examples 8 and following is nan" in stderr
    assert "1 of 32 numbers of data['x']" in stderr


@pytest.mark.slow
def test_data_that_the_loss_masks_may_be_anything(run):
    _, report = run("masked_data", "--k", "2", "--algorithm", "lanczos", "--dtype", "float64")
    inputs = np.random.default_rng(6).normal(size=(20, 4))
    inputs[13, 2] = 0
    truth = np.linalg.eigvalsh(2 * inputs.T @ inputs / 20)[::-1][:2]
    np.testing.assert_allclose(report["algorithms"]["lanczos"]["pairs"]["LA"]["eigenvalues"], truth, rtol=1e-10)


@pytest.mark.slow
def test_plain_output_has_no_control_codes_and_fits_a_terminal(run, capsys):
    run("one_leaf", "--k", "3")
    output = capsys.readouterr()
    for text in (output.out, output.err):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    tables = output.out.split("lanczos: ")[0]
    assert "the 3 largest eigenvalues" in tables
    assert "the 3 lowest eigenvalues" in tables
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables
    assert len(output.err.splitlines()) == 5


@pytest.mark.slow
def test_the_default_run(workplace):
    assert main(["spectrum"]) == 0
    report = json.loads((workplace / "eigenjax-out" / "spectrum.json").read_text())
    assert report["problem"]["num_examples"] == 1797
    for record in report["algorithms"].values():
        assert all(group["status"] == "CONVERGED" for group in record["pairs"].values())
    for group in report["relative_disagreement"].values():
        assert np.max(group) < 1e-4
    top = report["algorithms"]["lanczos"]["pairs"]["LA"]["eigenvalues"][0]
    np.testing.assert_allclose(report["history"]["eigenvalues"][-1], top, rtol=1e-3)
    assert report["seconds"] > 0
    assert report["notes"] == {}
    assert len(report["layers"]["found"]) == 4
    # Interlacing: no eigenvalue of a block exceeds the largest one of the whole matrix.
    assert max(layer["eigenvalues"][0] for layer in report["layers"]["found"].values()) < top
    names = {"report.html", "training.png", "density.png", "layers.png", "convergence.png"}
    assert names <= {path.name for path in (workplace / "eigenjax-out").iterdir()}
