"""Figures as inline SVG, in the colors of the page's light or dark theme, and as files."""

import html
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from eigenjax.report.pictures import canvas

# The page's style sheet gives each variable a value for the light and the dark theme.
_VARIABLES = {
    canvas.BLUE: "var(--blue)",
    canvas.ORANGE: "var(--orange)",
    canvas.GREEN: "var(--green)",
    canvas.PURPLE: "var(--purple)",
    canvas.INK: "var(--ink)",
    canvas.GREY: "var(--grey)",
    canvas.GRID: "var(--grid)",
}
# Omit external addresses and dates, so that the page is self-contained and the same numbers give the same bytes.
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline_svg(figure: Any, name: str, label: str) -> str:
    """Format a figure as an `svg` element that scales with the page, with text as shapes and unique ids.

    Args:
        figure: a matplotlib figure.
        name: name of the picture, unique within its page, of letters, digits and "-".
        label: description of the picture, for screen readers.

    Returns:
        The `svg` element as HTML text.

    Example:
        >>> svg = inline_svg(canvas.new_figure(2, 1), "empty", "nothing < something")
        >>> svg.startswith('<svg role="img" aria-label="nothing &lt; something"'), "144pt" in svg
        (True, False)
    """
    text = _svg(figure, transparent=True)
    text = text[text.index("<svg") :]
    # The page's style sheet contains these rules once for all pictures.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = _renamed(text, name)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    # The page sets the size: only the aspect ratio, in viewBox, stays.
    head, body = text.split(">", 1)
    head = re.sub(r' (width|height|version|xmlns(:\w+)?)="[^"]*"', "", head)
    body = body.replace("xlink:href", "href")
    return head.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1) + ">" + body.strip()


def save_figure(figure: Any, path: pathlib.Path, formats: Sequence[str]) -> None:
    """Save a figure in each format; the same numbers give the same bytes.

    Args:
        figure: a matplotlib figure.
        path: path of the files without their suffix.
        formats: any of "png", "svg" and "pdf".
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
    """Replace the ids of an SVG, random or shared by all pictures, by the picture's name and a number."""
    names = {old: f"{name}-{number}" for number, old in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', text)))}
    replace = lambda match: match[1] + names.get(match[2], match[2]) + match[3]
    return re.sub(r'(\bid="|href="#|url\(#)([^")]+)("|\))', replace, text)
