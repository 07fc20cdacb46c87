"""Additional analyses of a report: the spectral density, the layers, and the Gauss-Newton matrix.

They come second to the eigenpairs: a failure is reported as a note, and the other analyses continue.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from eigenjax.operators.base import LinearOperator
from eigenjax.report.analysis.layers import LayerSpectra, layers_of, solve_layers
from eigenjax.report.analysis.solve import Programs, Settings, Solve, solve_by_lanczos
from eigenjax.report.inputs.errors import in_one_line
from eigenjax.report.inputs.operators import lacking, operator_of
from eigenjax.report.inputs.problem import Problem
from eigenjax.report.inputs.progress import Progress
from eigenjax.result import EigenResult
from eigenjax.spectrum import SpectralDensity, spectral_density

DENSITY, LAYERS, GAUSS_NEWTON = "density", "layers", "gauss-newton"
NAMES = (DENSITY, LAYERS, GAUSS_NEWTON)

# The standard error of the density decreases with the number of parameters: a network needs few probes.
NUM_PROBES, DENSITY_DIM = 4, 80
# The Gauss-Newton matrix has larger gaps than the Hessian, whose bulk around zero has both signs.
GAUSS_NEWTON_DIM = 60


class Additions(NamedTuple):
    """Results of the additional analyses; None for one that was not requested, does not apply or failed."""

    density: SpectralDensity | None  # of the whole spectrum
    layers: LayerSpectra | None  # largest eigenvalues of each layer's block
    gauss_newton: Solve | None  # largest eigenvalues of the Gauss-Newton matrix
    notes: dict[str, str]  # by name of the analysis: the reason why it is missing


def measure(
    op: LinearOperator,
    problem: Problem,
    settings: Settings,
    *,
    largest: float,
    known: EigenResult | None,
    without: tuple[str, ...],
    beside_hessian: bool,
    batch_size: int | None,
    seed: int,
    programs: Programs,
    progress: Progress,
) -> Additions:
    """Run all additional analyses that are requested and apply to the problem.

    Args:
        op: the operator whose pairs were computed.
        problem: the problem that the operator comes from.
        settings: the settings of the eigenpair solves.
        largest: largest magnitude of an eigenvalue found. With NaN or Inf no analysis is run.
        known: pairs of the operator, which the density counts exactly; None if there are none.
        without: names from `NAMES` of the analyses to omit.
        beside_hessian: True if `op` is the Hessian, which is then compared with the Gauss-Newton matrix.
        batch_size: examples at a time; None for all at once.
        seed: seed of the start vectors.
        programs: the programs compiled so far.
        progress: display of each analysis.

    Returns:
        The results. Cost: at most `NUM_PROBES * DENSITY_DIM`, `layers.MAX_MATVECS` and
        `max(GAUSS_NEWTON_DIM, 2 * k)` matvecs. A smaller `settings.krylov_dim` replaces either dimension.
    """
    notes = dict.fromkeys(without, "left out, as asked for by --without")
    if not np.isfinite(largest):
        notes |= dict.fromkeys(NAMES, "left out: matvecs with the operator are not finite")
        return Additions(None, None, None, notes)
    # Random numbers independent of those of the training and of the solves' start vectors.
    key = jax.random.fold_in(jax.random.key(seed, impl="rbg"), 2)
    k = next(iter(settings.groups.values()))
    which = {
        DENSITY: lambda: _density(op, key, known, min(DENSITY_DIM, settings.krylov_dim), progress),
        LAYERS: lambda: _layers(op, programs, settings, k, largest, progress),
        GAUSS_NEWTON: lambda: _gauss_newton(problem, settings, k, key, batch_size, programs, progress),
    }
    applies = {
        DENSITY: True,
        LAYERS: len(layers_of(op)) > 1,
        GAUSS_NEWTON: beside_hessian and lacking(problem, "gauss-newton") is None,
    }
    found = {name: attempt(name, which[name], notes, progress) for name in NAMES if applies[name] and name not in notes}
    return Additions(found.get(DENSITY), found.get(LAYERS), found.get(GAUSS_NEWTON), notes)


def attempt(name: str, function: Callable[[], Any], notes: dict[str, str], progress: Progress) -> Any:
    """Return the value of a function; None if it raises an error, which is then reported as a note."""
    try:
        return function()
    except Exception as error:  # no failure here may lose the eigenpairs
        notes[name] = f"failed: {in_one_line(error)}"
        progress.say(f"{name}: {notes[name]}")
        return None


def _density(
    op: LinearOperator, key: jax.Array, known: EigenResult | None, krylov_dim: int, progress: Progress
) -> SpectralDensity:
    krylov_dim = min(krylov_dim, op.size)
    with progress.stage("density", 1) as update:
        update(0, f"{NUM_PROBES * krylov_dim} matvecs to be taken")
        # One program compiles in less time than its parts.
        options = {"num_probes": NUM_PROBES, "krylov_dim": krylov_dim}
        estimated = jax.jit(lambda op, key, known: spectral_density(op, key=key, deflate=known, **options))
        density = estimated(op, key, known)
        density = jax.tree.map(np.asarray, jax.block_until_ready(density))
        if not np.all(np.isfinite(density.nodes)):
            raise FloatingPointError("the density's nodes are not finite")
        update(1, f"{int(density.num_matvecs)} matvecs, {NUM_PROBES} probes")
    return density


def _layers(
    op: LinearOperator, programs: Programs, settings: Settings, k: int, largest: float, progress: Progress
) -> LayerSpectra:
    with progress.stage("layers", len(layers_of(op))) as update:
        update(0, "compiling where there is anything new")
        options = {"k": k, "krylov_dim": settings.krylov_dim, "largest": largest, "tol": settings.tol}
        return solve_layers(op, programs, update=update, **options)


def _gauss_newton(
    problem: Problem,
    settings: Settings,
    k: int,
    key: jax.Array,
    batch_size: int | None,
    programs: Programs,
    progress: Progress,
) -> Solve:
    op = operator_of(problem, "gauss-newton", batch_size=batch_size)
    krylov_dim = min(max(GAUSS_NEWTON_DIM, 2 * k), settings.krylov_dim)
    lanczos_settings = settings._replace(groups={"LA": k}, krylov_dim=krylov_dim)
    return solve_by_lanczos(op, lanczos_settings, key, progress, programs, title="G.-Newton")
