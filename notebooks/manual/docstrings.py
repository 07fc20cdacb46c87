"""Extension of griffe for docstrings as this package writes them.

A section `Example:` is read as `Examples:`, with its doctest as code. Fields of a NamedTuple have the annotation and
the docstring of the source, where Python itself says "Alias for field number 0".
"""

import ast
import functools
import importlib
import inspect
import textwrap
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Read examples as code, and the docstrings of fields from the source."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is None:
            return
        obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
        if obj.is_attribute and obj.docstring.value.startswith("Alias for field number") and obj.parent is not None:
            annotation, text = _fields(obj.parent.path).get(obj.name, ("", ""))
            obj.docstring.value = text
            obj.value, obj.annotation = None, annotation


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
