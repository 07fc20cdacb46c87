"""Shared parts of all pictures: colors, new figures, the style of axes, and the check of arguments."""

from typing import Any

import numpy as np

from eigenjax.report.pictures.words import literal

# Distinguishable with all common kinds of color vision, and in grayscale; used in this order.
BLUE, ORANGE, GREEN, PURPLE = "#1f5fa8", "#d9661f", "#1b8a6b", "#8f55ad"
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
# Colors of text and of lines without data. The HTML page replaces all of these colors in its dark theme.
INK, GREY, GRID = "#222222", "#707070", "#dddddd"

DPI = 150
# Positive numbers whose ratio of largest to smallest exceeds this are drawn on a logarithmic axis.
WIDE = 30.0


def new_figure(width: float, height: float) -> Any:
    """Create a `matplotlib.figure.Figure` of the given size in inches, without a window.

    Raises:
        ImportError: if matplotlib is missing; names the pip extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "eigenjax[report]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def axes_or_new(axes: Any, width: float = 4.6, height: float = 3.5) -> Any:
    """Return the given axes, or the axes of a new figure for None."""
    if axes is None:
        return new_figure(width, height).subplots()
    if not (hasattr(axes, "plot") and hasattr(axes, "set_yscale")):
        raise TypeError(f"axes={axes!r}: give one matplotlib Axes, such as Figure().subplots(), or None for a new one")
    return axes


def figure_or_new(figure: Any, width: float, height: float) -> Any:
    """Return the given figure, or a new one for None."""
    if figure is None:
        return new_figure(width, height)
    if not hasattr(figure, "subplots"):
        raise TypeError(f"figure={figure!r}: give a matplotlib Figure or SubFigure, or None for a new one")
    return figure


def dress(axes: Any, *, title: str | None = None, x: str | None = None, y: str | None = None, grid: bool = True) -> Any:
    """Set the grid, colors and texts of axes after everything is drawn; return the axes."""
    if grid:
        axes.grid(visible=True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    for text, put in ((title, axes.set_title), (x, axes.set_xlabel), (y, axes.set_ylabel)):
        if text is not None:
            literal([put(text, color=INK)])
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_color(INK)
    return axes


def legend(axes: Any, **options: Any) -> None:
    """Add a legend without a box if the axes have any labels."""
    if axes.get_legend_handles_labels()[0]:
        drawn = axes.legend(labelcolor=INK, **{"frameon": False, **options})
        literal(drawn.get_texts())


def scale_by_decades(axis: Any) -> None:
    """Label 1, 2 and 5 of each decade of a logarithmic axis in full; meant for few decades."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def numbers(name: str, values: Any, *, ndim: tuple[int, ...] = (1,)) -> np.ndarray:
    """Convert an argument to an array of float64, or raise an error that names the argument.

    >>> numbers("residuals", [1, 2])
    array([1., 2.])
    >>> numbers("residuals", 3.0)
    Traceback (most recent call last):
    ...
    ValueError: residuals has the shape (): give an array with 1 axis
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}={values!r}: give an array of real numbers") from error
    if array.ndim not in ndim:
        wanted = " or ".join(map(str, ndim))
        raise ValueError(f"{name} has the shape {array.shape}: give an array with {wanted} ax{_plural(ndim)}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: there is nothing to draw")
    return array


def paired(name: str, values: np.ndarray, against: str, other: np.ndarray) -> None:
    """Raise an error if the leading axes of two arguments differ in length."""
    if len(values) != len(other):
        raise ValueError(
            f"{name} has {len(values)} rows and {against} {len(other)}: give one of {name} for each of {against}"
        )


def is_wide(values: np.ndarray) -> bool:
    """Return True if a logarithmic axis suits the values: all positive, and the largest over `WIDE` times the least."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > WIDE * finite.min())


def _plural(ndim: tuple[int, ...]) -> str:
    return "is" if ndim[-1] == 1 else "es"
