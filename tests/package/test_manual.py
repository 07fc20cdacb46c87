"""The manual names everything that is public, and its pages and notebooks are all in the contents."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import eigenjax

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "notebooks" / "manual"
CONTENTS = (MANUAL / "mkdocs.yml").read_text()


def load(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(MANUAL), *sys.path])
    spec = importlib.util.spec_from_file_location(f"manual_{name}", MANUAL / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hooks(monkeypatch):
    return load("hooks", monkeypatch)


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


def test_fields_of_results_have_the_docstrings_of_the_source(monkeypatch):
    pytest.importorskip("griffe")
    annotation, text = load("docstrings", monkeypatch)._fields("eigenjax.result.EigenResult")["eigenvalues"]
    assert annotation == "jax.Array"
    assert text.startswith("(k,) real")


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
def test_formulas_of_docstrings_are_converted_or_left_alone(plain, latex, monkeypatch):
    found = load("formulas", monkeypatch).latex(plain)
    assert (found and re.sub(" +", " ", found)) == latex


def test_names_in_code_link_to_the_reference(hooks, monkeypatch):
    link = lambda page, url="operators.html": load("typeset", monkeypatch).linked(page, url, hooks.targets())
    assert link("<p><code>eigsh(op, k)</code></p>") == (
        '<p><a class="name" href="reference/solvers.html#eigenjax.eigsh"><code>eigsh(op, k)</code></a></p>'
    )
    assert 'href="solvers.html#eigenjax.result.Status"' in link("<code>Status</code>", "reference/runs.html")
    left_alone = ["<h2><code>eigsh</code></h2>", "<pre><code>eigsh</code></pre>", "<code>trace</code>"]
    assert [link(page) for page in left_alone] == left_alone
    row = "<tr><td><code>eigsh(A)</code></td><td><code>eigsh(op)</code></td></tr>"
    assert link(row, "coming_from.html").count("href") == 1
