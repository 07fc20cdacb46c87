"""Time of a solve over that of a bare scan of as many matvecs: the overhead of a solver."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.accelerator import problems
from benchmarks.accelerator.harness import Item, Log, Program, Rounds, Row, compiled, describe, rounds, side_by_side
from benchmarks.accelerator.problems import Problem
from eigenjax import adjoint_info, eigsh, lanczos, spectrum_tracker

# Not reached within the matvecs allowed, and not zero, so that convergence checks happen as usual.
_TOL = 1e-7

_SOLVES = ("lanczos", "eigsh", "tracker")
_ALL = (*_SOLVES, "gradient")

# Each with its time limit in seconds, mostly for compilation; the most important first. The reverse pass of the
# language model is last, because it takes three times as long to compile as all the rest.
ITEMS = (
    ("perceptron, 1 M", problems.medium_network, _ALL, 25),
    ("GPT-2 small, float32", problems.language_model("float32"), _SOLVES, 40),
    ("graph", problems.graph, _ALL, 25),
    ("stencil", problems.stencil, _ALL, 25),
    ("perceptron, 85 k", problems.small_network, _ALL, 25),
    ("GPT-2 small, bfloat16", problems.language_model("bfloat16"), _SOLVES, 35),
    ("GPT-2 small, float32", problems.language_model("float32"), ("gradient",), 60),
)


class Solver(NamedTuple):
    """Compiled solver with its arguments, and the number of matvecs of one call."""

    program: Program
    args: tuple
    matvecs: Callable[[], int]

    def __call__(self) -> Any:
        """Run once; the result stays on the device."""
        return self.program.call(*self.args)


def run(log: Log) -> None:
    """Add one row for each solver on each problem."""
    for name, make, solvers, seconds in ITEMS:
        log.run([Item({"problem": name}, seconds, functools.partial(_rows, make, solvers, log))])


def _rows(make: Callable[[bool], Problem], solvers: Sequence[str], log: Log) -> Iterator[Row]:
    """Compile all programs of a problem at once, run each once, then time them in turn."""
    problem = make(log.args.quick)
    n, vector_bytes = problem.op.size, 4 * problem.op.size
    labels = {"problem": problem.name, "n": n, "basis_bytes": problem.krylov_dim * vector_bytes}
    programs = _compiled(problem, solvers)
    bare = programs.pop("bare")
    if isinstance(bare, Exception):
        raise bare
    ready, failures = _ready(problem, programs)
    for name, error in failures.items():
        yield _row(labels, name) | {"error": error}
    bare_call = functools.partial(bare.call, *bare_arguments(problem))
    timings = rounds({"bare": bare_call, **ready}, log.args.repeats, log.deadline)
    product_s = timings["bare"].median / problem.krylov_dim
    yield _row(labels, "bare scan", problem.krylov_dim, bare, timings["bare"], product_s)
    for name, solver in ready.items():
        if timings[name].error:
            yield _row(labels, name) | {"error": timings[name].error}
        else:
            yield _row(labels, name, solver.matvecs(), solver.program, timings[name], product_s)


def _row(
    labels: Row,
    solver: str,
    matvecs: int | None = None,
    program: Program | None = None,
    timed: Rounds | None = None,
    product_s: float | None = None,
) -> Row:
    is_measured = program is not None and timed is not None and matvecs is not None and product_s is not None
    return {
        "problem": labels["problem"],
        "solver": solver,
        "n": labels["n"],
        "matvecs": matvecs,
        "solve_s": timed.median if is_measured else None,
        "bare_s": matvecs * product_s if is_measured else None,
        "ratio": timed.median / (matvecs * product_s) if is_measured else None,
        "rounds": len(timed.samples) if is_measured else 0,
        "compile_s": program.compile_s if is_measured else None,
        "first_s": timed.first_s if is_measured else None,
        "temp_bytes": program.temp_bytes if is_measured else None,
        "basis_bytes": labels["basis_bytes"],
        "peak_bytes": timed.peak_bytes if is_measured else None,
    }


def _compiled(problem: Problem, solvers: Sequence[str]) -> dict[str, Any]:
    """Compile all programs at once; return them by name, or the exceptions raised."""
    tasks = {"bare": _bare, "lanczos": _lanczos, "eigsh": _eigsh, "tracker": _tracker, "gradient": _gradient}
    return side_by_side({name: functools.partial(tasks[name], problem) for name in ("bare", *solvers)})


def bare_arguments(problem: Problem) -> tuple:
    """Return the start vector of the bare scan, and a factor that keeps the numbers in range."""
    structure = problem.op.structure
    vector = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-3, leaf.dtype), structure)
    return problem.theta, problem.fixed, vector, jnp.float32(1e-2)


def _bare(problem: Problem) -> Program:
    def scan(theta, fixed, vector, factor):
        op = problem.build(theta, fixed)
        advance = lambda v, _: (jax.tree.map(lambda x: factor.astype(x.dtype) * x, op(v)), None)
        return jax.lax.scan(advance, vector, length=problem.krylov_dim)[0]

    return compiled(scan, *bare_arguments(problem))


def _lanczos(problem: Problem) -> Program:
    solve = lambda theta, fixed: lanczos(problem.build(theta, fixed), problem.k, krylov_dim=problem.krylov_dim)
    return compiled(solve, problem.theta, problem.fixed)


def _eigsh(problem: Problem) -> Program:
    options = {"krylov_dim": problem.krylov_dim, "max_matvecs": problem.max_matvecs, "verify": False}
    solve = lambda theta, fixed: eigsh(problem.build(theta, fixed), problem.k, tol=_TOL, **options)
    return compiled(solve, problem.theta, problem.fixed)


def _tracker(problem: Problem) -> tuple[Program, Any]:
    tracker = spectrum_tracker(problem.tracked, matvecs_per_update=problem.tracker_matvecs)
    state = tracker.init(problem.op, jax.random.key(1))
    update = lambda theta, fixed, state: tracker.update(problem.build(theta, fixed), state)
    return compiled(update, problem.theta, problem.fixed, state), state


class Gradient(NamedTuple):
    """Programs of a gradient of eigenvectors."""

    forward: Program  # (theta, fixed) -> (eigenvectors, pull-back, result)
    reverse: Program  # (pull-back, cotangent) -> cotangent of theta
    info: Program  # (theta, fixed, result, cotangent) -> matvecs of the linear solves
    k: int


def _gradient(problem: Problem) -> Gradient:
    k = min(problem.tracked, 2)

    def forward(theta, fixed):
        def vectors(theta):
            # `eigsh` would recycle Ritz pairs in the linear solves, which `adjoint_info` does not take into account.
            result = lanczos(problem.build(theta, fixed), k, krylov_dim=problem.krylov_dim, which="LA")
            return result.eigenvectors, jax.lax.stop_gradient(result)

        return jax.vjp(vectors, theta, has_aux=True)

    def info(theta, fixed, result, cotangent):
        return adjoint_info(problem.build(theta, fixed), result, cotangent, which="LA").num_matvecs

    first = compiled(forward, problem.theta, problem.fixed)
    vectors, pull, result = first.out_info
    tasks = {
        "reverse": lambda: compiled(lambda pull, cotangent: pull(cotangent), pull, vectors),
        "info": lambda: compiled(info, problem.theta, problem.fixed, result, vectors),
    }
    programs = side_by_side(tasks)
    for program in programs.values():
        if isinstance(program, Exception):
            raise program
    return Gradient(first, programs["reverse"], programs["info"], k)


def _ready(problem: Problem, programs: dict[str, Any]) -> tuple[dict[str, Solver], dict[str, str]]:
    """Return the solvers that can be timed, and the errors of the others."""
    solvers: dict[str, Solver] = {}
    failures = {name: describe(value) for name, value in programs.items() if isinstance(value, Exception)}
    begin = {"lanczos": _begin_plain, "eigsh": _begin_plain, "tracker": _begin_tracker, "gradient": _begin_gradient}
    for name, value in programs.items():
        if name in failures:
            continue
        try:
            solvers[_NAMES.get(name, name)] = begin[name](problem, value)
        except Exception as error:
            failures[name] = describe(error)
    return solvers, failures


_NAMES = {"tracker": "tracker's update", "gradient": "reverse pass"}


def _begin_plain(problem: Problem, program: Program) -> Solver:
    args = problem.theta, problem.fixed
    return Solver(program, args, lambda: int(program.call(*args).num_matvecs))


def _begin_tracker(problem: Problem, made: tuple[Program, Any]) -> Solver:
    """Run the first updates, which search for missed pairs, before the timing."""
    program, state = made
    for _ in range(3):
        state, _ = program.call(problem.theta, problem.fixed, state)
    args = problem.theta, problem.fixed, state
    return Solver(program, args, lambda: int(program.call(*args)[1]["num_matvecs"]))


def _begin_gradient(problem: Problem, made: Gradient) -> Solver:
    """Run the forward pass before the timing, which covers the linear solves and the pull-back.

    The matvecs are those that `adjoint_info` counts, and the k of the pull-back.
    """
    vectors, pull, result = made.forward.call(problem.theta, problem.fixed)
    cotangent = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), vectors)
    count = lambda: made.k + int(made.info.call(problem.theta, problem.fixed, result, cotangent))
    return Solver(made.reverse, (pull, cotangent), count)
