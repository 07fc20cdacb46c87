"""Extension of griffe for docstrings as this package writes them.

A section `Example:` is read as `Examples:`, with its doctest as code. An indented block of formulas, before the
sections, becomes typeset mathematics where `formulas` can convert it. Fields of a NamedTuple have the annotation and
the docstring of the source, where Python itself says "Alias for field number 0". A status code has its advice.
"""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import sys
import textwrap
from typing import Any

import griffe

import eigenjax

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import formulas


class Docstrings(griffe.Extension):
    """Read examples as code, and the docstrings of fields from the source."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.is_attribute and obj.parent is not None and obj.parent.name.endswith("Status") and obj.name.isupper():
            obj.docstring = griffe.Docstring(_advice(obj.parent.path, obj.name), parent=obj)
        if obj.is_function:
            _complete_parameters(obj)
        if obj.docstring is None:
            return
        obj.docstring.value = typeset(_plain_returns(obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")))
        if obj.is_attribute and obj.docstring.value.startswith("Alias for field number") and obj.parent is not None:
            annotation, text = _fields(obj.parent.path).get(obj.name, ("", ""))
            obj.docstring.value = text
            obj.value, obj.annotation = None, annotation


def _complete_parameters(function: Any) -> None:
    """Add the options that a public function has beyond the one that it wraps, such as those of derivatives."""
    public = getattr(eigenjax, function.name) if function.name in eigenjax.__all__ else None
    inner = inspect.unwrap(public) if inspect.isfunction(public) else None
    if inner is None or f"{inner.__module__}.{function.name}" != function.path:
        return
    for name, parameter in inspect.signature(public).parameters.items():
        if name not in function.parameters:
            kind = griffe.ParameterKind.keyword_only
            function.parameters.add(griffe.Parameter(name, kind=kind, default=repr(parameter.default)))


def _plain_returns(docstring: str) -> str:
    """Escape the colons in the section `Returns`, whose text before a colon would be read as a type."""
    escape = lambda found: found[1] + re.sub(r":(?=\s)", "&#58;", found[2])
    return re.sub(r"(\nReturns:\n)(.*?)(?=\n\n[A-Z][a-z]+:|\Z)", escape, docstring, flags=re.DOTALL)


def _advice(path: str, name: str) -> str:
    """Return the advice of a status code."""
    module, _, status = path.rpartition(".")
    return getattr(importlib.import_module(module), status)[name].advice


def typeset(docstring: str) -> str:
    """Replace the indented blocks of formulas before the first section by LaTeX."""
    paragraphs = docstring.split("\n\n")
    for place, paragraph in enumerate(paragraphs):
        if re.match(r"[A-Z][a-z]+:\n", paragraph):
            break
        if paragraph.startswith("    ") and not paragraph.lstrip().startswith(">>>"):
            found = formulas.latex(textwrap.dedent(paragraph))
            paragraphs[place] = paragraph if found is None else f"$$\n{found}\n$$"
    return "\n".join(map(_without_tags, "\n\n".join(paragraphs).split("\n")))


def _without_tags(line: str) -> str:
    """Escape an inner product such as <u, v>, which Markdown would read as a tag of HTML."""
    if line.lstrip().startswith((">>>", "...", "\\", "$")):
        return line
    pieces = line.split("`")
    pieces[::2] = [re.sub(r"<(?=[A-Za-z])", "&lt;", piece) for piece in pieces[::2]]
    return "`".join(pieces)


@functools.cache
def _fields(path: str) -> dict[str, tuple[str, str]]:
    """Return the annotation and the docstring of each field of a class."""
    module, _, name = path.rpartition(".")
    source = textwrap.dedent(inspect.getsource(getattr(importlib.import_module(module), name)))
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    fields = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            text = inspect.cleandoc(str(following.value.value)) if is_text else ""  # type: ignore[union-attr]
            fields[statement.target.id] = (ast.unparse(statement.annotation), text)
    return fields
