"""Results appear whole or not at all, and only what is ours is replaced."""

import json
import os
import stat

import pytest

from eigenjax.report.errors import ReportError
from eigenjax.report.folder import CONTENTS, staged


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(out, files):
    with staged(out) as scratch:
        for name in files:
            (scratch / name).write_text(name)
        (scratch / CONTENTS).write_text(json.dumps({"files": [*files, CONTENTS]}))


def test_a_new_folder_with_its_parents(tmp_path):
    fill(tmp_path / "a" / "b", ["one.png"])
    assert names(tmp_path) == ["a", "a/b", "a/b/one.png", f"a/b/{CONTENTS}"]


def test_nothing_shows_before_the_end(tmp_path):
    with staged(tmp_path / "out") as scratch:
        (scratch / "one.png").write_text("1")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        fill(out, ["old.png"])
    before = names(tmp_path)
    with pytest.raises(FileNotFoundError), staged(out) as scratch:
        (scratch / "one.png").rename(scratch / "two.png")
    assert names(tmp_path) == before


def test_a_second_run_replaces_the_first_and_nothing_else(tmp_path):
    fill(tmp_path / "out", ["eigenvalues.png", "training.png"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    fill(tmp_path / "out", ["eigenvalues.png"])
    assert names(tmp_path / "out") == sorted(["eigenvalues.png", "notes.txt", CONTENTS])


def test_a_listing_never_reaches_outside(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CONTENTS).write_text(json.dumps({"files": ["../precious.txt", "..", 3]}))
    fill(tmp_path / "out", ["eigenvalues.png"])
    assert (tmp_path / "precious.txt").exists()


def test_the_folder_is_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        fill(tmp_path / "out", ["one.png"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ReportError, match="cannot write there"), staged(tmp_path / "out"):
        pass


def test_a_folder_that_refuses(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ReportError, match="cannot write there: Permission denied"), staged(tmp_path / "a" / "out"):
        pass
    assert names(tmp_path) == []
