"""Command `spectrum`: from a request to a folder of tables, files, pictures and an HTML page."""

import contextlib
import functools
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.base import LinearOperator
from eigenjax.report import pictures
from eigenjax.report.analysis import extras
from eigenjax.report.analysis.extras import Additions
from eigenjax.report.analysis.landscape import Landscape, survey
from eigenjax.report.analysis.layers import layers_of, whole
from eigenjax.report.analysis.solve import Programs, Settings, Solve, solve_by_lanczos, solve_by_power, wanted_groups
from eigenjax.report.analysis.tables import print_tables
from eigenjax.report.inputs import digits
from eigenjax.report.inputs.errors import ReportError, require
from eigenjax.report.inputs.finite import check_finite
from eigenjax.report.inputs.operators import NAMES, operator_of
from eigenjax.report.inputs.problem import Problem, load_problem, num_parameters
from eigenjax.report.inputs.progress import Progress
from eigenjax.report.output import record
from eigenjax.report.output.folder import staged
from eigenjax.report.output.manifest import CONTENTS
from eigenjax.report.output.page import write_page
from eigenjax.report.output.panels import Panel, draw_panels, save_pictures
from eigenjax.report.output.svg import save_figure
from eigenjax.vectors.tree import PyTree

_SOLVERS = {"lanczos": solve_by_lanczos, "power": solve_by_power}
_DEFAULT_KRYLOV_DIM = 150
PAGE, EIGENPAIRS = "report.html", "eigenpairs.npz"
# All pictures that a report may contain. The problem and the options decide which of them are drawn.
_PICTURES = ("eigenvalues", "landscape", "training", "density", "layers", "convergence")


class Request(NamedTuple):
    """Options of the command line, each a field of the same name."""

    problem: str = "digits"  # "digits" or "package.module:function"
    k: int = 10  # number of pairs
    which: str = "LA"  # part of the spectrum: "LA", "SA", "LM" or "BE"
    algorithm: str = "both"  # "lanczos", "power" or "both"
    seed: int = 0  # seed of the initial parameters and of the start vectors
    dtype: str = "float32"  # dtype of parameters and data
    krylov_dim: int | None = None  # dimension of the Krylov space; None chooses it from k
    max_iter: int = 5000  # matvecs per pair of the power iteration, at most
    momentum: float = 0.98  # momentum of the power iteration
    tol: float = 1e-5  # relative tolerance of the residuals
    batch_size: int | None = None  # examples at a time; None for all at once
    out: str = "eigenjax-out"  # folder to write
    operator: str = "hessian"  # "hessian", "gauss-newton" or "fisher"
    without: tuple[str, ...] = ()  # names of the additional analyses to omit
    formats: tuple[str, ...] = ("png",)  # file formats of the pictures: "png", "svg", "pdf"


def report_spectrum(request: Request) -> None:
    """Compute a spectrum, print it, and write a folder with the numbers and pictures.

    Args:
        request: the options; each has a default.

    Raises:
        ReportError: if the report cannot be made; then no file is left behind.
    """
    start = time.perf_counter()
    require("rich", "matplotlib", *(digits.PACKAGES if request.problem == "digits" else ()))
    progress = Progress()
    placed = lambda place: progress.say(
        f"{', '.join(document['files'])} in {place} ({time.perf_counter() - start:.1f} s)"
    )
    stage = staged(request.out, expected=_expected(request), placed=placed)
    with stage as folder, jax.enable_x64(request.dtype == "float64"):
        problem = _problem(request, progress)
        op, programs = _operator(problem, request), Programs()
        _check_finite(problem, request)
        settings = _settings(request, op.size)
        solves = _solve(op, settings, request, programs, progress)
        print_tables(solves, NAMES[request.operator])
        found = _measure(op, problem, solves, settings, request, programs, progress)
        loss, panels = _draw(folder, problem, solves, found, request, progress)
        record.write_eigenpairs(folder / EIGENPAIRS, next(iter(solves.values())))
        document = record.document_of(
            arguments=request._asdict() | {"krylov_dim": settings.krylov_dim},
            problem=problem,
            op=op,
            solves=solves,
            additions=found,
            loss=loss,
            seconds=time.perf_counter() - start,
            files=sorted({CONTENTS, PAGE, *(path.name for path in folder.iterdir())}),
        )
        write_page(folder / PAGE, document, panels)
        record.write_json(folder / CONTENTS, document)


def _expected(request: Request) -> tuple[str, ...]:
    """Return all file names that a report may contain."""
    names = [name for name in _PICTURES if name not in request.without]
    return (PAGE, CONTENTS, EIGENPAIRS, *(f"{name}.{kind}" for name in names for kind in request.formats))


def _problem(request: Request, progress: Progress) -> Problem:
    dtype = jnp.dtype(request.dtype)
    if request.problem == "digits":
        with progress.stage("training", digits.NUM_STEPS) as update:
            return digits.digits_problem(jax.random.key(request.seed), dtype=dtype, update=update)
    with _importing_from_here():
        problem = load_problem(request.problem)
    return problem._replace(params=_as_arrays(problem.params, dtype), data=_as_arrays(problem.data, dtype))


