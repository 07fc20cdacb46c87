"""Text output of results: shapes for `repr`, a table of the pairs for `print`; both work under transformations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Most rows and batch members of a table.
_ROWS, _LANES = 20, 3
# Most leaves of a pytree that are printed one by one.
_LEAVES = 4
_DIGITS = ".8g"
_LONGEST = 60


def short_repr(self: Any) -> str:
    """Format the fields of a NamedTuple: arrays by dtype and shape, numbers of shape () by value.

    >>> import jax.numpy as jnp
    >>> from eigenjax import TraceResult
    >>> TraceResult(jnp.float32(3.5), jnp.ones((2, 3)), jnp.int32(9))
    TraceResult(estimate=3.5, standard_error=float32[2,3], num_matvecs=9, status=0)
    """
    entries = (f"{name}={_brief(value)}" for name, value in self._asdict().items() if value is not None)
    return f"{type(self).__name__}({', '.join(entries)})"


def table_by(rows: str, names: Callable[[int], str] = str) -> Callable[..., str]:
    """Create a `__str__` for a NamedTuple: a row for each entry of a field, a column for each field of its shape.

    Args:
        rows: name of the field that sets the number of rows, such as "eigenvalues".
        names: map from a code in a field named status to its text.

    Returns:
        The method. It prints the first members of a batch; if the fields are traced, it prints their shapes.

    >>> import jax.numpy as jnp
    >>> from eigenjax import EigenResult
    >>> print(EigenResult(jnp.array([3.0, 2.0]), None, jnp.zeros(2), jnp.array([True, False]), 1, 9))
    EigenResult: status NOT_CONVERGED, num_matvecs 9
      #   eigenvalue    residual   converged
      0            3     0.0e+00         yes
      1            2     0.0e+00          no
    """

    def table(result: Any) -> str:
        fields = {name: _concrete(value) for name, value in result._asdict().items()}
        leading = fields.get(rows)
        if leading is None or leading.ndim == 0 or leading.dtype == object:
            return short_repr(result)
        lanes = leading.shape[:-1]
        columns = {name: x for name, x in fields.items() if x is not None and x.shape == leading.shape}
        scalars = {name: x for name, x in fields.items() if x is not None and x.shape == lanes}
        title = type(result).__name__
        if not lanes:
            return _one(title, scalars, columns, names)
        parts = [f"{title}: a batch of shape {lanes}"]
        for lane in list(np.ndindex(lanes))[:_LANES]:
            at = lambda group, lane=lane: {name: x[lane] for name, x in group.items()}
            parts.append(_one(f"member {', '.join(map(str, lane))}", at(scalars), at(columns), names))
        left = int(np.prod(lanes)) - len(parts) + 1
        return "\n".join([*parts, f"... and {left} more"] if left > 0 else parts)

    return table


def _one(title: str, scalars: dict[str, Any], columns: dict[str, Any], names: Callable[[int], str]) -> str:
    head = [f"{name} {names(int(x)) if name == 'status' else _number(x, _DIGITS)}" for name, x in scalars.items()]
    cells = [["#", *(_heading(name) for name in columns)]]
    count = len(next(iter(columns.values())))
    for row in range(min(count, _ROWS)):
        leads = [_number(x[row], _DIGITS if place == 0 else ".1e") for place, x in enumerate(columns.values())]
        cells.append([str(row), *leads])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths = [widths[0], *(max(width, 9) for width in widths[1:])]
    lines = ["  " + "   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines += [f"  ... and {count - _ROWS} more"] if count > _ROWS else []
    return "\n".join([f"{title}: {', '.join(head)}" if head else f"{title}:", *lines])


def _heading(name: str) -> str:
    return name.removesuffix("s").replace("_", " ")


def _number(x: Any, digits: str) -> str:
    if x.dtype == bool:
        return "yes" if x else "no"
    if np.issubdtype(x.dtype, np.integer):
        return str(int(x))
    return format(complex(x) if np.iscomplexobj(x) else float(x), digits)


def _concrete(value: Any) -> np.ndarray | None:
    """Return the numbers of an array, or None if they are not available on this host."""
    if isinstance(value, jax.Array):
        if isinstance(value, Tracer) or value.is_deleted() or jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return None
        if not value.is_fully_addressable:
            return np.asarray(value.addressable_data(0)) if value.is_fully_replicated else None
        return np.asarray(jax.device_get(value))
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic | int | float | complex) else None


def _brief(value: Any) -> str:
    leaves = jax.tree.leaves(value)
    if len(leaves) > _LEAVES:
        return f"<{len(leaves)} leaves, {sum(int(np.size(leaf)) for leaf in leaves)} numbers>"
    return repr(jax.tree.map(_Text, value))


class _Text:
    """Short text for one leaf, without quotation marks inside the repr of a container."""

    def __init__(self, value: Any):
        number = _concrete(value) if np.shape(value) == () else None
        if number is not None:
            self.text = _number(number, _DIGITS)
        elif hasattr(value, "dtype") and hasattr(value, "shape"):
            self.text = f"{value.dtype}[{','.join(map(str, value.shape))}]"
        else:
            self.text = repr(value)[:_LONGEST]

    def __repr__(self) -> str:
        return self.text
