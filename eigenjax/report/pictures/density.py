"""Spectral density on a logarithmic axis, with outliers as lines."""

from typing import Any

import numpy as np

from eigenjax.report.pictures import canvas
from eigenjax.spectrum.density import SpectralDensity

# Number of points of the curve: more than the picture has pixels across.
_NUM_POINTS = 1025
# Decades shown below the peak: one eigenvalue out of a hundred thousand is still visible.
_DECADES = 5.0
# Standard deviation of the kernels relative to the spread of the nodes: with narrower ones the curve is a comb.
_SMOOTHING = 1 / 200
# A node is an outlier if its residual is at most the first, and its gap larger than the second, times the spread.
_RESOLVED, _APART = 1e-3, 1e-2


def draw_density(
    found: SpectralDensity, *, eigenvalues: Any = None, width: float | None = None, axes: Any = None
) -> Any:
    """Draw the density of a spectrum on a logarithmic axis, with outliers as vertical lines.

    Args:
        found: a spectral density, as returned by `spectral_density`.
        eigenvalues: (k,) known eigenvalues to mark; None marks the nodes that are separated eigenvalues.
        width: standard deviation of the curve's Gaussian kernels; None is 1/200 of the spread of the nodes.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        TypeError: if `found` is not a `SpectralDensity`.
        ValueError: if it is not finite, or the width is not positive.

    Example:
        >>> import eigenjax, jax, jax.numpy as jnp
        >>> matrix = jnp.diag(jnp.r_[jnp.linspace(0.0, 1.0, 98), 5.0, 8.0])
        >>> found = eigenjax.spectral_density(matrix, key=jax.random.key(0), num_probes=2, krylov_dim=30)
        >>> axes = draw_density(found)
        >>> axes.get_yscale(), axes.get_legend_handles_labels()[1]
        ('log', ['density', '2 isolated eigenvalues'])
    """
    if not isinstance(found, SpectralDensity):
        raise TypeError(f"found is a {type(found).__name__}: give what spectral_density(op, key=...) returns")
    nodes = np.asarray(found.nodes, np.float64)
    if not np.all(np.isfinite(nodes)):
        raise ValueError("found holds NaN or Inf: the operator's matvecs were not finite; check the loss and the data")
    low, high = _range(nodes)
    grid = np.linspace(low, high, _NUM_POINTS)
    width = width if width is not None else max(_SMOOTHING * float(np.ptp(nodes)), grid[1] - grid[0])
    curve = np.asarray(found.density(grid, width), np.float64)
    peak = float(curve.max())
    floor = peak * 10.0**-_DECADES
    axes = canvas.axes_or_new(axes)
    axes.fill_between(grid, floor, np.maximum(curve, floor), color=canvas.BLUE, alpha=0.25, linewidth=0)
    axes.plot(grid, np.where(curve > floor, curve, np.nan), color=canvas.BLUE, linewidth=1.4, label="density")
    _draw_lines(axes, found, eigenvalues, grid, curve, floor)
    axes.set_yscale("log")
    # Leave room for the legend above the curve.
    axes.set_ylim(floor, 20 * peak)
    axes.set_xlim(low, high)
    canvas.legend(axes, loc="upper right", fontsize="small")
    return canvas.dress(
        axes, title="Density of the whole spectrum", x="eigenvalue λ", y="fraction of eigenvalues per unit"
    )


def outliers(found: SpectralDensity) -> np.ndarray:
    """Select the nodes that are separated eigenvalues, in ascending order.

    Their residual is at most 1/1000, and their distance to all other nodes more than 1/100, of the spread of the nodes.

    >>> import jax, jax.numpy as jnp
    >>> from eigenjax import spectral_density
    >>> matrix = jnp.diag(jnp.r_[jnp.linspace(0.0, 1.0, 98), 5.0, 8.0])
    >>> print(outliers(spectral_density(matrix, key=jax.random.key(0), num_probes=2, krylov_dim=30)).round(3))
    [5. 8.]
    """
    nodes, residuals = np.asarray(found.nodes, np.float64), np.asarray(found.residuals, np.float64)
    spread = float(nodes.max() - nodes.min())
    if spread == 0:
        return np.empty(0)
    seen = []
    for row, row_residuals in zip(nodes, residuals, strict=True):
        order = np.argsort(row)
        row, row_residuals = row[order], row_residuals[order]
        gaps = np.diff(row, prepend=-np.inf, append=np.inf)
        seen.append(row[(row_residuals <= _RESOLVED * spread) & (np.minimum(gaps[:-1], gaps[1:]) > _APART * spread)])
    found_by_any = np.sort(np.concatenate(seen))
    new = np.diff(found_by_any, prepend=-np.inf) > 2 * _RESOLVED * spread
    return found_by_any[new]


def _draw_lines(axes: Any, found: SpectralDensity, eigenvalues: Any, grid: Any, curve: Any, floor: float) -> None:
    is_given = eigenvalues is not None
    values = canvas.numbers("eigenvalues", eigenvalues) if is_given else outliers(found)
    values = values[np.isfinite(values)]
    if not values.size:
        return
    heights = np.interp(values, grid, curve)
    what = f"{'given' if is_given else 'isolated'} eigenvalue{'' if values.size == 1 else 's'}"
    style = {"color": canvas.ORANGE, "linewidth": 1.4, "label": f"{values.size} {what}"}
    axes.vlines(values, floor, np.maximum(heights, 3 * floor), **style)


def _range(nodes: np.ndarray) -> tuple[float, float]:
    low, high = float(nodes.min()), float(nodes.max())
    margin = 0.04 * (high - low) or max(0.1 * abs(high), 1e-3)
    return low - margin, high + margin
