"""Picture of the eigenvalues of all layers, one row for each."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eigenjax.report.pictures import canvas
from eigenjax.report.pictures.words import literal, word
from eigenjax.result import EigenResult

# Longest name of a layer, in characters.
_LONGEST = 24
# Heights in inches: of a row, of the space around the rows, and of the smallest figure.
_ROW, _AROUND, _LEAST = 0.3, 1.3, 2.6


def draw_layers(results: Mapping[str, EigenResult], *, axes: Any = None) -> Any:
    """Draw the eigenvalues of each layer's diagonal block in a separate row, the first layer on top.

    Args:
        results: results by the name of the layer, as returned by `block_spectra`; long names are shortened.
        axes: matplotlib axes to draw on; None creates a figure whose height fits the number of layers.

    Returns:
        The axes.

    Raises:
        TypeError: if results is not a dict.
        ValueError: if it is empty.

    Example:
        >>> import eigenjax, jax.numpy as jnp
        >>> layers = {"dense/first": jnp.diag(jnp.arange(5.0)), "dense/second": jnp.diag(2 * jnp.arange(5.0))}
        >>> axes = draw_layers({name: eigenjax.lanczos(block, k=2) for name, block in layers.items()})
        >>> [text.get_text() for text in axes.get_yticklabels()]
        ['first', 'second']
    """
    if not isinstance(results, Mapping):
        raise TypeError(
            f"results is a {type(results).__name__}: give what block_spectra(op, k) returns, a dict by layer"
        )
    if not results:
        raise ValueError("results is empty: give at least one layer")
    axes = canvas.axes_or_new(axes, 4.6, max(_LEAST, _AROUND + _ROW * len(results)))
    places, values, converged = _points(results)
    style = {"linestyle": "none", "marker": "|", "markersize": 13, "markeredgewidth": 1.8}
    axes.plot(values[converged], places[converged], color=canvas.BLUE, label="converged", **style)
    if not converged.all():
        hollow = style | {"marker": "s", "markersize": 6, "markeredgewidth": 1.2, "markerfacecolor": "none"}
        axes.plot(values[~converged], places[~converged], color=canvas.ORANGE, label="not converged", **hollow)
        axes.figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize="small", labelcolor=canvas.INK)
    if canvas.is_wide(values):
        axes.set_xscale("log")
        if np.nanmax(values) < 1e3 * np.nanmin(values):
            canvas.scale_by_decades(axes.xaxis)
    elif np.nanmin(values, initial=0.0) >= 0:
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(results)), _short(list(results)))
    literal(axes.get_yticklabels())
    axes.set_ylim(len(results) - 0.4, -0.6)
    canvas.dress(axes, title="Eigenvalues by layer", x="eigenvalue λ")
    axes.tick_params(axis="y", length=0)
    return axes


def _short(names: list[str]) -> list[str]:
    """Shorten names: remove the parents that all share, and the middle of long ones.

    >>> _short(["params/encoder/query", "params/decoder/query"])
    ['encoder/query', 'decoder/query']
    """
    parts = [str(name).split("/") for name in names]
    while len(parts) > 1 and all(len(part) > 1 and part[0] == parts[0][0] for part in parts):
        parts = [part[1:] for part in parts]
    whole = ["/".join(part) or "(all)" for part in parts]
    cut = [word(name, _LONGEST) for name in whole]
    # If the shortened names are not unique, prepend numbers.
    return cut if len(set(cut)) == len(cut) else [f"{number}: {name}" for number, name in enumerate(cut, 1)]


def _points(results: Mapping[str, EigenResult]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (m,) row numbers, eigenvalues and converged flags of all layers."""
    counts = [np.size(result.eigenvalues) for result in results.values()]
    together = lambda parts: np.concatenate([np.ravel(np.asarray(part)) for part in parts])
    values = together([result.eigenvalues for result in results.values()]).astype(np.float64)
    return np.repeat(np.arange(len(counts)), counts), values, together([r.converged for r in results.values()])
