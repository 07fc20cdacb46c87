"""Progress: a bar at a terminal, plain lines elsewhere."""

import io
import re

import pytest
from rich.console import Console

from eigenjax.report.inputs.progress import Progress

NOTE = "11532 matvecs, 10/10 converged, worst 4.7e-05"


def displayed(**options):
    console = Console(file=io.StringIO(), width=80, **options)
    with Progress(console).stage("power LA", 10) as update:
        update(5, "half")
        update(10, NOTE)
    return console.file.getvalue()


def test_the_longest_note_fits_beside_the_bar_of_a_terminal():
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", displayed(force_terminal=True)).replace("\r", "\n").splitlines()
    last = [line for line in lines if line.strip()][-1]
    assert last.startswith("power LA  ━━")
    assert NOTE in last
    assert len(last) <= 80


def test_elsewhere_one_plain_line_at_the_end():
    assert re.fullmatch(rf"power LA: {NOTE} \(\d+\.\d s\)\n", displayed(force_terminal=False))


def test_a_stage_that_fails_says_nothing():
    console = Console(file=io.StringIO())
    with pytest.raises(ZeroDivisionError), Progress(console).stage("power LA", 10) as update:
        update(1 // 0, "never")
    assert console.file.getvalue() == ""


def test_what_looks_like_markup_is_text():
    console = Console(file=io.StringIO(), width=20)
    Progress(console).say("[bold]a/[/] " + "b" * 40)
    assert console.file.getvalue() == "[bold]a/[/] " + "b" * 40 + "\n"
