"""Report as one self-contained HTML page, with embedded pictures and style sheet, and without scripts."""

import html
import importlib.resources
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from eigenjax.report.output import page_tables
from eigenjax.report.output.panels import Panel
from eigenjax.report.output.svg import inline_svg

# Forbid loading and running anything, even if a name in a problem contains HTML.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# Titles of the sections, in order; `_ABOUT` explains some of them.
_SECTIONS = {
    "pairs": "Eigenpairs",
    "convergence": "Convergence and cost",
    "gauss-newton": "Hessian and Gauss-Newton matrix",
    "density": "Spectral density",
    "layers": "Eigenvalues of each layer",
    "landscape": "Loss along the eigenvectors",
    "training": "Training",
}
_BESIDE = ("convergence", "gauss-newton", "density")
_ABOUT = {
    "pairs": "Bound: at least one eigenvalue of the operator lies within the residual r of each value. Estimate: the "
    "error is about r\u00b2 / gap, where the gap is the distance to the nearest other eigenvalue found. It is too "
    "small if a closer eigenvalue was not found, r if no gap is known, and at least the rounding error. The Lanczos "
    "method verifies all pairs by one matvec; its residuals include the rounding error found in it.",
    "convergence": "One Krylov space serves both ends of the spectrum. Residuals are computed every few matvecs until "
    "all pairs of an end have converged.",
    "gauss-newton": "The Gauss-Newton matrix is the Hessian of the loss with the model linearized at its parameters. "
    "It has no negative eigenvalues if the loss is a convex function of the model's outputs. For softmax "
    "cross-entropy with one prediction per example it equals the Fisher information matrix.",
    "density": "The distribution of all eigenvalues, estimated from random vectors by stochastic Lanczos quadrature. "
    "The pairs asked for count exactly. Features narrower than 1/200 of the width of the spectrum are not resolved.",
    "landscape": "Each line extends to where the quadratic term is twice the loss.",
    "layers": "The largest eigenvalues of the diagonal block of each layer, with the parameters of all other layers "
    "held constant.",
}


def write_page(path: pathlib.Path, document: Mapping[str, Any], panels: Mapping[str, list[Panel]]) -> None:
    """Write the HTML page to a file.

    Args:
        path: path of the file.
        document: the contents of `spectrum.json`.
        panels: lists of pictures by the name of their section.
    """
    # Names may contain unpaired surrogates, which UTF-8 cannot encode.
    path.write_text(page(document, panels), encoding="utf-8", errors="replace")


def page(document: Mapping[str, Any], panels: Mapping[str, list[Panel]]) -> str:
    """Format the page as HTML, with all names of problems, layers and options escaped.

    Args:
        document: the contents of `spectrum.json`.
        panels: lists of pictures by the name of their section.

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
    """Yield the HTML of a section, with a note if it failed or was omitted; nothing if it is empty."""
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
        # On a wide page a narrow table is placed beside a single picture.
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
