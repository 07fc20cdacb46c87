"""Pictures of a report's page, each in a separate figure, so that the page arranges them by its width."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from eigenjax.report import pictures
from eigenjax.report.analysis.extras import Additions
from eigenjax.report.analysis.landscape import Landscape
from eigenjax.report.analysis.solve import Solve
from eigenjax.report.analysis.tables import TITLES
from eigenjax.report.inputs.problem import History
from eigenjax.report.pictures.eigenvalues import allowed, title_of


class Panel(NamedTuple):
    """Picture with its caption."""

    name: str  # unique within the page
    caption: str  # text below the picture
    axes: Any  # matplotlib axes, the only ones in their figure


def draw_panels(
    solves: dict[str, Solve],
    tol: float,
    additions: Additions,
    landscape: Landscape | None,
    eigenvalues: np.ndarray,
    history: History | None,
) -> dict[str, list[Panel]]:
    """Draw all pictures for which there are results.

    Args:
        solves: results by the name of the algorithm.
        tol: relative tolerance of the residuals.
        additions: results of the additional analyses.
        landscape: the loss around the parameters; None if it was not evaluated.
        eigenvalues: (d,) eigenvalues of the directions of the landscape.
        history: record of the training; None if there is none.

    Returns:
        Lists of pictures by the name of their section.
    """
    panels = {"pairs": _pairs(solves, tol), "convergence": _convergence(solves, additions, tol)}
    if additions.density is not None:
        caption = (
            "Fraction of the eigenvalues per unit of λ, logarithmic. Vertical lines mark isolated eigenvalues, whose "
            "distance to all others is more than 1/100 of the width of the spectrum."
        )
        panels["density"] = [Panel("density", caption, pictures.draw_density(additions.density))]
    if additions.layers is not None:
        caption = "The largest eigenvalues of the block of each layer."
        panels["layers"] = [Panel("layers", caption, pictures.draw_layers(additions.layers.results))]
    if additions.gauss_newton is not None:
        panels["gauss-newton"] = _gauss_newton(solves, additions.gauss_newton)
    if landscape is not None:
        panels["landscape"] = _landscape(landscape, eigenvalues)
    if history is not None:
        panels["training"] = _training(history)
    return {name: found for name, found in panels.items() if found}


def _pairs(solves: dict[str, Solve], tol: float) -> list[Panel]:
    panels = []
    for which in next(iter(solves.values())).results:
        results = {name: solve.results[which] for name, solve in solves.items()}
        title = title_of(which, results)
        above = pictures.draw_eigenvalues(results, title=title)
        below = pictures.draw_residuals(results, tolerance=allowed(solves, tol))
        below.set_title(f"Residuals of {title[0].lower()}{title[1:]}")
        caption = f"{title}. Circle and cross coincide where both algorithms agree." if len(solves) > 1 else f"{title}."
        panels.append(Panel(f"values-{which}", caption, above))
        panels.append(Panel(f"residuals-{which}", "Residual of each pair, and the tolerance as a dashed line.", below))
    return panels


def _convergence(solves: dict[str, Solve], additions: Additions, tol: float) -> list[Panel]:
    shown = {"": solves["lanczos"]} if "lanczos" in solves else {}
    if additions.gauss_newton is not None:
        shown["Gauss-Newton, "] = additions.gauss_newton
    checks = {
        f"{operator}{TITLES[which].format(k=len(solve.results[which].eigenvalues))}": seen
        for operator, solve in shown.items()
        for which, seen in solve.checks.items()
    }
    histories = {name: ([at for at, _ in seen], [residuals for _, residuals in seen]) for name, seen in checks.items()}
    histories = {name: history for name, history in histories.items() if np.isfinite(history[1]).any()}
    if not histories:
        return []
    caption = "Residuals of the Lanczos method: a thin line for each pair, a thick line for the largest residual."
    axes = pictures.draw_convergence(histories, tolerance=allowed(solves, tol))
    axes.set_title("Convergence of the Lanczos method")
    return [Panel("convergence", caption, axes)]


def _gauss_newton(solves: dict[str, Solve], gauss_newton: Solve) -> list[Panel]:
    hessian_results = next(iter(solves.values())).results
    if "LA" not in hessian_results:
        return []
    results = {"Hessian": hessian_results["LA"], "Gauss-Newton": gauss_newton.results["LA"]}
    axes = pictures.draw_eigenvalues(results, title="Hessian and Gauss-Newton matrix")
    caption = "The largest eigenvalues of both matrices. They differ by the curvature of the model."
    return [Panel("gauss-newton-values", caption, axes)]


def _landscape(landscape: Landscape, eigenvalues: np.ndarray) -> list[Panel]:
    panels = []
    for index, (line, value) in enumerate(zip(landscape.slices, eigenvalues, strict=True)):
        axes = pictures.draw_loss_along(line, eigenvalue=float(value), number=index + 1)
        caption = f"Loss along eigenvector {index + 1}, and its second-order Taylor polynomial."
        panels.append(Panel(f"along-{index + 1}", caption, axes))
    if landscape.plane is not None:
        axes = pictures.draw_loss_across(landscape)
        panels.append(
            Panel("across", "Loss in the plane of eigenvectors 1 and 2. The white point marks the parameters.", axes)
        )
    return panels


def _training(history: History) -> list[Panel]:
    sharpness = pictures.draw_sharpness(history.steps, history.eigenvalues, learning_rate=history.learning_rate)
    losses = pictures.draw_losses(history.steps, history.losses)
    return [
        Panel("sharpness", "Largest eigenvalue of the Hessian during training.", sharpness),
        Panel("losses", "Training loss at the same steps.", losses),
    ]


# Only these pictures of the page are also saved as files; `command` draws combined figures of the others.
def save_pictures(panels: dict[str, list[Panel]], save: Callable[[str, Any], None]) -> None:
    """Call `save(name, figure)` for each picture of the page that is also saved as a file."""
    for name in ("density", "layers", "convergence"):
        for panel in panels.get(name, []):
            save(name, panel.axes.figure)
