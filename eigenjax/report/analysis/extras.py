"""What a report has beside the eigenpairs: the density, the layers, the Gauss-Newton matrix.

None of them is what was asked for first: one that fails is told of, in progress and report, and the rest goes on.
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
from eigenjax.spectrum import SpectralDensity, spectral_density

DENSITY, LAYERS, GAUSS_NEWTON = "density", "layers", "gauss-newton"
NAMES = (DENSITY, LAYERS, GAUSS_NEWTON)

# The chance in the density falls with the number of parameters too: a few probes are enough of a network.
NUM_PROBES, DENSITY_DIM = 4, 80
# Its pairs stand apart more than those of the Hessian, which has a bulk around zero with both signs.
GAUSS_NEWTON_DIM = 60


class Additions(NamedTuple):
    """What there is; None for what was not wanted, does not apply or has failed."""

    density: SpectralDensity | None
    layers: LayerSpectra | None
    gauss_newton: Solve | None
    notes: dict[str, str]  # by name: why something is missing, where a person might expect it


def measure(
    op: LinearOperator,
    problem: Problem,
    settings: Settings,
    *,
    largest: float,
    without: tuple[str, ...],
    beside_hessian: bool,
    batch_size: int | None,
    seed: int,
    programs: Programs,
    progress: Progress,
) -> Additions:
    """Measures everything that is wanted and applies.

    Args:
        op: whose pairs were found.
        problem: it came from.
        settings: of the pairs.
        largest: magnitude of an eigenvalue; NaN or Inf if products are not finite: then there is nothing to measure.
        without: of `NAMES`, what is not wanted.
        beside_hessian: whether `op` is the Hessian, beside which the Gauss-Newton matrix is of interest.
        batch_size: examples at a time.
        seed: of the start vectors.
        programs: compiled so far.
        progress: told of everything.

    Returns:
        The additions. Cost: `NUM_PROBES` times `DENSITY_DIM`, `layers.MAX_PRODUCTS` and `GAUSS_NEWTON_DIM` products
        at most, or settings.krylov_dim in place of a dimension, where that is less.
    """
    notes = dict.fromkeys(without, "left out, as asked for by --without")
    if not np.isfinite(largest):
        notes |= dict.fromkeys(NAMES, "left out: products with the operator are not finite")
        return Additions(None, None, None, notes)
    # Other numbers than those of training and of the solves' start vectors.
    key = jax.random.fold_in(jax.random.key(seed, impl="rbg"), 2)
    k = next(iter(settings.groups.values()))
    which = {
        DENSITY: lambda: _density(op, key, min(DENSITY_DIM, settings.krylov_dim), progress),
        LAYERS: lambda: _layers(op, programs, settings, k, largest, progress),
        GAUSS_NEWTON: lambda: _gauss_newton(problem, settings, k, key, batch_size, programs, progress),
    }
    applies = {
        DENSITY: True,
        LAYERS: len(layers_of(op)) > 1,
        GAUSS_NEWTON: beside_hessian and lacking(problem, "gauss-newton") is None,
    }
    found = {
        name: _attempt(name, which[name], notes, progress) for name in NAMES if applies[name] and name not in notes
    }
    return Additions(found.get(DENSITY), found.get(LAYERS), found.get(GAUSS_NEWTON), notes)


def _attempt(name: str, function: Callable[[], Any], notes: dict[str, str], progress: Progress) -> Any:
    try:
        return function()
    except Exception as error:  # whatever it is, the pairs have been found and are to be kept
        notes[name] = f"failed: {in_one_line(error)}"
        progress.say(f"{name}: {notes[name]}")
        return None


def _density(op: LinearOperator, key: jax.Array, krylov_dim: int, progress: Progress) -> SpectralDensity:
    krylov_dim = min(krylov_dim, op.size)
    with progress.stage("density", 1) as update:
        update(0, f"{NUM_PROBES * krylov_dim} products to be taken")
        # As one program, which compiles in less time than its parts.
        density = jax.jit(lambda op, key: spectral_density(op, key=key, num_probes=NUM_PROBES, krylov_dim=krylov_dim))(
            op, key
        )
        density = jax.tree.map(np.asarray, jax.block_until_ready(density))
        if not np.all(np.isfinite(density.nodes)):
            raise FloatingPointError("the density's nodes are not finite")
        update(1, f"{int(density.num_matvecs)} products, {NUM_PROBES} probes")
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
    own = settings._replace(groups={"LA": k}, krylov_dim=krylov_dim)
    return solve_by_lanczos(op, own, key, progress, programs, title="G.-Newton")
