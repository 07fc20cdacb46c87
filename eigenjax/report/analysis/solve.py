"""The solvers, run as a person watches: a host loop over compiled chunks of the same `step` that a scan would take."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.base import LinearOperator
from eigenjax.report.inputs.progress import Progress
from eigenjax.result import EigenResult
from eigenjax.solvers.symmetric import lanczos, power_iteration

# The end of the spectrum that is shown beside the wanted one: how negative the curvature gets.
NUM_LOWEST = 5

# A look at the pairs, one product, follows every chunk until all have converged.
LANCZOS_CHUNK = 5
_POWER_CHUNK = 100


class Settings(NamedTuple):
    """What both algorithms are asked for."""

    groups: dict[str, int]  # how many pairs of each `which`, the wanted ones first
    krylov_dim: int
    max_iter: int
    momentum: float
    tol: float


class Solve(NamedTuple):
    """What one algorithm found and what it spent."""

    results: dict[str, EigenResult]  # by `which`, on the host
    num_matvecs: int  # all products, those for the progress display included
    seconds: float
    compile_seconds: float  # of these
    looks: list[tuple[int, np.ndarray]]  # products spent and (k,) residuals of the wanted pairs then; Lanczos only


def wanted_groups(which: str, k: int, size: int) -> dict[str, int]:
    """The k pairs asked for, and a few of the lowest where these are not among them already.

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
    """All groups from one Krylov space, finalized once for each.

    Args:
        op: symmetric.
        settings: krylov_dim and tol count here.
        key: of the start vector.
        progress: told of every chunk.
        programs: compiled so far; those of this solve are added.
        title: of the stage.

    Returns:
        The pairs. Cost: krylov_dim products and a few that vouch for residuals.
    """
    clock = _Clock(programs)
    (which, k), *_ = settings.groups.items()
    done, spent, seen, standing, is_done = 0, 0, [], "", False
    with progress.stage(title, settings.krylov_dim) as update:
        update(0, "compiling")
        state = begin_lanczos(clock, op, key, settings.krylov_dim)
        while done < settings.krylov_dim:
            chunk = min(LANCZOS_CHUNK, settings.krylov_dim - done)
            state, done = advance_lanczos(clock, op, state, chunk), done + chunk
            if done >= k and done < settings.krylov_dim and not is_done:
                look = look_at_lanczos(clock, op, state, settings.tol, k=k, which=which)
                spent += int(look.num_matvecs) - done
                seen.append((done, np.asarray(look.residuals)))
                standing, is_done = _standing([look]), bool(np.all(look.converged))
            update(done, f"{done} products{standing}")
        results = {
            which: look_at_lanczos(clock, op, state, settings.tol, k=k, which=which)
            for which, k in settings.groups.items()
        }
        update(done, f"{done} products{_standing(list(results.values()))}")
    if not is_done:
        seen.append((done, np.asarray(results[which].residuals)))
    audits = sum(int(result.num_matvecs) - done for result in results.values())
    return clock.solve(results, done + spent + audits, seen)


def begin_lanczos(programs: "Programs | _Clock", op: LinearOperator, key: jax.Array, krylov_dim: int) -> Any:
    """The state before the first product."""
    return programs.run(_lanczos_init, op, key, krylov_dim=krylov_dim)


def advance_lanczos(programs: "Programs | _Clock", op: LinearOperator, state: Any, count: int) -> Any:
    """The state after so many products more."""
    return programs.run(_lanczos_steps, op, state, jnp.int32(count))


def look_at_lanczos(
    programs: "Programs | _Clock", op: LinearOperator, state: Any, tol: float, *, k: int, which: str
) -> EigenResult:
    """The pairs that a state holds; costs a product, which vouches for their residuals."""
    return programs.run(_lanczos_finalize, op, state, tol, k=k, which=which)


def solve_by_power(
    op: LinearOperator, settings: Settings, key: jax.Array, progress: Progress, programs: "Programs"
) -> Solve:
    """Each group by a deflated power iteration of its own.

    Args:
        op: symmetric.
        settings: max_iter, momentum and tol count here.
        key: of the start vectors.
        progress: told of every chunk.
        programs: compiled so far; those of this solve are added.

    Returns:
        The pairs. Cost: at most max_iter products a pair.
    """
    clock = _Clock(programs)
    results = {}
    for which, k in settings.groups.items():
        with progress.stage(f"power {which}", k) as update:
            results[which] = _power_group(op, settings, key, which, update, clock)
    return clock.solve(results, sum(int(result.num_matvecs) for result in results.values()), [])


