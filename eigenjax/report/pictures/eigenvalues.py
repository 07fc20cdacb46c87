"""Pictures of eigenvalues and their residuals, of one result or of several on the same axes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eigenjax.report.analysis.solve import Solve
from eigenjax.report.analysis.tables import TITLES
from eigenjax.report.pictures import canvas
from eigenjax.report.pictures.words import literal, word
from eigenjax.result import EigenResult

# A cross fits inside a circle: coinciding marks show that two results agree.
_MARKS = (
    {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6, "color": canvas.BLUE},
    {"marker": "x", "markersize": 6, "markeredgewidth": 1.8, "color": canvas.ORANGE},
    {"marker": "+", "markersize": 11, "markeredgewidth": 1.6, "color": canvas.GREEN},
    {"marker": "D", "markersize": 4, "markerfacecolor": "none", "color": canvas.PURPLE},
)
NAMES = {"lanczos": "Lanczos", "power": "deflated power iteration"}


def draw_eigenvalues(results: Mapping[str, EigenResult], *, title: str | None = None, axes: Any = None) -> Any:
    """Draw eigenvalues against their index, for several results on the same axes.

    Eigenvalues that have not converged are marked by a square.

    Args:
        results: results by the name of the solver, at most four.
        title: title of the picture; None states the number of eigenvalues.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        TypeError: if results is not a dict.
        ValueError: if it is empty, or has more than four results.

    Example:
        >>> import eigenjax, jax.numpy as jnp
        >>> axes = draw_eigenvalues({"lanczos": eigenjax.lanczos(jnp.diag(jnp.arange(9.0)), k=3)})
        >>> axes.get_title()
        '3 eigenvalues'
    """
    _check(results)
    axes = canvas.axes_or_new(axes)
    for mark, (name, result) in zip(_MARKS, results.items(), strict=False):
        values, label = np.asarray(result.eigenvalues, np.float64), _label(name)
        axes.plot(_places(values), values, linestyle="none", label=label, **mark)
        failed = ~np.asarray(result.converged)
        if failed.any():
            style = {"marker": "s", "markersize": 14, "markerfacecolor": "none", "color": canvas.GREY}
            axes.plot(
                _places(values)[failed], values[failed], linestyle="none", label=f"{label}: not converged", **style
            )
    values = np.concatenate([np.asarray(result.eigenvalues, np.float64) for result in results.values()])
    _scale(axes, values)
    _count(axes, results)
    canvas.legend(axes, loc="best", fontsize="small")
    title = word(title, None) if title else f"{max(len(result.eigenvalues) for result in results.values())} eigenvalues"
    return canvas.dress(axes, title=title, x="pair", y="eigenvalue λ")


def draw_residuals(
    results: Mapping[str, EigenResult], *, tolerance: float | None = None, error_bounds: bool = False, axes: Any = None
) -> Any:
    """Draw residuals against the index of the pair on a logarithmic axis, with the tolerance.

    Args:
        results: results by the name of the solver, at most four.
        tolerance: residual up to which a pair counts as converged; None draws no line.
        error_bounds: also draw the error bounds of the eigenvalues as dots, for results that have them.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        TypeError: if results is not a dict.
        ValueError: if it is empty, or has more than four results.

    Example:
        >>> import eigenjax, jax.numpy as jnp
        >>> draw_residuals({"lanczos": eigenjax.lanczos(jnp.diag(jnp.arange(9.0)), k=3)}, tolerance=1e-3).get_yscale()
        'log'
    """
    _check(results)
    axes = canvas.axes_or_new(axes)
    for mark, (name, result) in zip(_MARKS, results.items(), strict=False):
        residuals = np.asarray(result.residuals)
        axes.plot(_places(residuals), _positive(residuals), linestyle="none", label=_label(name), **mark)
        if error_bounds and result.error_bounds is not None:
            bounds = _positive(np.asarray(result.error_bounds))
            label = f"{_label(name)}: bound on the error"
            axes.plot(_places(bounds), bounds, ".", color=mark["color"], label=label)
    if tolerance is not None and tolerance > 0 and np.isfinite(tolerance):
        axes.axhline(tolerance, color=canvas.GREY, linestyle="--", linewidth=1.2)
        note = {"textcoords": "offset points", "xytext": (-4, 4), "ha": "right", "color": canvas.GREY}
        axes.annotate("tolerance", (1, tolerance), xycoords=axes.get_yaxis_transform(), **note)
    axes.set_yscale("log")
    axes.margins(y=0.25)
    _count(axes, results)
    return canvas.dress(axes, title="Residuals", x="pair", y="residual  ‖A v - λ v‖")


def draw_solves(solves: Mapping[str, Solve], *, tol: float, figure: Any = None) -> Any:
    """Draw the eigenvalues of all algorithms on the same axes, and below them the residuals and the tolerance.

    Args:
        solves: results by the name of the algorithm, each with the same groups.
        tol: a pair is converged when its residual is at most tol times the largest |eigenvalue|.
        figure: matplotlib figure to draw in; None creates one.

    Returns:
        The figure.
    """
    groups = list(next(iter(solves.values())).results)
    figure = canvas.figure_or_new(figure, 5.4 * len(groups) + 0.6, 6.0)
    axes = figure.subplots(2, len(groups), sharex="col", squeeze=False, height_ratios=[2, 1])
    for column, which in enumerate(groups):
        results = {name: solve.results[which] for name, solve in solves.items()}
        draw_eigenvalues(results, title=title_of(which, results), axes=axes[0, column])
        draw_residuals(results, tolerance=allowed(solves, tol), axes=axes[1, column])
        axes[0, column].get_legend().remove()
        axes[0, column].set_xlabel("")
        axes[1, column].set_title("")
        for row in (0, 1) if column else ():
            axes[row, column].set_ylabel("")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawn = figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    literal(drawn.get_texts())
    return figure


def title_of(which: str, results: Mapping[str, EigenResult]) -> str:
    """Format the title of a group of results."""
    title = TITLES[which].format(k=len(next(iter(results.values())).eigenvalues))
    return title[0].upper() + title[1:]


def allowed(solves: Mapping[str, Solve], tol: float) -> float:
    """Compute the residual up to which a pair counts as converged: tol times the largest |eigenvalue| of all groups."""
    return tol * max(float(np.max(np.abs(r.eigenvalues))) for s in solves.values() for r in s.results.values())


def _label(name: Any) -> str:
    return NAMES.get(name) or word(name)


def _check(results: Mapping[str, EigenResult]) -> None:
    if not isinstance(results, Mapping):
        raise TypeError(f"results is a {type(results).__name__}: give a dict of results by name, {{'eigsh': result}}")
    if not 0 < len(results) <= len(_MARKS):
        raise ValueError(f"results holds {len(results)} results: give one to {len(_MARKS)}")


def _scale(axes: Any, values: np.ndarray) -> None:
    if canvas.is_wide(values):
        axes.set_yscale("log")
    elif np.all(values > 0):
        axes.set_ylim(0, 1.08 * values.max())
    elif np.all(values < 0):
        axes.set_ylim(1.08 * values.min(), 0)


def _count(axes: Any, results: Mapping[str, EigenResult]) -> None:
    from matplotlib.ticker import MaxNLocator

    count = max(len(result.residuals) for result in results.values())
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axes.set_xlim(0.4, count + 0.6)


def _positive(residuals: np.ndarray) -> np.ndarray:
    # A logarithmic axis has no zero: smaller residuals are drawn at eps squared.
    return np.maximum(residuals, np.finfo(residuals.dtype).eps ** 2)


def _places(values: np.ndarray) -> np.ndarray:
    return np.arange(1, len(values) + 1)
