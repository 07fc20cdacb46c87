"""Pictures of the loss along eigenvectors and on the plane of two."""

from typing import Any

import numpy as np

from eigenjax.report.analysis.landscape import Landscape, Slice
from eigenjax.report.pictures import canvas


def draw_loss_along(line: Slice, *, eigenvalue: float, number: int = 1, axes: Any = None) -> Any:
    """Draw the loss along an eigenvector, with the second-order Taylor polynomial, from the slope and the eigenvalue.

    Args:
        line: one of the slices returned by `eigenjax.report.analysis.landscape.survey`.
        eigenvalue: eigenvalue of the direction.
        number: number of the direction in the title and the axis label.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.
    """
    from matplotlib.ticker import MaxNLocator

    positions, losses = canvas.numbers("line.positions", line.positions), canvas.numbers("line.losses", line.losses)
    canvas.paired("line.losses", losses, "line.positions", positions)
    axes = canvas.axes_or_new(axes)
    axes.plot(positions, losses, color=canvas.BLUE, linewidth=2, label="loss")
    style = {"color": canvas.ORANGE, "linestyle": "--", "linewidth": 1.6}
    axes.plot(positions, line.parabola, label="Taylor polynomial, second order", **style)
    here = np.interp(0.0, positions, losses)
    axes.plot(0, here, "o", color=canvas.INK, markersize=6, linestyle="none", label="the parameters")
    canvas.legend(axes, loc="best", fontsize="small")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    title = f"Along eigenvector {number}  (λ = {eigenvalue:.4g})"
    return canvas.dress(axes, title=title, x=f"distance along eigenvector {number}", y="loss")


def draw_loss_across(landscape: Landscape, *, axes: Any = None) -> Any:
    """Draw a contour map of the loss on the plane of two eigenvectors, with the parameters in the middle.

    Args:
        landscape: landscape of two directions, returned by `eigenjax.report.analysis.landscape.survey`.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        ValueError: if the landscape has no plane.
    """
    from matplotlib.ticker import MaxNLocator

    if landscape.plane is None:
        raise ValueError("landscape.plane is None: survey two directions, or draw the loss along one")
    axes = canvas.axes_or_new(axes)
    first, second = landscape.axes
    low, high = landscape.plane.min(), landscape.plane.max()
    # Denser where the loss is low, to resolve the shape of the minimum.
    levels = low + (high - low) * np.linspace(0, 1, 25) ** 2 if high > low else 24
    contours = axes.contourf(first, second, landscape.plane, levels=levels, cmap="viridis")
    axes.contour(first, second, landscape.plane, levels=levels, colors="white", linewidths=0.4, alpha=0.5)
    axes.plot(0, 0, "o", color="white", markeredgecolor="black", markersize=7)
    bar = axes.figure.colorbar(contours, ax=axes, spacing="proportional", ticks=MaxNLocator(8), format="%g")
    canvas.dress(bar.ax, y="loss", grid=False)
    bar.outline.set_visible(False)
    if 1 / 3 < first[-1] / second[-1] < 3:
        axes.set_aspect("equal")
    texts = {"x": "distance along eigenvector 1", "y": "distance along eigenvector 2"}
    return canvas.dress(axes, title="Plane of eigenvectors 1 and 2", grid=False, **texts)


def draw_landscape(landscape: Landscape, eigenvalues: Any, *, figure: Any = None) -> Any:
    """Draw the loss along each eigenvector with the predicted parabola, and on the plane of both.

    Args:
        landscape: landscape returned by `eigenjax.report.analysis.landscape.survey`.
        eigenvalues: (d,) eigenvalues of its directions.
        figure: matplotlib figure to draw in; None creates one.

    Returns:
        The figure.
    """
    eigenvalues = canvas.numbers("eigenvalues", eigenvalues)
    canvas.paired("eigenvalues", eigenvalues, "landscape.slices", np.asarray([0] * len(landscape.slices)))
    count = len(landscape.slices) + (landscape.plane is not None)
    figure = canvas.figure_or_new(figure, 4.6 * count, 4.4)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for index, (line, eigenvalue) in enumerate(zip(landscape.slices, eigenvalues, strict=True)):
        draw_loss_along(line, eigenvalue=float(eigenvalue), number=index + 1, axes=axes[index])
        axes[index].get_legend().remove()
        axes[index].set_ylabel("" if index else "loss")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False)
    if landscape.plane is not None:
        draw_loss_across(landscape, axes=axes[-1])
    return figure
