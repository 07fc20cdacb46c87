"""The manual names everything that is public, and its pages and notebooks are all in the contents."""

import importlib.util
import re
from pathlib import Path

import pytest

import eigenjax

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "notebooks" / "manual"
CONTENTS = (MANUAL / "mkdocs.yml").read_text()


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("manual_hooks", MANUAL / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_fields_of_results_have_the_docstrings_of_the_source():
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("manual_docstrings", MANUAL / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    annotation, text = module._fields("eigenjax.result.EigenResult")["eigenvalues"]
    assert annotation == "jax.Array"
    assert text.startswith("(k,) real")
