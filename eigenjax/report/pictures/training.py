"""Pictures of curvature and loss against the training step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eigenjax.report.inputs.problem import History
from eigenjax.report.pictures import canvas
from eigenjax.report.pictures.words import word

# Up to this many records, each has a marker.
_FEW = 60
# Up to this many eigenvalues, each has an entry in the legend.
_FEW_LINES = 3


def draw_sharpness(
    steps: Any, eigenvalues: Any, *, learning_rate: Any = None, labels: Sequence[str] | None = None, axes: Any = None
) -> Any:
    """Draw eigenvalues against the training step, with 2 / learning rate, above which gradient descent is unstable.

    Args:
        steps: (t,) training steps.
        eigenvalues: (t,) values of one eigenvalue, or (t, k) of several; or a list of t dicts of metrics from
            `spectrum_tracker`, of which each `eigenvalue_i` is drawn. NaN and Inf leave a gap.
        learning_rate: learning rate of plain gradient descent, a number or (t,) a schedule; None omits the line.
        labels: k texts for the legend; None numbers the eigenvalues.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        ValueError: if the lengths differ, or a learning rate is not positive.

    Example:
        >>> axes = draw_sharpness([0, 10, 20], [1.0, 3.5, 4.1], learning_rate=0.5)
        >>> axes.get_legend_handles_labels()[1]
        ['largest eigenvalue', '2 / learning rate = 4: unstable above']

    Source: Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability.
    """
    steps, values = canvas.numbers("steps", steps), _values(eigenvalues)
    canvas.paired("eigenvalues", values, "steps", steps)
    count = values.shape[1]
    texts = _labels(labels, count)
    axes = canvas.axes_or_new(axes)
    for index in range(count):
        # Emphasize the first eigenvalue, the sharpness; draw the others thinner and paler.
        style = {"color": canvas.BLUE, "alpha": 1.0 if index == 0 else 0.75 - 0.5 * index / count}
        mark = {"marker": "o", "markersize": 3} if len(steps) <= _FEW else {}
        axes.plot(steps, values[:, index], linewidth=1.6 if index == 0 else 1.0, label=texts[index], **style, **mark)
    if learning_rate is not None:
        _draw_edge(axes, steps, learning_rate)
    lowest = np.nanmin(values) if np.isfinite(values).any() else 0.0
    bottom, top = min(0.0, 1.1 * float(lowest)), axes.get_ylim()[1]
    # Leave room for the legend above all lines.
    axes.set_ylim(bottom, top + (0.25 * (top - bottom) if learning_rate is not None else 0.0))
    canvas.legend(axes, loc="best", fontsize="small")
    return canvas.dress(axes, title="Curvature in training", x="training step", y="eigenvalue")


def draw_losses(steps: Any, losses: Any, *, axes: Any = None) -> Any:
    """Draw the training loss against the training step, on a logarithmic axis if all losses are positive.

    Args:
        steps: (t,) training steps.
        losses: (t,) training losses.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        ValueError: if the lengths differ.

    Example:
        >>> draw_losses([0, 10, 20], [2.0, 0.5, 0.2]).get_yscale()
        'log'
    """
    steps, losses = canvas.numbers("steps", steps), canvas.numbers("losses", losses)
    canvas.paired("losses", losses, "steps", steps)
    axes = canvas.axes_or_new(axes)
    mark = {"marker": "o", "markersize": 3} if len(steps) <= _FEW else {}
    axes.plot(steps, losses, color=canvas.INK, linewidth=1.4, **mark)
    if np.nanmin(losses) > 0:
        axes.set_yscale("log")
        if np.nanmax(losses) < 1e3 * np.nanmin(losses):
            canvas.scale_by_decades(axes.yaxis)
    return canvas.dress(axes, title="Loss in training", x="training step", y="training loss")


def draw_training(history: History, *, figure: Any = None) -> Any:
    """Draw the largest eigenvalue and, below it, the loss against the training step.

    Args:
        history: record of the training.
        figure: matplotlib figure to draw in; None creates one.

    Returns:
        The figure.
    """
    figure = canvas.figure_or_new(figure, 7.6, 5.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    draw_sharpness(history.steps, history.eigenvalues, learning_rate=history.learning_rate, axes=above)
    draw_losses(history.steps, history.losses, axes=below)
    above.set_title("Curvature while the network trains")
    above.set_xlabel("")
    below.set_title("")
    return figure


def _values(eigenvalues: Any) -> np.ndarray:
    """Convert eigenvalues, or a list of metrics, to an array (t, k) with NaN in place of Inf."""
    is_metrics = isinstance(eigenvalues, list | tuple) and eigenvalues and isinstance(eigenvalues[0], Mapping)
    if is_metrics:
        names = [f"eigenvalue_{i}" for i in range(len(eigenvalues[0])) if f"eigenvalue_{i}" in eigenvalues[0]]
        if not names:
            raise ValueError(
                "eigenvalues are dicts without eigenvalue_0: give metrics of spectrum_tracker, or arrays of numbers"
            )
        eigenvalues = [[float(metrics[name]) for name in names] for metrics in eigenvalues]
    values = canvas.numbers("eigenvalues", eigenvalues, ndim=(1, 2))
    values = np.where(np.isfinite(values), values, np.nan)
    return values[:, None] if values.ndim == 1 else values


def _labels(labels: Sequence[str] | None, count: int) -> Sequence[str]:
    if labels is None and count <= _FEW_LINES:
        return ["largest eigenvalue"] if count == 1 else [f"eigenvalue {index + 1}" for index in range(count)]
    if labels is None:
        # matplotlib omits labels that begin with "_": one entry stands for all eigenvalues after the first.
        return ["eigenvalue 1", f"eigenvalues 2 to {count}", *["_"] * (count - 2)]
    if len(labels) != count:
        raise ValueError(f"labels has {len(labels)} texts for {count} eigenvalues: give one for each")
    return [word(label) for label in labels]


def _draw_edge(axes: Any, steps: np.ndarray, learning_rate: Any) -> None:
    rates = canvas.numbers("learning_rate", learning_rate, ndim=(0, 1))
    if not np.all(rates > 0):
        raise ValueError(f"learning_rate={learning_rate!r}: give positive numbers, or None to draw no edge")
    style = {"color": canvas.ORANGE, "linestyle": "--", "linewidth": 1.6}
    if rates.ndim == 0:
        axes.axhline(2 / rates, label=f"2 / learning rate = {2 / rates:g}: unstable above", **style)
        return
    canvas.paired("learning_rate", rates, "steps", steps)
    axes.plot(steps, 2 / rates, label="2 / learning rate: unstable above", **style)
