"""Convergence history of a solver: residuals against matvecs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eigenjax.report.pictures import canvas
from eigenjax.report.pictures.words import word

# Zero residuals are drawn here, below any rounding error, because a logarithmic axis has no zero.
_ZERO = 1e-32


def draw_convergence(
    histories: Mapping[str, tuple[Any, Any]], *, tolerance: float | None = None, axes: Any = None
) -> Any:
    """Draw residuals against matvecs on a logarithmic axis.

    Args:
        histories: for each solver, by name, a pair (matvecs, residuals) from t convergence checks: (t,) matvecs
            taken so far, and (t,) or (t, k) residuals of k pairs. For k pairs, the largest residual is a thick line,
            and each pair a thin one. Inf and NaN are omitted.
        tolerance: residual up to which a pair counts as converged; None draws no line.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        TypeError: if histories is not a dict.
        ValueError: if it is empty, or matvecs and residuals differ in length.

    Example:
        Draw the steps of a solver, from a loop on the host:

        >>> import eigenjax, jax.numpy as jnp
        >>> from eigenjax.solvers.symmetric import lanczos
        >>> op = eigenjax.as_operator(jnp.diag(jnp.linspace(0.0, 1.0, 200) ** 4))
        >>> state, checks = lanczos.init(op, krylov_dim=40), []
        >>> for matvecs in range(1, 41):
        ...     state = lanczos.step(op, state)
        ...     if matvecs >= 10 and matvecs % 10 == 0:
        ...         checks.append((matvecs, lanczos.finalize(op, state, 3, which="LA").residuals))
        >>> axes = draw_convergence({"Lanczos": tuple(zip(*checks))}, tolerance=1e-4)
        >>> axes.get_xlabel()
        'matvecs with the operator'
    """
    if not isinstance(histories, Mapping):
        raise TypeError(
            f"histories is a {type(histories).__name__}: give a dict of (matvecs, residuals) by name, "
            "{'eigsh': (matvecs, residuals)}"
        )
    if not histories:
        raise ValueError("histories is empty: give at least one solver's (matvecs, residuals)")
    axes = canvas.axes_or_new(axes)
    all_matvecs = []
    for index, (name, history) in enumerate(histories.items()):
        matvecs, residuals = _checks(name, history)
        all_matvecs.append(matvecs)
        _draw_one(axes, name, matvecs, residuals, canvas.SERIES[index % len(canvas.SERIES)])
    if tolerance is not None and tolerance > 0 and np.isfinite(tolerance):
        axes.axhline(tolerance, color=canvas.GREY, linestyle="--", linewidth=1.2, label=f"tolerance {tolerance:.1e}")
    if canvas.is_wide(np.concatenate(all_matvecs)):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    axes.set_yscale("log")
    # Below the axes: the lines of k pairs for each solver leave no corner free.
    canvas.legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.21), ncols=1, fontsize="small")
    title, x, y = "Convergence of the residuals", "matvecs with the operator", "residual  ‖A v - λ v‖"
    return canvas.dress(axes, title=title, x=x, y=y)


def _checks(name: str, history: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(history, list | tuple) or len(history) != 2:
        raise ValueError(f"histories[{name!r}] is not a pair: give (matvecs, residuals)")
    matvecs = canvas.numbers(f"matvecs of {name!r}", history[0])
    residuals = canvas.numbers(f"residuals of {name!r}", [np.asarray(row) for row in history[1]], ndim=(1, 2))
    canvas.paired(f"residuals of {name!r}", residuals, "matvecs", matvecs)
    residuals = residuals.reshape(len(matvecs), -1)
    return matvecs, np.where(np.isfinite(residuals), np.maximum(residuals, _ZERO), np.nan)


def _draw_one(axes: Any, name: str, matvecs: np.ndarray, residuals: np.ndarray, color: str) -> None:
    if residuals.shape[1] > 1:
        axes.plot(matvecs, residuals, color=color, linewidth=0.7, alpha=0.45)
    # If any pair has no residual yet, the largest residual is NaN, which draws a gap.
    mark = {"marker": "o", "markersize": 3.5} if len(matvecs) <= 60 else {}
    axes.plot(matvecs, residuals.max(axis=1), color=color, linewidth=1.8, label=word(name), **mark)
