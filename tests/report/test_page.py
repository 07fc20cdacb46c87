"""The page: all numbers of the report, no external files, names escaped as text."""

import html
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eigenjax.report.analysis import extras
from eigenjax.report.analysis.solve import Programs, Settings, Solve
from eigenjax.report.inputs.operators import operator_of
from eigenjax.report.inputs.progress import Progress
from eigenjax.report.output.page import page
from eigenjax.report.output.panels import draw_panels
from eigenjax.result import EigenResult


@pytest.fixture(scope="module")
def dense(full_report):
    """Compute the Hessian and the Gauss-Newton matrix in float64, and the number of parameters in the first layer."""
    _, _, problem = full_report
    with jax.enable_x64(True):
        params, data = jax.tree.map(jnp.asarray, (problem.params, problem.data))
        flat, unravel = ravel_pytree(params)

        @jax.jit
        def both(flat):
            outputs = lambda flat: problem.model(unravel(flat), data[0])
            jacobian = jax.jacobian(outputs)(flat)
            shares = jax.nn.softmax(outputs(flat))
            inner = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(shares) / len(shares)
            hessian = jax.hessian(lambda flat: problem.loss(unravel(flat), data))(flat)
            return hessian, jnp.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian)

        hessian, gauss_newton = both(flat)
    return np.asarray(hessian), np.asarray(gauss_newton), 16


def test_it_needs_nothing_else(made_report):
    folder, record, _ = made_report
    written = (folder / "report.html").read_text()
    assert "report.html" in record["files"]
    assert set(re.findall(r'(?:src|href)="([^"#]*)', written)) <= {"", "data:,"}
    assert not re.search(r"<script|@import|url\((?!#)|https?:", written)
    assert "default-src 'none'" in written


def test_every_number_is_there(made_report):
    folder, record, _ = made_report
    written = (folder / "report.html").read_text()
    text = html.unescape(re.sub(r"<[^>]*>", " ", written))
    for group in [*record["algorithms"]["lanczos"]["pairs"].values(), record["gauss_newton"]["pairs"]["LA"]]:
        assert all(f"{value:.7g}" in text for value in group["eigenvalues"])
        for name in ("residuals", "error_estimates"):
            assert all(f"{value:.1e}" in text for value in group[name])
        assert f"{group['status']}: {group['advice']}" in text
    for name, version in record["versions"].items():
        assert re.search(rf"{re.escape(name)}\s+{re.escape(version)}", text)
    for name in record["arguments"]:
        assert name in text
    assert record["device"]["kind"] in text
    sections = re.findall(r'<section id="([^"]*)"', written)
    wanted = ["pairs", "convergence", "gauss-newton", "density", "layers", "landscape", "training", "details"]
    assert sections == wanted
    assert written.count("<svg") == written.count("</svg>") == 13


def test_convergence_names_the_end_of_the_spectrum_of_each_line():
    checks = {"LA": [(5, np.array([1.0, 0.5, 0.1]))], "SA": [(5, np.array([1.0, 0.2])), (10, np.array([1e-3, 1e-4]))]}
    result = lambda k: EigenResult(np.ones(k), None, np.ones(k), np.ones(k, bool), np.int32(0), np.int32(9))
    solve = Solve({"LA": result(3), "SA": result(2)}, 9, 1.0, 0.5, checks)
    beside = Solve({"LA": result(3)}, 9, 1.0, 0.5, {"LA": checks["LA"]})
    additions = extras.Additions(None, None, beside, {})
    (panel,) = draw_panels({"lanczos": solve}, 1e-5, additions, None, np.ones(2), None)["convergence"]
    drawn = dict(zip(*panel.axes.get_legend_handles_labels()[::-1], strict=True))
    names = ["the 3 largest eigenvalues", "the 2 lowest eigenvalues", "Gauss-Newton, the 3 largest eigenvalues"]
    assert [name for name in drawn if "tolerance" not in name] == names
    np.testing.assert_allclose(drawn[names[1]].get_xydata(), [[5, 1.0], [10, 1e-3]])


def test_names_are_words_and_not_html(made_report):
    written = (made_report[0] / "report.html").read_text()
    assert "<b>" not in written
    assert "&lt;b&gt;first&lt;/b&gt; &amp; &quot;co&quot;" in written


def test_parts_of_pictures_have_names_of_their_own(made_report):
    written = (made_report[0] / "report.html").read_text()
    names = re.findall(r'\bid="([^"]*)"', written)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', written)) <= set(names)


@pytest.mark.slow
def test_the_whole_report_has_the_same_sections(full_report, made_report):
    sections = [
        re.findall(r'<section id="([^"]*)"', (r[0] / "report.html").read_text()) for r in (full_report, made_report)
    ]
    assert sections[0] == sections[1]
    # Only a folder written by the command has a manifest.
    assert full_report[1].keys() - {"manifest"} == made_report[1].keys()
    assert full_report[1]["notes"] == {}


