"""The spectra of all layers, one row for each."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eigenjax.report.pictures import canvas
from eigenjax.result import EigenResult

# Inches: of a row, and of what stands around them.
_ROW, _AROUND, _LEAST = 0.3, 1.3, 2.6


def draw_layers(results: Mapping[str, EigenResult], *, axes: Any = None) -> Any:
    """Eigenvalues of each layer's block in a row of its own, the first layer on top.

    Args:
        results: by the name of the layer, as `block_spectra` returns them.
        axes: to draw on; None makes a figure as high as it has to be.

    Returns:
        The axes.

    Raises:
        TypeError: if results is no dict; ValueError: if it is empty.

    Example:
        >>> import eigenjax, jax.numpy as jnp
        >>> params = {"first": jnp.ones(3), "second": 2 * jnp.ones(3)}
        >>> op = eigenjax.hessian(lambda p: jnp.sum(p["first"] ** 3) + jnp.sum(p["second"] ** 3), params)
        >>> axes = draw_layers(eigenjax.block_spectra(op, k=2, by=1))
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
    axes.set_yticks(range(len(results)), [name or "(all)" for name in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    canvas.dress(axes, title="Eigenvalues of each layer's block", x="eigenvalue λ")
    axes.tick_params(axis="y", length=0)
    return axes


def _points(results: Mapping[str, EigenResult]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(m,) rows, eigenvalues and flags of all layers."""
    counts = [np.size(result.eigenvalues) for result in results.values()]
    together = lambda parts: np.concatenate([np.ravel(np.asarray(part)) for part in parts])
    values = together([result.eigenvalues for result in results.values()]).astype(np.float64)
    return np.repeat(np.arange(len(counts)), counts), values, together([r.converged for r in results.values()])
