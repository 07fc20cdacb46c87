"""Pictures of a spectrum: both algorithms over each other, the loss along eigenvectors, the curvature in training.

Figures are drawn with matplotlib's objects alone: no window, no global state.
"""

import pathlib
from typing import Any

import numpy as np

from eigenjax.report.landscape import Landscape
from eigenjax.report.problem import History
from eigenjax.report.solve import Solve
from eigenjax.report.tables import TITLES
from eigenjax.result import EigenResult

INK, BLUE, ORANGE, GREY = "#222222", "#1f5fa8", "#e0701a", "#8a8a8a"

_MARKS = {
    "lanczos": {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6, "color": BLUE},
    "power": {"marker": "x", "markersize": 6, "markeredgewidth": 1.8, "color": ORANGE},
}
_NAMES = {"lanczos": "Lanczos", "power": "deflated power iteration"}
_DPI = 150


def draw_eigenvalues(path: pathlib.Path, solves: dict[str, Solve], tol: float) -> None:
    """Eigenvalues of both algorithms over each other, and below them their residuals against what tol allows.

    Args:
        path: of the PNG to write.
        solves: by the name of the algorithm, each with the same groups of results.
        tol: a pair is converged when its residual is at most tol times the largest |eigenvalue|.
    """
    groups = list(next(iter(solves.values())).results)
    # Of all groups together: the flags are judged by the largest Ritz value that the whole run saw.
    largest = max(float(np.max(np.abs(r.eigenvalues))) for solve in solves.values() for r in solve.results.values())
    figure = _figure(5.4 * len(groups) + 0.6, 6.0)
    axes = figure.subplots(2, len(groups), sharex="col", squeeze=False, height_ratios=[2, 1])
    for column, which in enumerate(groups):
        results = {name: solve.results[which] for name, solve in solves.items()}
        _draw_values(axes[0, column], which, results)
        _draw_residuals(axes[1, column], results, tol * largest)
    axes[0, 0].set_ylabel("eigenvalue")
    axes[1, 0].set_ylabel("residual  ||H v - λ v||")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=_DPI)


def draw_landscape(path: pathlib.Path, landscape: Landscape, eigenvalues: np.ndarray) -> None:
    """The loss along each eigenvector with the parabola that its eigenvalue predicts, and across both.

    Args:
        path: of the PNG to write.
        landscape: as surveyed.
        eigenvalues: (d,) of its directions.
    """
    count = len(landscape.slices) + (landscape.plane is not None)
    figure = _figure(4.6 * count, 4.4)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for index, (line, eigenvalue) in enumerate(zip(landscape.slices, eigenvalues, strict=True)):
        _draw_slice(axes[index], line, index, eigenvalue)
    axes[0].set_ylabel("loss")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False)
    if landscape.plane is not None:
        _draw_plane(figure, axes[-1], landscape)
    figure.savefig(path, dpi=_DPI)