@pytest.mark.slow
def test_layers_are_the_diagonal_blocks(full_report, dense):
    _, record, _ = full_report
    hessian, _, first = dense
    for found, block in zip(
        record["layers"]["found"].values(), (hessian[:first, :first], hessian[first:, first:]), strict=True
    ):
        assert found["size"] == len(block)
        np.testing.assert_allclose(found["eigenvalues"], np.linalg.eigvalsh(block)[::-1][:3], atol=1e-9)
        assert all(found["converged"])


@pytest.mark.slow
def test_the_gauss_newton_matrix_is_beside(full_report, dense):
    hessian, gauss_newton, _ = dense
    _, record, _ = full_report
    pairs = record["gauss_newton"]["pairs"]["LA"]
    np.testing.assert_allclose(pairs["eigenvalues"], np.linalg.eigvalsh(gauss_newton)[::-1][:3], atol=1e-9)
    pairs = record["algorithms"]["lanczos"]["pairs"]["LA"]
    exact = np.linalg.eigvalsh(hessian)[::-1][:3]
    np.testing.assert_allclose(pairs["eigenvalues"], exact, atol=1e-9)
    # Eigenvalues at rounding accuracy satisfy their bounds up to rounding.
    assert np.all(np.abs(pairs["eigenvalues"] - exact) <= np.asarray(pairs["error_bounds"]) + 1e-14)


@pytest.mark.slow
def test_the_density_counts_eigenvalues(full_report, dense):
    _, record, _ = full_report
    values = np.linalg.eigvalsh(dense[0])
    nodes = np.asarray(record["density"]["nodes"])
    # With as many steps as dimensions the extreme nodes are eigenvalues; the weights are random.
    np.testing.assert_allclose(nodes.max(axis=1), values[-1], atol=1e-8)
    np.testing.assert_allclose(nodes.min(axis=1), values[0], atol=1e-8)
    for place, share, error in record["density"]["cdf"]:
        assert abs(share - np.mean(values <= place + 1e-9)) < 5 * error + 0.15


def test_what_fails_is_said_and_the_rest_goes_on(made_report, monkeypatch, capsys):
    def exploding(*_, **__):
        raise MemoryError("too <large>\nby far")

    _, record, problem = made_report
    monkeypatch.setattr(extras, "spectral_density", exploding)
    monkeypatch.setattr(extras, "solve_by_lanczos", exploding)
    monkeypatch.setattr(extras, "solve_layers", lambda *_, **__: "layers")
    options = {"largest": 1.0, "known": None, "without": (), "beside_hessian": True, "batch_size": None, "seed": 0}
    settings = Settings({"LA": 3}, 10, 1, 0.0, 1e-3)
    found = extras.measure(operator_of(problem), problem, settings, programs=Programs(), progress=Progress(), **options)
    assert found.layers == "layers"
    assert set(found.notes) == {"density", "gauss-newton"}
    assert all(note.startswith("failed: MemoryError: too <large> (") for note in found.notes.values())
    assert capsys.readouterr().err.count("failed: MemoryError") == 2
    text = page(record | {"notes": found.notes, "density": None, "gauss_newton": None}, {})
    assert text.count('<p class="bad">Failed: MemoryError: too &lt;large&gt;') == 2
    assert f"{record['algorithms']['lanczos']['pairs']['LA']['eigenvalues'][0]:.7g}" in text
    assert '<section id="layers">' in text


def test_what_was_left_out_is_said(made_report):
    _, record, problem = made_report
    settings = Settings({"LA": 3}, 10, 1, 0.0, 1e-3)
    options = {"beside_hessian": True, "batch_size": None, "seed": 0, "programs": None, "progress": None}
    none = extras.measure(None, problem, settings, largest=np.nan, known=None, without=(), **options)
    assert none == (None, None, None, dict.fromkeys(extras.NAMES, none.notes["density"]))
    assert "not finite" in none.notes["density"]
    text = page(record | {"notes": {"layers": "left out, as asked for by --without"}, "layers": None}, {})
    assert '<p class="about">Left out, as asked for by --without.</p>' in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gauss-newton", "fisher"])
def test_another_operator_in_place_of_the_hessian(run, dense, name):
    options = ("--k", "3", "--dtype", "float64", "--algorithm", "lanczos", "--operator", name)
    folder, record = run("digits_of_two_layers", *options, without=("density", "layers"))
    # For a cross-entropy with one label per example both matrices are equal.
    exact = np.linalg.eigvalsh(dense[1])[::-1][:3]
    np.testing.assert_allclose(record["algorithms"]["lanczos"]["pairs"]["LA"]["eigenvalues"], exact, atol=1e-9)
    assert record["gauss_newton"] is None
    title = {"gauss-newton": "Gauss-Newton matrix", "fisher": "Fisher information matrix"}[name]
    assert f"<h1>Spectrum of the {title}</h1>" in (folder / "report.html").read_text()
