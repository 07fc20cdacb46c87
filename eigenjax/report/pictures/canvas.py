"""What all pictures share: their colours, new figures, the dress of axes, and the check of what is to be drawn."""

from typing import Any

import numpy as np

from eigenjax.report.pictures.words import literal

# Told apart by all common kinds of colour vision, and in grey; the first two are used first.
BLUE, ORANGE, GREEN, PURPLE = "#1f5fa8", "#d9661f", "#1b8a6b", "#8f55ad"
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
# Of text and lines that carry no data. A page with a dark side replaces these, and the above, by name.
INK, GREY, GRID = "#222222", "#707070", "#dddddd"

DPI = 150
# Beyond this ratio of the largest to the smallest, positive numbers are drawn on a logarithmic axis.
WIDE = 30.0


def new_figure(width: float, height: float) -> Any:
    """A `matplotlib.figure.Figure` of so many inches, known to no window.

    Raises:
        ImportError: names the pip extra, where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "eigenjax[report]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def axes_or_new(axes: Any, width: float = 4.6, height: float = 3.5) -> Any:
    """The axes given, or those of a new figure."""
    if axes is None:
        return new_figure(width, height).subplots()
    if not (hasattr(axes, "plot") and hasattr(axes, "set_yscale")):
        raise TypeError(f"axes={axes!r}: give one matplotlib Axes, such as Figure().subplots(), or None for a new one")
    return axes


def figure_or_new(figure: Any, width: float, height: float) -> Any:
    """The figure given, or a new one."""
    if figure is None:
        return new_figure(width, height)
    if not hasattr(figure, "subplots"):
        raise TypeError(f"figure={figure!r}: give a matplotlib Figure or SubFigure, or None for a new one")
    return figure


def dress(axes: Any, *, title: str | None = None, x: str | None = None, y: str | None = None, grid: bool = True) -> Any:
    """Grid, colours and texts, once everything is drawn; returns the axes."""
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
    """A legend without a box, where there is anything to tell apart."""
    if axes.get_legend_handles_labels()[0]:
        drawn = axes.legend(labelcolor=INK, **{"frameon": False, **options})
        literal(drawn.get_texts())


def scale_by_decades(axis: Any) -> None:
    """Numbers 1, 2 and 5 of each decade on a logarithmic axis, written out: of a few decades only."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def numbers(name: str, values: Any, *, ndim: tuple[int, ...] = (1,)) -> np.ndarray:
    """An argument as an array of real float64, or an error that names it.

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
    """Refuses two arguments whose leading axes differ."""
    if len(values) != len(other):
        raise ValueError(
            f"{name} has {len(values)} rows and {against} {len(other)}: give one of {name} for each of {against}"
        )


def is_wide(values: np.ndarray) -> bool:
    """Whether a logarithmic axis suits them: all positive, over more than a decade and a half."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > WIDE * finite.min())


def _plural(ndim: tuple[int, ...]) -> str:
    return "is" if ndim[-1] == 1 else "es"
