"""Pictures of spectra: each function draws numbers on the given or on new matplotlib axes, and returns the axes.

No function opens a window or changes matplotlib's global state. Without `axes` a new figure is created, which is
`axes.figure`:

    axes = draw_density(spectral_density(op, key=key))
    axes.figure.savefig("density.png")

In a notebook: `figure, axes = matplotlib.pyplot.subplots()`, and `draw_density(found, axes=axes)`.
"""

from eigenjax.report.pictures.canvas import DPI
from eigenjax.report.pictures.convergence import draw_convergence
from eigenjax.report.pictures.density import draw_density
from eigenjax.report.pictures.eigenvalues import draw_eigenvalues, draw_residuals, draw_solves
from eigenjax.report.pictures.landscape import draw_landscape, draw_loss_across, draw_loss_along
from eigenjax.report.pictures.layers import draw_layers
from eigenjax.report.pictures.overlap import draw_overlaps, subspace_overlaps
from eigenjax.report.pictures.training import draw_losses, draw_sharpness, draw_training

__all__ = [
    "DPI",
    "draw_convergence",
    "draw_density",
    "draw_eigenvalues",
    "draw_landscape",
    "draw_layers",
    "draw_loss_across",
    "draw_loss_along",
    "draw_losses",
    "draw_overlaps",
    "draw_residuals",
    "draw_sharpness",
    "draw_solves",
    "draw_training",
    "subspace_overlaps",
]