@contextlib.contextmanager
def _importing_from_here() -> Iterator[None]:
    # `python -m` imports from the working folder, an installed script does not. Make both do so.
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _as_arrays(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    def convert(leaf):
        is_floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if is_floating else jnp.asarray(leaf)

    # Numbers too large for the dtype become Inf; `check_finite` names them later.
    with np.errstate(over="ignore"):
        return jax.tree.map(convert, tree)


def _operator(problem: Problem, request: Request) -> LinearOperator:
    if request.batch_size is not None and problem.data is None:
        raise ReportError(f"--batch-size {request.batch_size}: this problem has no data")
    op = operator_of(problem, request.operator, batch_size=request.batch_size)
    size = num_parameters(problem.params)
    if request.k > size:
        title = NAMES[request.operator]
        raise ReportError(f"--k {request.k}: the {title} is {size} x {size}, so choose k <= {size}")
    if request.krylov_dim is not None and request.krylov_dim < request.k:
        raise ReportError(f"--krylov-dim {request.krylov_dim}: must be at least k = {request.k}")
    return op


def _check_finite(problem: Problem, request: Request) -> None:
    try:
        check_finite(problem, batch_size=request.batch_size)
    except ReportError as error:
        raise ReportError(f"--problem {request.problem}: {error}") from error


def _settings(request: Request, size: int) -> Settings:
    groups = wanted_groups(request.which, request.k, size)
    krylov_dim = request.krylov_dim or max(_DEFAULT_KRYLOV_DIM, 4 * request.k)
    return Settings(groups, min(krylov_dim, size), request.max_iter, request.momentum, request.tol)


def _solve(
    op: LinearOperator, settings: Settings, request: Request, programs: Programs, progress: Progress
) -> dict[str, Solve]:
    names = _SOLVERS if request.algorithm == "both" else (request.algorithm,)
    # The initial parameters use the seed itself: the start vectors must not repeat their random numbers.
    # "rbg" compiles in half the time, and its quality is sufficient for start vectors.
    key = jax.random.fold_in(jax.random.key(request.seed, impl="rbg"), 1)
    # Treat the whole operator as one layer if layers follow, so that they reuse the compiled programs.
    as_layer = extras.LAYERS not in request.without and len(layers_of(op)) > 1
    operators = {"lanczos": whole(op) if as_layer else op, "power": op}
    return {name: _SOLVERS[name](operators[name], settings, key, progress, programs) for name in names}


def _measure(
    op: LinearOperator,
    problem: Problem,
    solves: dict[str, Solve],
    settings: Settings,
    request: Request,
    programs: Programs,
    progress: Progress,
) -> Additions:
    values = [np.abs(result.eigenvalues) for solve in solves.values() for result in solve.results.values()]
    return extras.measure(
        op,
        problem,
        settings,
        largest=float(np.max(np.concatenate(values))),
        known=next(iter(next(iter(solves.values())).results.values())),
        without=request.without,
        beside_hessian=request.operator == "hessian",
        batch_size=request.batch_size,
        seed=request.seed,
        programs=programs,
        progress=progress,
    )


def _draw(
    folder: pathlib.Path,
    problem: Problem,
    solves: dict[str, Solve],
    found: Additions,
    request: Request,
    progress: Progress,
) -> tuple[float | None, dict[str, list[Panel]]]:
    save = lambda name, figure: save_figure(figure, folder / name, request.formats)
    with progress.stage("pictures", 4) as update:
        save("eigenvalues", pictures.draw_solves(solves, tol=request.tol))
        update(1, "eigenvalues")
        landscape, eigenvalues = _survey(problem, next(iter(solves.values())), request.batch_size, found, progress)
        if landscape is not None:
            save("landscape", pictures.draw_landscape(landscape, eigenvalues))
            update(2, "eigenvalues, landscape")
        if problem.history is not None:
            save("training", pictures.draw_training(problem.history))
            update(3, "eigenvalues, landscape, training")
        panels = draw_panels(solves, request.tol, found, landscape, eigenvalues, problem.history)
        save_pictures(panels, save)
        update(4, f"{sum(map(len, panels.values()))} for the page")
    return None if landscape is None else float(landscape.center), panels


def _survey(
    problem: Problem, solve: Solve, batch_size: int | None, found: Additions, progress: Progress
) -> tuple[Landscape | None, np.ndarray]:
    result = next(iter(solve.results.values()))
    eigenvalues = np.asarray(result.eigenvalues)[:2]
    if not np.all(np.isfinite(eigenvalues)):
        # Eigenvectors with NaN or Inf define no directions. The table and the file report the failure.
        return None, eigenvalues
    directions = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), result.eigenvectors)
    take = functools.partial(survey, problem, eigenvalues, directions, batch_size=batch_size)
    return extras.attempt("landscape", take, found.notes, progress), eigenvalues