def draw_training(path: pathlib.Path, history: History) -> None:
    """The largest eigenvalue and the loss against the training step, with the edge of stability where it is known.

    Args:
        path: of the PNG to write.
        history: of the training.
    """
    figure = _figure(7.6, 5.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.plot(history.steps, history.eigenvalues, color=BLUE, marker="o", markersize=3, label="largest eigenvalue")
    above.set_ylim(bottom=min(0.0, 1.1 * float(np.nanmin(history.eigenvalues))))
    above.set_ylabel("largest eigenvalue of the Hessian")
    if history.learning_rate is not None:
        label = f"2 / learning rate = {2 / history.learning_rate:g}: unstable above"
        above.axhline(2 / history.learning_rate, color=ORANGE, linestyle="--", linewidth=1.4, label=label)
    above.legend(loc="lower right", frameon=False)
    below.plot(history.steps, history.losses, color=INK, marker="o", markersize=3)
    if np.min(history.losses) > 0:
        _scale_by_decades(below)
    below.set_ylabel("training loss")
    below.set_xlabel("training step")
    above.set_title("Curvature while the network trains")
    for axes in (above, below):
        _dress(axes)
    figure.savefig(path, dpi=_DPI)


def _draw_values(axes: Any, which: str, results: dict[str, EigenResult]) -> None:
    for name, result in results.items():
        values = np.asarray(result.eigenvalues)
        axes.plot(_numbers(values), values, linestyle="none", label=_NAMES[name], **_MARKS[name])
        failed = ~np.asarray(result.converged)
        if failed.any():
            label = f"{_NAMES[name]}: not converged"
            style = {"marker": "s", "markersize": 14, "markerfacecolor": "none", "color": GREY}
            axes.plot(_numbers(values)[failed], values[failed], linestyle="none", label=label, **style)
    values = np.concatenate([np.asarray(result.eigenvalues) for result in results.values()])
    if np.all(values > 0) and values.max() > 30 * values.min():
        axes.set_yscale("log")
    elif np.all(values > 0):
        axes.set_ylim(0, 1.08 * values.max())
    elif np.all(values < 0):
        axes.set_ylim(1.08 * values.min(), 0)
    title = TITLES[which].format(k=len(next(iter(results.values())).eigenvalues))
    axes.set_title(title[0].upper() + title[1:])
    _dress(axes)


def _draw_residuals(axes: Any, results: dict[str, EigenResult], tolerance: float) -> None:
    for name, result in results.items():
        residuals = np.asarray(result.residuals)
        # A logarithm has no zero: what is exact is drawn at the smallest number of the dtype's rounding.
        shown = np.maximum(residuals, np.finfo(residuals.dtype).eps ** 2)
        axes.plot(_numbers(residuals), shown, linestyle="none", **_MARKS[name])
    if tolerance > 0 and np.isfinite(tolerance):
        axes.axhline(tolerance, color=GREY, linestyle="--", linewidth=1.2)
        note = {"textcoords": "offset points", "xytext": (-4, 4), "ha": "right", "color": GREY}
        axes.annotate("tolerance", (1, tolerance), xycoords=axes.get_yaxis_transform(), **note)
    axes.set_yscale("log")
    axes.margins(y=0.25)
    axes.set_xlabel("pair")
    _dress(axes)
    count = max(len(result.residuals) for result in results.values())
    if count <= 12:
        axes.set_xticks(range(1, count + 1))
    axes.set_xlim(0.4, count + 0.6)


def _draw_slice(axes: Any, line: Any, index: int, eigenvalue: float) -> None:
    axes.plot(line.positions, line.losses, color=BLUE, linewidth=2, label="loss")
    label = "parabola of slope and eigenvalue"
    axes.plot(line.positions, line.parabola, color=ORANGE, linestyle="--", linewidth=1.6, label=label)
    axes.plot(0, line.losses[len(line.losses) // 2], "o", color=INK, markersize=6, label="the parameters")
    axes.set_title(f"Along eigenvector {index + 1}  (λ = {eigenvalue:.4g})")
    axes.set_xlabel(f"distance along eigenvector {index + 1}")
    _dress(axes)


def _draw_plane(figure: Any, axes: Any, landscape: Landscape) -> None:
    from matplotlib.ticker import MaxNLocator

    assert landscape.plane is not None
    first, second = landscape.axes
    low, high = landscape.plane.min(), landscape.plane.max()
    # Closer where the loss is low, which is where the shape of the bottom shows.
    levels = low + (high - low) * np.linspace(0, 1, 25) ** 2 if high > low else 24
    filled = axes.contourf(first, second, landscape.plane, levels=levels, cmap="viridis")
    axes.contour(first, second, landscape.plane, levels=levels, colors="white", linewidths=0.4, alpha=0.5)
    axes.plot(0, 0, "o", color="white", markeredgecolor=INK, markersize=7)
    figure.colorbar(filled, ax=axes, label="loss", spacing="proportional", ticks=MaxNLocator(8), format="%g")
    if 1 / 3 < first[-1] / second[-1] < 3:
        axes.set_aspect("equal")
    axes.set_title("Across both")
    axes.set_xlabel("distance along eigenvector 1")
    axes.set_ylabel("distance along eigenvector 2")


def _scale_by_decades(axes: Any) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _dress(axes: Any) -> None:
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _numbers(values: np.ndarray) -> np.ndarray:
    return np.arange(1, len(values) + 1)
