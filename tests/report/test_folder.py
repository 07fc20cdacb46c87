"""Atomic output of results: only files that an earlier report verifiably wrote are replaced."""

import hashlib
import json
import os
import stat

import pytest

from eigenjax.report.inputs.errors import ReportError
from eigenjax.report.output.folder import staged
from eigenjax.report.output.manifest import CONTENTS, own_files


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


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def foreign_list(out):
    (out / CONTENTS).write_text(json.dumps({"grating": 300, "files": ["raw.dat", "log.txt"]}))


def older_list(out):
    (out / CONTENTS).write_text(json.dumps({"arguments": {"k": 3}, "files": ["page.html", CONTENTS]}))
    (out / "page.html").write_text("page.html")


def edited_file(out):
    fill(out, ["page.html"])
    (out / "page.html").write_text("page.html, with remarks")


def edited_list(out):
    fill(out, ["page.html"])
    text = (out / CONTENTS).read_text()
    (out / CONTENTS).write_text(text.replace('"files"', '"Files"'))


def list_with_another_hash(out):
    fill(out, ["page.html"])
    document = json.loads((out / CONTENTS).read_text())
    (out / "page.html").write_text("theirs")
    document["manifest"]["sha256"]["page.html"] = hashlib.sha256(b"theirs").hexdigest()
    (out / CONTENTS).write_text(json.dumps(document, indent=2) + "\n")


def link_in_place_of_a_file(out):
    fill(out, ["page.html"])
    (out / "page.html").rename(out / "elsewhere.html")
    (out / "page.html").symlink_to("elsewhere.html")


def link_to_nothing(out):
    (out / "page.html").symlink_to("not-there")


def folder_in_place_of_a_file(out):
    (out / "page.html").mkdir()
    (out / "page.html" / "years.tex").write_text("mine")


def damaged_list(out):
    (out / CONTENTS).write_bytes(b"\xff{" + b"[" * 100_000)


def list_of_another_type(out):
    fill(out, ["page.html"])
    (out / CONTENTS).write_text(json.dumps({"manifest": {"format": "eigenjax report, 1", "sha256": ["page.html"]}}))


NOT_OURS = [
    *(foreign_list, older_list, edited_file, edited_list, list_with_another_hash, link_in_place_of_a_file),
    *(link_to_nothing, folder_in_place_of_a_file, damaged_list, list_of_another_type),
]


@pytest.mark.parametrize("prepare", NOT_OURS, ids=lambda f: f.__name__)
def test_what_is_not_provably_ours_is_refused_before_any_work(tmp_path, prepare):
    out = tmp_path / "out"
    out.mkdir()
    (out / "raw.dat").write_text("4 5 6")
    prepare(out)
    before, listed = bytes_of(tmp_path), names(tmp_path)
    with (
        pytest.raises(ReportError, match=r"(page\.html|spectrum\.json).*move or delete .*, or give another folder"),
        staged(out, expected=["page.html", CONTENTS]),
    ):
        pytest.fail("work has begun")
    assert (bytes_of(tmp_path), names(tmp_path)) == (before, listed)


def report_while(disturb, out, placed=lambda _: None):
    """Write a report of two files; `disturb` changes `out` while the report is computed."""
    with staged(out, expected=["page.html", CONTENTS], placed=placed) as scratch:
        disturb(out)
        before = bytes_of(out) if out.is_dir() else {}
        (scratch / "page.html").write_text("new")
        (scratch / CONTENTS).write_text("{}")
    return before


@pytest.mark.parametrize("prepare", NOT_OURS, ids=lambda f: f.__name__)
def test_what_comes_in_the_way_while_work_goes_on_stays_and_so_do_the_results(tmp_path, prepare):
    out, places = tmp_path / "out", []
    out.mkdir()
    with pytest.warns(RuntimeWarning, match="the results are in .*eigenjax-report-1"):
        before = report_while(prepare, out, places.append)
    assert before.items() <= bytes_of(out).items()
    assert places == [out / "eigenjax-report-1"]
    assert own_files(places[0]) == {"page.html", CONTENTS}
    assert not list(out.glob(".eigenjax-*"))


def test_a_file_in_place_of_the_folder_while_work_goes_on(tmp_path):
    with pytest.warns(RuntimeWarning, match="eigenjax-report-1"):
        report_while(lambda out: out.write_text("mine"), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    assert own_files(tmp_path / "eigenjax-report-1") == {"page.html", CONTENTS}


def test_files_of_an_earlier_report_that_were_edited_or_replaced_since_stay(tmp_path):
    out = tmp_path / "out"
    fill(out, ["edited.png", "folder.png", "stale.png", "page.html"])
    (out / "edited.png").write_text("with an arrow")
    (out / "folder.png").unlink()
    (out / "folder.png").mkdir()
    fill(out, ["page.html"])
    assert names(out) == sorted(["edited.png", "folder.png", "page.html", CONTENTS])
    assert own_files(out) == {"page.html", CONTENTS}


@pytest.mark.parametrize("name", ["../precious.txt", "/precious.txt", "sub/precious.txt", "..", ".", "", "a\0b"])
def test_a_list_never_reaches_outside(tmp_path, name):
    out = tmp_path / "out"
    fill(out, ["page.html"])
    (out / "sub").mkdir()
    for place in (tmp_path, out / "sub"):
        (place / "precious.txt").write_text("mine")
    # The list has correct hashes, but names files outside the folder.
    document = json.loads((out / CONTENTS).read_text())
    hashes = document["manifest"]["sha256"]
    hashes |= {name: hashlib.sha256(b"mine").hexdigest(), CONTENTS: "0" * 64}
    text = json.dumps(document)
    (out / CONTENTS).write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest()))
    assert own_files(out) == {"page.html", CONTENTS}
    fill(out, ["page.html"])
    assert (tmp_path / "precious.txt").exists()
    assert (out / "sub" / "precious.txt").exists()


def test_the_place_of_the_hash_is_found_whatever_else_the_list_holds(tmp_path):
    for _ in range(2):
        with staged(tmp_path / "out", expected=[CONTENTS]) as scratch:
            (scratch / CONTENTS).write_text(json.dumps({"name": "0" * 64, "files": [CONTENTS]}))
    assert json.loads((tmp_path / "out" / CONTENTS).read_text())["name"] == "0" * 64
    assert own_files(tmp_path / "out") == {CONTENTS}


def test_a_link_to_a_folder_is_followed_and_one_to_nothing_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", ["page.html"])
    assert names(tmp_path / "real") == ["page.html", CONTENTS]
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(ReportError, match="is a link to nothing"), staged(tmp_path / "broken"):
        pass
    with pytest.raises(ReportError, match="is no path"), staged("a\0b"):
        pass
    with pytest.raises(ReportError, match="cannot write there: File name too long"), staged(tmp_path / ("x" * 300)):
        pass


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
