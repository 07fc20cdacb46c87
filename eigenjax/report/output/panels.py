"""Pictures of a report's page, each in a separate figure, so that the page arranges them by its width."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from eigenjax.report import pictures
from eigenjax.report.analysis.extras import Additions
from eigenjax.report.analysis.landscape import Landscape
from eigenjax.report.analysis.solve import Solve
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
        caption = "Share of the eigenvalues per unit of λ, on a logarithmic axis; what stands apart is marked by lines."
        panels["density"] = [Panel("density", caption, pictures.draw_density(additions.density))]
    if additions.layers is not None:
        caption = "The largest eigenvalues of each layer's block."
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
        caption = f"{title}, by each algorithm: marks that coincide agree." if len(solves) > 1 else f"{title}."
        panels.append(Panel(f"values-{which}", caption, above))
        panels.append(Panel(f"residuals-{which}", "Residuals, and up to where a pair counts as converged.", below))
    return panels


def _convergence(solves: dict[str, Solve], additions: Additions, tol: float) -> list[Panel]:
    checks = {"Lanczos": solves["lanczos"].checks} if "lanczos" in solves else {}
    if additions.gauss_newton is not None:
        checks["Lanczos, Gauss-Newton matrix"] = additions.gauss_newton.checks
    histories = {name: ([at for at, _ in seen], [residuals for _, residuals in seen]) for name, seen in checks.items()}
    histories = {name: history for name, history in histories.items() if np.isfinite(history[1]).any()}
    if not histories:
        return []
    caption = "Residuals against matvecs spent, until all had converged: the worst as a thick line, each as a thin one."
    return [Panel("convergence", caption, pictures.draw_convergence(histories, tolerance=allowed(solves, tol)))]


def _gauss_newton(solves: dict[str, Solve], gauss_newton: Solve) -> list[Panel]:
    hessian_results = next(iter(solves.values())).results
    if "LA" not in hessian_results:
        return []
    results = {"Hessian": hessian_results["LA"], "Gauss-Newton": gauss_newton.results["LA"]}
    axes = pictures.draw_eigenvalues(results, title="Hessian and Gauss-Newton matrix")
    caption = "The largest eigenvalues of both: they differ by what the model's own curvature adds."
    return [Panel("gauss-newton-values", caption, axes)]


def _landscape(landscape: Landscape, eigenvalues: np.ndarray) -> list[Panel]:
    panels = []
    for index, (line, value) in enumerate(zip(landscape.slices, eigenvalues, strict=True)):
        axes = pictures.draw_loss_along(line, eigenvalue=float(value), number=index + 1)
        caption = f"The loss along eigenvector {index + 1}: the closer to the parabola, the more quadratic it is."
        panels.append(Panel(f"along-{index + 1}", caption, axes))
    if landscape.plane is not None:
        axes = pictures.draw_loss_across(landscape)
        panels.append(
            Panel("across", "The loss across the first two eigenvectors, the parameters in the middle.", axes)
        )
    return panels


def _training(history: History) -> list[Panel]:
    sharpness = pictures.draw_sharpness(history.steps, history.eigenvalues, learning_rate=history.learning_rate)
    losses = pictures.draw_losses(history.steps, history.losses)
    return [
        Panel("sharpness", "The largest eigenvalue of the Hessian while the network was trained.", sharpness),
        Panel("losses", "The loss in the same steps.", losses),
    ]


# Only these pictures of the page are also saved as files; `command` draws combined figures of the others.
def save_pictures(panels: dict[str, list[Panel]], save: Callable[[str, Any], None]) -> None:
    """Call `save(name, figure)` for each picture of the page that is also saved as a file."""
    for name in ("density", "layers", "convergence"):
        for panel in panels.get(name, []):
            save(name, panel.axes.figure)
