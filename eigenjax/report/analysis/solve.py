"""Solvers of a report with progress display: a host loop over compiled chunks of the solvers' `step` functions."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.packed import packed_operator, unpacked_pairs
from eigenjax.report.inputs.progress import Progress
from eigenjax.result import EigenResult
from eigenjax.solvers.symmetric import lanczos, power_iteration

# Number of lowest eigenvalues shown in addition to the requested pairs: the most negative curvature.
NUM_LOWEST = 5

# A convergence check, which costs one matvec, follows every chunk until all pairs have converged.
LANCZOS_CHUNK = 5
_POWER_CHUNK = 100


class Settings(NamedTuple):
    """Settings of both algorithms."""

    groups: dict[str, int]  # number of pairs by `which`, the requested ones first
    krylov_dim: int  # dimension of the Krylov space
    max_iter: int  # matvecs per pair of the power iteration, at most
    momentum: float  # momentum of the power iteration
    tol: float  # relative tolerance of the residuals


class Solve(NamedTuple):
    """Results and cost of one algorithm."""

    results: dict[str, EigenResult]  # by `which`, on the host
    num_matvecs: int  # all matvecs, including those of the progress display
    seconds: float  # wall time
    compile_seconds: float  # part of `seconds` spent on compilation
    checks: dict[str, list[tuple[int, np.ndarray]]]  # Lanczos, by `which`: matvecs and (k,) residuals of each check


def wanted_groups(which: str, k: int, size: int) -> dict[str, int]:
    """Map each `which` to a number of pairs: the k requested, and a few of the lowest for "LA" and "LM".

    >>> wanted_groups("LA", 10, 3010)
    {'LA': 10, 'SA': 5}
    >>> wanted_groups("SA", 10, 3010), wanted_groups("LA", 3, 4)
    ({'SA': 10}, {'LA': 3, 'SA': 1})
    """
    lowest = min(NUM_LOWEST, k, size - k) if which in ("LA", "LM") else 0
    return {which: k, "SA": lowest} if lowest else {which: k}


def solve_by_lanczos(
    op: LinearOperator,
    settings: Settings,
    key: jax.Array,
    progress: Progress,
    programs: "Programs",
    title: str = "lanczos",
) -> Solve:
    """Compute all groups of pairs from one Krylov space by the Lanczos method.

    Args:
        op: symmetric operator.
        settings: the settings; only groups, krylov_dim and tol are used.
        key: random key of the start vector.
        progress: display of each chunk of steps.
        programs: the programs compiled so far; those of this solve are added.
        title: title of the stage in the progress display.

    Returns:
        The pairs. Cost: krylov_dim matvecs, and one for each verification of the residuals of a group.
    """
    clock = _Clock(programs)
    done, num_verifications, results = 0, 0, {}
    checks = {which: [] for which in settings.groups}
    with progress.stage(title, settings.krylov_dim) as update:
        update(0, "compiling")
        state = begin_lanczos(clock, op, key, settings.krylov_dim)
        while done < settings.krylov_dim:
            chunk = min(LANCZOS_CHUNK, settings.krylov_dim - done)
            state, done = advance_lanczos(clock, op, state, chunk), done + chunk
            is_last = done == settings.krylov_dim
            for which, k in settings.groups.items():
                # A group that has converged is verified once more at the end.
                has_converged = which in results and bool(np.all(results[which].converged))
                if is_last or (done >= k and not has_converged):
                    results[which] = check_lanczos(clock, op, state, settings.tol, k=k, which=which)
                    num_verifications += int(results[which].num_matvecs) - done
                    checks[which] += [] if has_converged else [(done, np.asarray(results[which].residuals))]
            update(done, f"{done + num_verifications} matvecs{_summary(list(results.values()))}")
    return clock.solve(results, done + num_verifications, checks)


def begin_lanczos(programs: "Programs | _Clock", op: LinearOperator, key: jax.Array, krylov_dim: int) -> Any:
    """Initialize the Lanczos solver state."""
    return programs.run(_lanczos_init, op, key, krylov_dim=krylov_dim)


def advance_lanczos(programs: "Programs | _Clock", op: LinearOperator, state: Any, count: int) -> Any:
    """Take `count` Lanczos steps, of one matvec each."""
    return programs.run(_lanczos_steps, op, state, jnp.int32(count))


def check_lanczos(
    programs: "Programs | _Clock", op: LinearOperator, state: Any, tol: float, *, k: int, which: str
) -> EigenResult:
    """Compute the Ritz pairs of a solver state, with residuals verified by one matvec."""
    return programs.run(_lanczos_finalize, op, state, tol, k=k, which=which)


def solve_by_power(
    op: LinearOperator, settings: Settings, key: jax.Array, progress: Progress, programs: "Programs"
) -> Solve:
    """Compute each group of pairs by a separate deflated power iteration.

    Args:
        op: symmetric operator.
        settings: the settings; only groups, max_iter, momentum and tol are used.
        key: random key of the start vectors.
        progress: display of each chunk of steps.
        programs: the programs compiled so far; those of this solve are added.

    Returns:
        The pairs. Cost: at most max_iter matvecs per pair.
    """
    clock = _Clock(programs)
    results, largest = {}, 0.0
    for which, k in settings.groups.items():
        with progress.stage(f"power {which}", k) as update:
            results[which] = _power_group(op, settings, key, which, largest, update, clock)
            largest = float(np.max(np.abs(results[which].eigenvalues)))
    return clock.solve(results, sum(int(result.num_matvecs) for result in results.values()), {})


def _power_group(
    op, settings: Settings, key, which: str, largest: float, update: Callable, clock: "_Clock"
) -> EigenResult:
    k = settings.groups[which]
    # The lowest eigenvalues of A are minus the largest of -A. With storage for the same number of pairs, both ends
    # share one compiled program, and compilation takes most of the time.
    sign, side = (-1.0, "LA") if which == "SA" else (1.0, which)
    signed, options = sign * op, {"which": side, "max_iter": settings.max_iter}
    update(0, "compiling")
    state = clock.run(_power_init, signed, key, k=max(settings.groups.values()))
    # The tolerance is relative to the largest |eigenvalue| of all groups.
    state = state._replace(largest=jnp.maximum(state.largest, jnp.asarray(largest, state.largest.dtype)))
    while int(state.num_pairs) < k:
        state = clock.run(_power_steps, signed, state, settings.tol, settings.momentum, **options)
        pairs = _first_pairs(state, k)
        worst = float(np.max(pairs.residuals))
        update(int(pairs.num_pairs), f"{int(pairs.num_matvecs)} matvecs, worst residual {worst:.1e}")
    result = clock.run(_power_finalize, signed, _first_pairs(state, k), settings.tol, which=side)
    worst = float(np.max(result.residuals))
    update(k, f"{int(result.num_matvecs)} matvecs, worst residual {worst:.1e}")
    return result._replace(eigenvalues=sign * result.eigenvalues)


def _first_pairs(state: power_iteration.PowerState, k: int) -> power_iteration.PowerState:
    # A chunk may find more than k pairs: drop those, but keep their matvecs in the count.
    return state._replace(
        basis=jax.tree.map(lambda leaf: leaf[:k], state.basis),
        projection=state.projection[:k, :k],
        residuals=state.residuals[:k],
        num_pairs=jnp.minimum(state.num_pairs, k),
    )


def _summary(found: Sequence[EigenResult]) -> str:
    if not found:
        return ""
    converged = np.concatenate([pairs.converged for pairs in found])
    worst = max(float(np.max(pairs.residuals)) for pairs in found)
    return f", {converged.sum()}/{converged.size} converged, worst {worst:.1e}"


class Programs:
    """Cache of compiled functions, by their static options and the shapes of their arguments."""

    def __init__(self):
        self.compile_seconds = 0.0
        self._compiled: dict[Any, Callable] = {}

    def run(self, function: Callable, *arguments: Any, **static: Any) -> Any:
        """Call a function compiled for its static options, and wait for the result."""
        key = (function, tuple(static.items()))
        key += (jax.tree.structure(arguments), *map(jnp.shape, jax.tree.leaves(arguments)))
        if key not in self._compiled:
            start = time.perf_counter()
            self._compiled[key] = jax.jit(functools.partial(function, **static)).lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - start
        return jax.block_until_ready(self._compiled[key](*arguments))


class _Clock:
    """Timer of one solve, with compilation counted separately."""

    def __init__(self, programs: Programs):
        self._programs, self._start, self._compiled_before = programs, time.perf_counter(), programs.compile_seconds

    def run(self, function: Callable, *arguments: Any, **static: Any) -> Any:
        return self._programs.run(function, *arguments, **static)

    def solve(self, results: dict[str, EigenResult], num_matvecs: int, checks: dict[str, list]) -> Solve:
        on_host = jax.tree.map(np.asarray, results)
        compiling = self._programs.compile_seconds - self._compiled_before
        return Solve(on_host, num_matvecs, time.perf_counter() - self._start, compiling, checks)


# The states hold packed vectors, because these compile in a fraction of the time. The results are unpacked.


def _lanczos_init(op, key, *, krylov_dim):
    return lanczos.init(packed_operator(op), krylov_dim=krylov_dim, key=key)


def _lanczos_steps(op, state, count):
    op = packed_operator(op)
    return jax.lax.fori_loop(0, count, lambda _, state: lanczos.step(op, state), state)


def _lanczos_finalize(op, state, tol, *, k, which):
    op = packed_operator(op)
    return unpacked_pairs(op, lanczos.finalize(op, state, k, which=which, tol=tol))


def _power_init(op, key, *, k):
    return power_iteration.init(packed_operator(op), k=k, key=key)


def _power_steps(op, state, tol, momentum, *, which, max_iter):
    op = packed_operator(op)
    advance = lambda state: power_iteration.step(op, state, which=which, max_iter=max_iter, tol=tol, momentum=momentum)
    # A step after the last pair takes no matvec.
    return jax.lax.fori_loop(0, _POWER_CHUNK, lambda _, state: advance(state), state)


def _power_finalize(op, state, tol, *, which):
    op = packed_operator(op)
    return unpacked_pairs(op, power_iteration.finalize(op, state, which=which, tol=tol))
