"""Short descriptions of operators for `repr`, without array values."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from eigenjax.vectors.tree import PyTree

# Largest number of leaves listed one by one; for more, only their number is shown.
_LEAVES_SHOWN = 4
# Largest number of characters shown of a value.
_LENGTH = 60


def structure_summary(structure: PyTree) -> str:
    """Return the shapes of a vector's leaves by path, or the number of leaves if there are more than four.

    >>> structure_summary(jax.ShapeDtypeStruct((3,), "float32")), structure_summary({"a": jax.numpy.ones((2, 3))})
    ('(3,)', 'a (2, 3)')
    """
    leaves = jax.tree_util.tree_flatten_with_path(structure)[0]
    if len(leaves) > _LEAVES_SHOWN:
        return f"{len(leaves)} leaves"
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return ", ".join(f"{name(path)} {leaf.shape}".strip() for path, leaf in leaves)


def summary(op: Any, facts: Callable[[], dict[str, Any]]) -> str:
    """Return the class name, the given facts, and the static options and parts of an operator that is a dataclass."""
    fields = dataclasses.fields(op) if dataclasses.is_dataclass(op) else ()
    parts = {field.name: _short(getattr(op, field.name)) for field in fields}
    try:
        described = {name: str(value) for name, value in facts().items()}
    except (AttributeError, TypeError, ValueError):
        # The leaves need not be arrays: a pytree of this structure may hold shardings or vmap axes.
        described = {}
    entries = described | {name: value for name, value in parts.items() if value is not None}
    return f"{type(op).__name__}({', '.join(f'{name}={value}' for name, value in entries.items())})"


def _short(value: Any) -> str | None:
    """Return a short text for a value, or None for arrays, pytrees of arrays and None, which are not shown."""
    if isinstance(value, bool | int | float | str):
        return repr(value)[:_LENGTH]
    if hasattr(value, "structure") or hasattr(value, "codomain"):
        return type(value).__name__
    name = getattr(value, "source_name", None)
    return str(name)[:_LENGTH] if name is not None else None
