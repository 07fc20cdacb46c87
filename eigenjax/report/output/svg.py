"""A figure as SVG within a page, in the colours of its light and dark side, and as files of its own."""

import html
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from eigenjax.report.pictures import canvas

# The page's style sheet gives each a value on either side.
_VARIABLES = {
    canvas.BLUE: "var(--blue)",
    canvas.ORANGE: "var(--orange)",
    canvas.GREEN: "var(--green)",
    canvas.PURPLE: "var(--purple)",
    canvas.INK: "var(--ink)",
    canvas.GREY: "var(--grey)",
    canvas.GRID: "var(--grid)",
}
# What would name an address outside, or a date: a page is to be itself alone, and the same for the same numbers.
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline_svg(figure: Any, name: str, label: str) -> str:
    """An `svg` element: texts as shapes, as wide as the page allows, with names of its own for all its parts.

    Args:
        figure: of matplotlib.
        name: of letters, digits and "-", of this picture alone within its page.
        label: what is to be seen, for those who cannot.

    Returns:
        HTML.

    Example:
        >>> svg = inline_svg(canvas.new_figure(2, 1), "empty", "nothing < something")
        >>> svg.startswith('<svg role="img" aria-label="nothing &lt; something"'), "144pt" in svg
        (True, False)
    """
    text = _svg(figure, transparent=True)
    text = text[text.index("<svg") :]
    # One for all pictures is in the page's style sheet.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = _renamed(text, name)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    # Its size is that of its place: only the ratio of its sides, in viewBox, is its own.
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height|version|xmlns(:\w+)?)="[^"]*"', "", head)
    rest = rest.replace("xlink:href", "href")
    return head.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1) + ">" + rest.strip()


def save_figure(figure: Any, path: pathlib.Path, formats: Sequence[str]) -> None:
    """Saves a figure in each format, the same bytes for the same numbers.

    Args:
        figure: of matplotlib.
        path: of the files, without what each format adds to it.
        formats: of "png", "svg" and "pdf".
    """
    for kind in formats:
        target = path.with_name(f"{path.name}.{kind}")
        if kind == "svg":
            target.write_text(_renamed(_svg(figure), path.name), encoding="utf-8", errors="replace")
        else:
            metadata = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(target, format=kind, dpi=canvas.DPI, metadata=metadata)


def _svg(figure: Any, **options: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA, **options)
    return buffer.getvalue()


def _renamed(text: str, name: str) -> str:
    """Some names are random, others the same in every picture: here each is the picture's and a number."""
    names = {old: f"{name}-{number}" for number, old in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', text)))}
    replace = lambda match: match[1] + names.get(match[2], match[2]) + match[3]
    return re.sub(r'(\bid="|href="#|url\(#)([^")]+)("|\))', replace, text)
