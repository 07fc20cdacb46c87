"""Page of the site: mathematics as MathML, names of the library as links to their reference, no scripts from elsewhere.

The pages hold LaTeX between dollar signs, which GitHub typesets too. Browsers typeset MathML without any script.
"""

import html
import json
import pathlib
import posixpath
import re
from typing import Any

# Names that are also fields, methods or plain words link only as a call, such as `trace(op, key=key)`.
AMBIGUOUS = {"deflate", "trace", "logdet", "diagonal", "estimate", "blocks", "run", "stream", "svd"}
_CLOSED = ("a", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "title", "script", "style", "math", "nav")


def mathml(latex: str, display: str) -> str:
    """Return a formula as MathML; raise an error for a command that the converter lacks."""
    from latex2mathml.converter import convert

    found = convert(latex, display=display)
    if "\\" in found:
        raise ValueError(f"no MathML for {latex!r}: {found}")
    return found


def typeset(page: str) -> str:
    """Replace the formulas that pymdownx.arithmatex has marked."""
    inline = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
    block = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)
    page = inline.sub(lambda match: mathml(html.unescape(match[1]), "inline"), page)
    return block.sub(lambda match: _display(html.unescape(match[1])), page)


def _display(latex: str) -> str:
    """Return a displayed formula; several of them, as docstrings hold, wrap on a narrow screen."""
    parts = latex.split(r",\quad ")
    if len(parts) == 1:
        return f'<div class="formula">{mathml(latex, "block")}</div>'
    formulas = [mathml(part, "inline").replace("<math ", '<math displaystyle="true" ', 1) for part in parts]
    return f'<div class="formula several">{", &emsp;".join(formulas)}</div>'


def typeset_notebook(path: pathlib.Path) -> None:
    """Replace the formulas in the text cells of a notebook."""
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            text = re.sub(r"\$\$(.+?)\$\$", lambda match: mathml(match[1], "block"), text, flags=re.S)
            cell["source"] = re.sub(r"\$([^$\n]+)\$", lambda match: mathml(match[1], "inline"), text)
    path.write_text(json.dumps(notebook))


def without_scripts(page: str) -> str:
    """Remove the scripts that a notebook would load from a server."""
    page = re.sub(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", "", page, flags=re.S)
    return re.sub(r'<script type="module">(?:(?!</script>).)*?cdnjs.*?</script>', "", page, flags=re.S)


def linked(page: str, url: str, targets: dict[str, str]) -> str:
    """Link each name of the library in code to its entry in the reference."""
    stack: list[str] = []
    pieces, anchor, cell = [], "", 0
    for piece in re.split(r"(<code>[^<]*</code>|<[^>]+>)", page):
        tag = re.match(r"<(/?)([a-z0-9]+)", piece)
        if piece.startswith("<code>"):
            # The first column of a table in "coming from another library" holds the names of that library.
            is_foreign = (url.startswith("coming_from") and cell == 1) or "".join(pieces[-1:]).endswith(
                ("SciPy ", "'s ")
            )
            piece = piece if stack or is_foreign else _link(piece, url, targets, anchor)
        elif tag and tag[2] in _CLOSED:
            if tag[1] and tag[2] in stack:
                del stack[stack.index(tag[2]) :]
            elif not tag[1]:
                stack.append(tag[2])
                found = re.search(r'id="([^"]+)"', piece)
                anchor = found[1] if found and tag[2] == "h2" else anchor
        elif tag and tag[2] in ("tr", "td") and not tag[1]:
            cell = 0 if tag[2] == "tr" else cell + 1
        pieces.append(piece)
    return "".join(pieces)


def _link(code: str, url: str, targets: dict[str, str], anchor: str) -> str:
    call = re.fullmatch(r"<code>(?:eigenjax\.)?([A-Za-z_]+)(\(.*\))?</code>", code, re.S)
    if call is None or call[1] not in targets or (call[1] in AMBIGUOUS and not call[2] and "eigenjax." not in code):
        return code
    target = targets[call[1]]
    if target.endswith(f"#{anchor}") and anchor:
        return code
    page, _, place = target.partition("#")
    return f'<a class="name" href="{posixpath.relpath(page, posixpath.dirname(url) or ".")}#{place}">{code}</a>'


def on_page_content(text: str, *, page: Any, config: Any, **_: Any) -> str:
    """Finish the text of one page."""
    return linked(without_scripts(typeset(text)), page.url, config.extra["targets"])
