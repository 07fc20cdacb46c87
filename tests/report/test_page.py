"""The page holds every number of the report, needs nothing else, and takes words for words."""

import html
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eigenjax.report import additions


@pytest.fixture(scope="module")
def dense(full_report):
    """Of the problem with two layers: its Hessian and Gauss-Newton matrix in float64, and how many are in the first."""
    _, _, problem = full_report
    with jax.enable_x64(True):
        params, data = jax.tree.map(jnp.asarray, (problem.params, problem.data))
        flat, unravel = ravel_pytree(params)
        hessian = jax.hessian(lambda flat: problem.loss(unravel(flat), data))(flat)
        outputs = lambda flat: problem.model(unravel(flat), data[0])
        jacobian = jax.jacobian(outputs)(flat)
        shares = jax.nn.softmax(outputs(flat))
        inner = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(shares) / len(shares)
        gauss_newton = jnp.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian)
    return np.asarray(hessian), np.asarray(gauss_newton), 16


def test_it_needs_nothing_else(full_report):
    folder, record, _ = full_report
    page = (folder / "report.html").read_text()
    assert "report.html" in record["files"]
    assert set(re.findall(r'(?:src|href)="([^"#]*)', page)) <= {"", "data:,"}
    assert not re.search(r"<script|@import|url\((?!#)|https?:", page)
    assert "default-src 'none'" in page


def test_every_number_is_there(full_report):
    folder, record, _ = full_report
    page = (folder / "report.html").read_text()
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    for group in [*record["algorithms"]["lanczos"]["pairs"].values(), record["gauss_newton"]["pairs"]["LA"]]:
        assert all(f"{value:.7g}" in text for value in group["eigenvalues"])
        for name in ("residuals", "error_bounds"):
            assert all(f"{value:.1e}" in text for value in group[name])
        assert f"{group['status']}: {group['advice']}" in text
    for name, version in record["versions"].items():
        assert re.search(rf"{re.escape(name)}\s+{re.escape(version)}", text)
    for name in record["arguments"]:
        assert name in text
    assert record["device"]["kind"] in text
    sections = re.findall(r'<section id="([^"]*)"', page)
    wanted = ["pairs", "convergence", "gauss-newton", "density", "layers", "landscape", "training", "details"]
    assert sections == wanted
    assert page.count("<svg") == page.count("</svg>") == 13


def test_names_are_words_and_not_html(full_report):
    page = (full_report[0] / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;first&lt;/b&gt; &amp; &quot;co&quot;" in page


def test_parts_of_pictures_have_names_of_their_own(full_report):
    page = (full_report[0] / "report.html").read_text()
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(names)


def test_layers_are_the_diagonal_blocks(full_report, dense):
    _, record, _ = full_report
    hessian, _, first = dense
    for found, block in zip(
        record["layers"]["found"].values(), (hessian[:first, :first], hessian[first:, first:]), strict=True
    ):
        assert found["size"] == len(block)
        np.testing.assert_allclose(found["eigenvalues"], np.linalg.eigvalsh(block)[::-1][:3], atol=1e-9)
        assert all(found["converged"])


def test_the_gauss_newton_matrix_is_beside(full_report, dense):
    hessian, gauss_newton, _ = dense
    _, record, _ = full_report
    pairs = record["gauss_newton"]["pairs"]["LA"]
    np.testing.assert_allclose(pairs["eigenvalues"], np.linalg.eigvalsh(gauss_newton)[::-1][:3], atol=1e-9)
    pairs = record["algorithms"]["lanczos"]["pairs"]["LA"]
    exact = np.linalg.eigvalsh(hessian)[::-1][:3]
    np.testing.assert_allclose(pairs["eigenvalues"], exact, atol=1e-9)
    # Bounds of eigenvalues that are right to rounding are bounds but for rounding.
    assert np.all(np.abs(pairs["eigenvalues"] - exact) <= np.asarray(pairs["error_bounds"]) + 1e-14)


def test_the_density_counts_eigenvalues(full_report, dense):
    _, record, _ = full_report
    values = np.linalg.eigvalsh(dense[0])
    nodes = np.asarray(record["density"]["nodes"])
    # As many steps as dimensions: the ends are those of the spectrum, the weights a matter of chance.
    np.testing.assert_allclose(nodes.max(axis=1), values[-1], atol=1e-8)
    np.testing.assert_allclose(nodes.min(axis=1), values[0], atol=1e-8)
    for place, share, error in record["density"]["cdf"]:
        assert abs(share - np.mean(values <= place + 1e-9)) < 5 * error + 0.15


def test_what_fails_is_said_and_the_rest_is_kept(run, monkeypatch, capsys):
    def exploding(*_, **__):
        raise MemoryError("too <large>\nby far")

    monkeypatch.setattr(additions, "spectral_density", exploding)
    folder, record = run("without_data", "--k", "1", "--algorithm", "lanczos", without=("layers",))
    page = (folder / "report.html").read_text()
    assert record["notes"]["density"].startswith("failed: MemoryError: too <large>")
    assert "Failed: MemoryError: too &lt;large&gt;" in page
    assert "Left out, as asked for by --without." in page
    assert record["density"] is None
    assert "density: failed: MemoryError" in capsys.readouterr().err
    assert f"{record['algorithms']['lanczos']['pairs']['LA']['eigenvalues'][0]:.7g}" in page
