"""Names of parameters, solvers and steps: drawn as plain text, with any characters."""

import html
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from eigenjax.report import pictures
from eigenjax.report.output.page import page, write_page
from eigenjax.report.output.panels import Panel
from eigenjax.report.output.svg import inline_svg, save_figure
from eigenjax.report.pictures.words import word
from eigenjax.result import EigenResult

NAMES = {
    "formula": "b$^{2}_k$",
    "broken formula": "$\\sqrt{$",
    "dollars": "$w$ and $v$",
    "underscore": "_scale",
    "escape": "\\gamma_{0}^%#&~",
    "html": '<i>a</i> & "b" --> <!-- id="x" url(#y)',
    "accents": "éàü Ωλ",
    "no letters in the font": "重み/層🙂",
    "lines": "a\nb\tc\r\0",
    "half a letter": "\udc80x",
    "long": "block_" * 60,
    "spaces": " ",
}


def result_of(*values):
    values = np.asarray(values, np.float32)
    return EigenResult(values, None, values * 1e-6, values > 1.5, np.int32(1), np.int32(7))


def all_pictures(name):
    """List every picture that takes names, each with the texts that show this name."""
    result = result_of(3.0, 1.25)
    layers = pictures.draw_layers({f"net/{name}": result, "net/other": result})
    overlaps = pictures.draw_overlaps(np.eye(2), steps=[name, "other"])
    legends = [
        pictures.draw_eigenvalues({name: result, "other": result}),
        pictures.draw_convergence({name: ([1, 2], [1.0, 0.1])}, tolerance=1e-3),
        pictures.draw_sharpness([0, 1], [1.0, 2.0], labels=[name]),
    ]
    title = pictures.draw_eigenvalues({"a": result}, title=name)
    return [
        (layers, layers.get_yticklabels()[:1]),
        (overlaps, [overlaps.get_xticklabels()[0], overlaps.get_yticklabels()[0]]),
        *((axes, [axes.get_legend().get_texts()[0]]) for axes in legends),
        (title, [title.title]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_every_picture_draws_a_name_as_it_is(kind, tmp_path):
    name = NAMES[kind]
    for axes, texts in all_pictures(name):
        # Saving parses formulas and finds glyphs: warnings are errors here.
        axes.figure.savefig(tmp_path / "picture.png", dpi=20)
        save_figure(axes.figure, tmp_path / "picture", ("svg",))
        ElementTree.parse(tmp_path / "picture.svg")
        assert all(not text.get_parse_math() for text in texts)
        if kind in ("formula", "broken formula", "dollars", "escape", "accents"):
            assert {text.get_text() for text in texts} == {name}
        # The legend shows every entry.
        if axes.get_legend():
            assert len(axes.get_legend().get_texts()) == len(axes.get_legend_handles_labels()[1])


def test_names_that_begin_with_an_underscore_are_not_hidden():
    axes = pictures.draw_eigenvalues({"_first": result_of(2.0), "_second": result_of(1.75)})
    assert [text.get_text().strip() for text in axes.get_legend().get_texts()] == ["_first", "_second"]


def test_long_names_leave_room_and_what_has_no_letter_can_be_told_apart():
    assert word("w" * 400) == "w" * 21 + "…" + "w" * 20
    assert word("w" * 40) == "w" * 40
    assert word("重み") == "\\u91cd\\u307f" != word("層み")
    assert word("\udc80") == "\\udc80"
    assert word(7) == "7"
    with matplotlib.rc_context({"font.family": ["No Such Font", "DejaVu Sans"]}):
        assert word("éλ…") == "éλ…"
    with matplotlib.rc_context({"font.family": "No Such Font"}):
        assert word("a") == "a"


def test_numbers_on_a_logarithmic_axis_are_still_formulas():
    axes = pictures.draw_layers({"wide": result_of(1e6, 1.0)})
    axes.figure.canvas.draw()
    assert any("10^" in text.get_text() and text.get_parse_math() for text in axes.get_xticklabels())


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_the_page_holds_names_as_words(kind, made_report, tmp_path):
    name, (_, record, _) = NAMES[kind], made_report
    found = {name: next(iter(record["layers"]["found"].values()))}
    document = record | {
        "layers": {"found": found, "left_out": [name]},
        "problem": record["problem"] | {"leaves": {name: [2, 3]}},
        "arguments": record["arguments"] | {"problem": name},
    }
    panel = Panel("layers", f"caption of {name}", pictures.draw_layers({name: result_of(2.0)}))
    written = page(document, {"layers": [panel]})
    assert written.count(f'<td class="text">{html.escape(name)}</td>') == 3
    assert html.escape(name) in written
    assert "<i>" not in written
    # A name must not end an XML comment early.
    without_comments = re.sub(r"<!--.*?-->", "", written, flags=re.DOTALL)
    assert without_comments.count("<svg") == without_comments.count("</svg>") == 1
    write_page(tmp_path / "report.html", document, {})
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_files_of_pictures_are_the_same_bytes_for_the_same_numbers(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        save_figure(pictures.draw_layers({"w": result_of(2.0)}).figure, folder / "layers", ("png", "svg", "pdf"))
    for name in ("layers.png", "layers.svg", "layers.pdf"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "<svg" in inline_svg(pictures.draw_layers({"w": result_of(2.0)}).figure, "w", "w")
