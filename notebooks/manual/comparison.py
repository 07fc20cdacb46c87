"""Tables of measured figures, computed from benchmarks/results/*.json.

    python notebooks/manual/comparison.py

rewrites everything below the marker in pages/costs.md and pages/comparison.md, and the table in README.md. The text
above the marker is written by hand. A test recomputes all three, and the build of the site does too.
"""

import pathlib
import sys
from collections.abc import Iterable, Mapping

import costs
import peers
from figures import Line, command, document, rows_of

HERE = pathlib.Path(__file__).parent
PAGES = {"costs.md": costs.SECTIONS, "comparison.md": peers.SECTIONS}
MARKER = "<!-- computed from benchmarks/results by notebooks/manual/comparison.py: edit nothing below -->"


def table(lines: Iterable[Line]) -> str:
    """Write one line for each figure."""
    body = [f"| {text} | {figure(rows_of(name))} | `{name}` |" for text, name, figure in lines]
    return "\n".join(["| what | figure | measured by |", "|---|---|---|", *body])


def sources(names: Iterable[str]) -> str:
    """Write one line for each result: date, device, versions and command."""
    body = []
    for name in sorted(set(names)):
        found = document(name)
        device = "CPU" if found["backend"] == "cpu" else found["device"]
        machine = f"{device}, {found['cores']} cores, load {found['load']}"
        versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
        what = f"`{name}`", found["date"][:10], machine, f"Python {found['python']}, {versions}", f"`{command(name)}`"
        body.append("| " + " | ".join(what) + " |")
    return "\n".join(["| result | date | device | versions | command |", "|---|---|---|---|---|", *body])


def computed(sections: Mapping[str, list[Line]]) -> str:
    """Write all sections, and where their figures are from."""
    parts = [f"## {title}\n\n{table(lines)}" for title, lines in sections.items()]
    names = [name for lines in sections.values() for _, name, _ in lines]
    return "\n\n".join([*parts, f"## Where the figures are from\n\n{sources(names)}"])


def front() -> str:
    """Return the table of the front page."""
    return "\n".join(costs.front())


def page(name: str) -> str:
    """Return a page: its own text down to the marker, and the figures computed anew."""
    written, marker, _ = (HERE / "pages" / name).read_text().partition(MARKER)
    if not marker:
        raise ValueError(f"{name} has no line {MARKER!r}")
    return f"{written}{MARKER}\n\n{computed(PAGES[name])}\n"


def readme() -> str:
    """Return the front page with the figures computed anew."""
    text = (HERE.parents[1] / "README.md").read_text()
    start = text.index(front().splitlines()[0])
    return text[:start] + front() + text[text.index("\n\n", start) :]


def main() -> int:
    """Rewrite the pages."""
    (HERE.parents[1] / "README.md").write_text(readme())
    for name in PAGES:
        (HERE / "pages" / name).write_text(page(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
