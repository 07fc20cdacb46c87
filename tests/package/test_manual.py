"""The manual names everything that is public, its contents are complete, and its figures are those measured."""

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import eigenjax

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "notebooks" / "manual"
CONTENTS = (MANUAL / "mkdocs.yml").read_text()


@pytest.fixture(scope="module")
def manual():
    """Return an import function for the modules beside the manual's configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MANUAL)
        yield importlib.import_module


@pytest.fixture(scope="module")
def hooks(manual):
    return manual("hooks")


def test_each_public_name_is_in_one_group_of_the_reference(hooks, tmp_path):
    hooks.write_reference(tmp_path / "reference")
    text = "".join(path.read_text() for path in (tmp_path / "reference").iterdir())
    names = [line.rpartition(".")[2] for line in re.findall(r"::: (\S+)", text)]
    assert sorted(names) == sorted(eigenjax.__all__)
    assert all(f"reference/{path.name}" in CONTENTS for path in (tmp_path / "reference").iterdir())


def test_a_name_without_a_group_is_told(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(eigenjax, "__all__", [*eigenjax.__all__, "added"])
    with pytest.raises(ValueError, match="added"):
        hooks.write_reference(tmp_path / "reference")


def test_the_contents_list_all_pages_and_notebooks():
    files = [*(MANUAL / "pages").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert [path.name for path in files if f"{path.name}\n" not in CONTENTS] == []


def test_the_front_page_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_links_to_notebooks_lead_to_the_gallery(hooks):
    text = "[a](notebooks/edge_of_stability.ipynb), [b](../../hessian_density.ipynb)"
    assert hooks.linked_to_gallery(text) == "[a](gallery/edge_of_stability.ipynb), [b](gallery/hessian_density.ipynb)"
    for page in (MANUAL / "pages").glob("*.md"):
        links = re.findall(r"\]\(([^)]+\.ipynb)\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_fields_of_results_have_the_docstrings_of_the_source(manual):
    pytest.importorskip("griffe")
    annotation, text = manual("docstrings")._fields("eigenjax.result.EigenResult")["eigenvalues"]
    assert annotation == "jax.Array"
    assert text.startswith("(k,) real")


def test_figures_in_the_pages_are_those_of_the_results(manual):
    comparison = manual("comparison")
    remedy = "run: python notebooks/manual/comparison.py"
    for name in comparison.PAGES:
        assert comparison.page(name) == (MANUAL / "pages" / name).read_text(), remedy
    assert comparison.readme() == (ROOT / "README.md").read_text(), remedy


def test_figures_are_summaries_of_the_rows(manual):
    figures = manual("figures")
    rows = [{"ratio": 0.5, "case": "a, 1"}, {"ratio": 2.0, "case": "a, 2"}, {"ratio": None, "case": "b"}]
    assert figures.ratios()(rows) == "1.00 in the geometric mean of 2; 1 above 1, at worst 2.00"
    assert figures.inverses(case="a")(rows) == "2.00 / 0.50"
    assert figures.span_of("ratio")(rows) == "0.50 to 2.00"
    assert figures.span_of("ratio", case="a, 2")(rows) == "2.00"
    assert [figures.number(x) for x in (3, 3.0, 34.46, 16526, 2e-4)] == ["3", "3.00", "34", "16,526", "2e-4"]


def test_each_figure_names_a_program_that_exists(manual):
    comparison, figures = manual("comparison"), manual("figures")
    names = {name for sections in comparison.PAGES.values() for lines in sections.values() for _, name, _ in lines}
    for name in names:
        module = figures.command(name).split()[2].replace(".", "/")
        assert (ROOT / f"{module}.py").exists() or (ROOT / module / "__main__.py").exists()


def test_the_gallery_shows_every_notebook(manual, tmp_path):
    gallery = manual("gallery")
    gallery.write(ROOT / "notebooks", tmp_path / "gallery")
    index = (tmp_path / "gallery" / "index.md").read_text()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"({path.name})" in index
        assert (tmp_path / "gallery" / f"{path.stem}.png").read_bytes().startswith(b"\x89PNG")
        uses_data = "sklearn" in path.read_text()
        assert ("scikit-learn" in gallery.needs(path)) == uses_data


def test_a_notebook_without_a_line_in_the_gallery_is_told(manual, tmp_path):
    (tmp_path / "added.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="added"):
        manual("gallery").write(tmp_path, tmp_path / "gallery")


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "eigenjax/__init__.py"
    latest = re.findall(r"^## (\S+) ", (ROOT / "eigenjax" / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert latest == eigenjax.__version__
    assert f"version = {{{eigenjax.__version__}}}" in (MANUAL / "pages" / "citing.md").read_text()


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("||A v - theta v|| = |b^H x|", r"\lVert A\, v - \theta \, v\rVert = \lvert b^{H}\, x\rvert"),
        ("||A||_F^2", r"\lVert A\rVert_{F}^{2}"),
        ("G_ij = <x_i, xbar_j>", r"G_{ij} = \langle x_{i}, \bar{x}_{j}\rangle"),
        ("v <- A^-1 v,    sqrt(n + 1)", r"v \leftarrow A^{-1}\, v,\quad \sqrt{n + 1}"),
        ("p(y | x) <= nu_max", r"p(y \mid x) \le \nu _{\mathrm{max}}"),
        ("g = d/dp -log p", None),  # the sign would look like a difference
        ("A_l of `blocks(op)`", None),
        ("|a", None),
        ("(a", None),
    ],
)
def test_formulas_of_docstrings_are_converted_or_left_alone(plain, latex, manual):
    found = manual("formulas").latex(plain)
    assert (found and re.sub(" +", " ", found)) == latex


def test_names_in_code_link_to_the_reference(hooks, manual):
    link = lambda page, url="operators.html": manual("typeset").linked(page, url, hooks.targets())
    assert link("<p><code>eigsh(op, k)</code></p>") == (
        '<p><a class="name" href="reference/solvers.html#eigenjax.eigsh"><code>eigsh(op, k)</code></a></p>'
    )
    assert 'href="solvers.html#eigenjax.result.Status"' in link("<code>Status</code>", "reference/runs.html")
    left_alone = [
        "<h2><code>eigsh</code></h2>",
        "<pre><code>eigsh</code></pre>",
        "<code>trace</code>",
        "CuPy's <code>eigsh</code>",
    ]
    assert [link(page) for page in left_alone] == left_alone
    row = "<tr><td><code>eigsh(A)</code></td><td><code>eigsh(op)</code></td></tr>"
    assert link(row, "coming_from.html").count("href") == 1
