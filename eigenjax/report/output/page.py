"""The report as one HTML page that needs nothing else: pictures within it, a style sheet of its own, no scripts."""

import html
import importlib.resources
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from eigenjax.report.output import page_tables
from eigenjax.report.output.panels import Panel
from eigenjax.report.output.svg import inline_svg

# Nothing may be fetched or run, whatever a name in a problem says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# The sections in their order, and what a reader should know of them.
_SECTIONS = {
    "pairs": "Eigenpairs",
    "convergence": "How they were found",
    "gauss-newton": "Beside the Gauss-Newton matrix",
    "density": "All eigenvalues",
    "layers": "Layer by layer",
    "landscape": "The loss around the parameters",
    "training": "In training",
}
_BESIDE = ("convergence", "gauss-newton", "density")
_ABOUT = {
    "pairs": "An eigenvalue lies within the residual r of each value shown. The error estimate is r\u00b2 over the "
    "distance to the others found, where a pair stands apart from them: smaller, and right unless an eigenvalue that "
    "was not found lies nearer. Neither is below rounding.",
    "gauss-newton": "It is the part of the Hessian that stays when the model is linearised, and has no negative "
    "eigenvalues. For a cross-entropy of logits, one position to an example, it is the Fisher information too.",
    "density": "By stochastic Lanczos quadrature: shares are counted, eigenvalues not computed. What is narrower than "
    "the kernel of the curve is not resolved.",
    "layers": "The largest eigenvalues of each layer's diagonal block, the other layers being constant.",
}


def write_page(path: pathlib.Path, document: Mapping[str, Any], panels: Mapping[str, list[Panel]]) -> None:
    """Writes the page.

    Args:
        path: of the file.
        document: what `spectrum.json` holds.
        panels: pictures by the section they belong to.
    """
    # Names may hold halves of letters, which no encoding has.
    path.write_text(page(document, panels), encoding="utf-8", errors="replace")


def page(document: Mapping[str, Any], panels: Mapping[str, list[Panel]]) -> str:
    """The page as text; every word of a problem, a layer or an option is escaped.

    Args:
        document: what `spectrum.json` holds.
        panels: pictures by the section they belong to.

    Returns:
        HTML.
    """
    title = f"Spectrum of the {document['operator']['title']}"
    style = importlib.resources.files("eigenjax.report.output").joinpath("page.css").read_text(encoding="utf-8")
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">',
        f"<style>\n{style}</style>\n</head>\n<body>",
        f"<h1>{html.escape(title)}</h1>",
        *page_tables.summary(document),
        *(part for name in _SECTIONS for part in _section(name, document, panels.get(name, []))),
        *page_tables.details(document),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _section(name: str, document: Mapping[str, Any], panels: list[Panel]) -> Iterable[str]:
    """A section, with a line for what is missing; nothing at all where there is nothing to say."""
    tables, note = page_tables.of_section(name, document), document["notes"].get(name)
    if not (tables or panels or note):
        return
    yield f'<section id="{name}">\n<h2>{_SECTIONS[name]}</h2>'
    if note:
        kind = "bad" if note.startswith("failed") else "about"
        yield f'<p class="{kind}">{html.escape(note[0].upper() + note[1:])}.</p>'
    elif name in _ABOUT:
        yield f'<p class="about">{_ABOUT[name]}</p>'
    if panels:
        # A narrow table stands beside a picture that is alone, where the page is wide.
        beside, below = (tables, []) if name in _BESIDE else ([], tables)
        tables = below
        yield '<div class="pictures">'
        yield from (_figure(panel) for panel in panels)
        if beside:
            yield f"<div>{''.join(beside)}</div>"
        yield "</div>"
    yield from tables
    yield "</section>"


def _figure(panel: Panel) -> str:
    svg = inline_svg(panel.axes.figure, panel.name, panel.caption)
    return f"<figure>{svg}\n<figcaption>{html.escape(panel.caption)}</figcaption></figure>"