def _power_group(op, settings: Settings, key, which: str, update: Callable, clock: "_Clock") -> EigenResult:
    k = settings.groups[which]
    # The lowest of A are the largest of -A: both ends, with room for as many pairs, are then one program, and
    # compiling is what a person waits for.
    sign, side = (-1.0, "LA") if which == "SA" else (1.0, which)
    signed, options = sign * op, {"which": side, "max_iter": settings.max_iter}
    update(0, "compiling")
    state = clock.run(_power_init, signed, key, k=max(settings.groups.values()))
    while int(state.num_pairs) < k:
        state = clock.run(_power_steps, signed, state, settings.tol, settings.momentum, **options)
        pairs = _first_pairs(state, k)
        worst = float(np.max(pairs.residuals))
        update(int(pairs.num_pairs), f"{int(pairs.num_matvecs)} products, worst residual {worst:.1e}")
    result = clock.run(_power_finalize, signed, _first_pairs(state, k), settings.tol, which=side)
    return result._replace(eigenvalues=sign * result.eigenvalues)


def _first_pairs(state: power_iteration.PowerState, k: int) -> power_iteration.PowerState:
    # As if there had been room for k only; what a chunk did beyond them stays in the count of products.
    return state._replace(
        basis=jax.tree.map(lambda leaf: leaf[:k], state.basis),
        projection=state.projection[:k, :k],
        residuals=state.residuals[:k],
        num_pairs=jnp.minimum(state.num_pairs, k),
    )


def _standing(found: Sequence[EigenResult]) -> str:
    converged = np.concatenate([pairs.converged for pairs in found])
    worst = max(float(np.max(pairs.residuals)) for pairs in found)
    return f", {converged.sum()}/{converged.size} converged, worst {worst:.1e}"


class Programs:
    """Functions compiled, each once for the shapes it was called with; solves that are alike share them."""

    def __init__(self):
        self.compile_seconds = 0.0
        self._compiled: dict[Any, Callable] = {}

    def run(self, function: Callable, *arguments: Any, **static: Any) -> Any:
        """Calls a function to the end, compiled for its static options."""
        name = (function, tuple(static.items()))
        name += (jax.tree.structure(arguments), *map(jnp.shape, jax.tree.leaves(arguments)))
        if name not in self._compiled:
            start = time.perf_counter()
            self._compiled[name] = jax.jit(functools.partial(function, **static)).lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - start
        return jax.block_until_ready(self._compiled[name](*arguments))


class _Clock:
    """Tells compiling from computing in one solve."""

    def __init__(self, programs: Programs):
        self._programs, self._start, self._compiled_before = programs, time.perf_counter(), programs.compile_seconds

    def run(self, function: Callable, *arguments: Any, **static: Any) -> Any:
        return self._programs.run(function, *arguments, **static)

    def solve(self, results: dict[str, EigenResult], num_matvecs: int, seen: list[tuple[int, np.ndarray]]) -> Solve:
        on_host = jax.tree.map(np.asarray, results)
        compiling = self._programs.compile_seconds - self._compiled_before
        return Solve(on_host, num_matvecs, time.perf_counter() - self._start, compiling, seen)


def _lanczos_init(op, key, *, krylov_dim):
    return lanczos.init(op, krylov_dim=krylov_dim, key=key)


def _lanczos_steps(op, state, count):
    return jax.lax.fori_loop(0, count, lambda _, state: lanczos.step(op, state), state)


def _lanczos_finalize(op, state, tol, *, k, which):
    return lanczos.finalize(op, state, k, which=which, tol=tol)


def _power_init(op, key, *, k):
    return power_iteration.init(op, k=k, key=key)


def _power_steps(op, state, tol, momentum, *, which, max_iter):
    advance = lambda state: power_iteration.step(op, state, which=which, max_iter=max_iter, tol=tol, momentum=momentum)
    # A step after the last pair costs nothing.
    return jax.lax.fori_loop(0, _POWER_CHUNK, lambda _, state: advance(state), state)


def _power_finalize(op, state, tol, *, which):
    return power_iteration.finalize(op, state, which=which, tol=tol)
