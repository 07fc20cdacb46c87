"""Pieces of a step of `eigsh`, each timed at the same shapes: matvec, orthogonalization, convergence check, restart.

The whole is a solve that cannot converge, with two limits on matvecs: their difference gives the time of a matvec with
everything around it. The pieces run in a scan, as in a solve, so that the time includes kernel launches but no Python
call.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.harness import Item, Log, Row, compiled, describe, rounds, side_by_side
from benchmarks.accelerator.problems import five_point
from eigenjax import eigsh
from eigenjax.krylov.decomposition import begin
from eigenjax.krylov.expansion import expand, orthonormalized
from eigenjax.vectors.orthogonalize import orthogonalize

K, KRYLOV_DIM = 5, 20
SHORT, LONG = 60, 140
COUNT = 50  # repetitions of a piece in one program
_TOL = 1e-7


def run(log: Log) -> None:
    """Time the pieces for two grids, the large one first."""
    sides = (8, 12) if log.args.quick else (1000, 100)
    log.run([Item({"n": side**2, "piece": ""}, 25, functools.partial(_rows, log, side)) for side in sides])


def _rows(log: Log, side: int) -> Iterator[Row]:
    potential = jax.random.uniform(jax.random.key(3), (side, side), maxval=10.0)
    basis = _orthonormal(side)
    small = jnp.diag(jnp.arange(KRYLOV_DIM, dtype=jnp.float32)) + jnp.ones((KRYLOV_DIM, KRYLOV_DIM))
    rotation = jnp.linalg.qr(small)[0][:, : KRYLOV_DIM // 2]
    pieces: dict[str, tuple[Callable, tuple]] = {
        "matvec": (_repeated(lambda v, potential: five_point(potential, None)(v)), (basis[0], potential)),
        "orthogonalization against m vectors": (_repeated(_orthogonalized), (potential, basis)),
        "two plain passes V (V^T w), for comparison": (_repeated(_two_passes), (potential, basis)),
        "eigh of m x m": (_repeated(lambda a: _symmetric_again(a, jnp.linalg.eigh(a)[1])), (small,)),
        "eigenjax's expansion by one vector": (_expansions, (potential, basis[0])),
        "basis change to m / 2 vectors, plain": (_repeated(_changed), (basis, rotation)),
        "empty step of a scan": (_repeated(lambda x: x * jnp.float32(0.999)), (jnp.ones(()),)),
    }
    whole = {f"eigsh, {budget}": (functools.partial(_solve, budget), (potential,)) for budget in (SHORT, LONG)}
    tasks = {name: functools.partial(compiled, f, *args) for name, (f, args) in (whole | pieces).items()}
    programs = side_by_side(tasks)
    calls = {
        name: functools.partial(program.call, *(whole | pieces)[name][1])
        for name, program in programs.items()
        if not isinstance(program, Exception)
    }
    timings = rounds(calls, log.args.repeats, log.deadline)
    for name, program in programs.items():
        row = {"n": side**2, "piece": name, "seconds": None, "count": None, "each_s": None}
        if isinstance(program, Exception) or timings[name].error:
            error = describe(program) if isinstance(program, Exception) else timings[name].error
            yield row | {"error": error}
            continue
        count = COUNT if name in pieces else int(calls[name]().num_matvecs)
        if name == "eigenjax's expansion by one vector":
            count = KRYLOV_DIM
        seconds = timings[name].median
        yield row | {"seconds": seconds, "count": count, "each_s": seconds / count, "compile_s": program.compile_s}
    yield _difference(side, calls, timings)


def _difference(side: int, calls: dict[str, Any], timings: dict[str, Any]) -> Row:
    """Return the row with the time of a matvec of eigsh and everything around it."""
    short, long = (f"eigsh, {budget}" for budget in (SHORT, LONG))
    count = int(calls[long]().num_matvecs) - int(calls[short]().num_matvecs)
    seconds = timings[long].median - timings[short].median
    return {
        "n": side**2,
        "piece": "eigsh, between the two",
        "seconds": seconds,
        "count": count,
        "each_s": seconds / count if count else None,
    }


def _solve(budget: int, potential: jax.Array) -> Any:
    options = {"krylov_dim": KRYLOV_DIM, "max_matvecs": budget, "verify": False}
    return eigsh(five_point(potential, None), K, tol=_TOL, **options)


def _repeated(piece: Callable) -> Callable:
    """Repeat a piece within one scan, each time on the previous result."""

    def program(carry, *args):
        return jax.lax.scan(lambda carry, _: (piece(carry, *args), None), carry, length=COUNT)[0]

    return program


def _orthogonalized(vector: jax.Array, basis: jax.Array) -> jax.Array:
    return orthogonalize(basis, vector).vector + basis[0]


def _two_passes(vector: jax.Array, basis: jax.Array) -> jax.Array:
    highest = jax.lax.Precision.HIGHEST
    for _ in range(2):
        along = jnp.einsum("mij,ij->m", basis, vector, precision=highest)
        vector = vector - jnp.einsum("m,mij->ij", along, basis, precision=highest)
    return vector + basis[0]


def _symmetric_again(matrix: jax.Array, vectors: jax.Array) -> jax.Array:
    """Change a symmetric matrix slightly, so that the compiler cannot remove a repetition."""
    return matrix + jnp.float32(1e-6) * (vectors + vectors.T)


def _changed(basis: jax.Array, rotation: jax.Array) -> jax.Array:
    turned = jnp.einsum("mij,mp->pij", basis, rotation, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.dynamic_update_slice(basis, turned, (0, 0, 0))


def _expansions(potential: jax.Array, start: jax.Array) -> Any:
    """Expand one vector to a full basis: matvec, recurrence, orthogonalization; no convergence check."""
    op = five_point(potential, None)
    state = orthonormalized(begin(start[None], KRYLOV_DIM, jnp.zeros(2, jnp.uint32)))
    return jax.lax.scan(lambda state, _: (expand(op, state), None), state, length=KRYLOV_DIM)[0]


def _orthonormal(side: int) -> jax.Array:
    """Draw a random orthonormal basis (m, side, side)."""
    samples = jax.random.normal(jax.random.key(5), (side * side, KRYLOV_DIM))
    columns = jnp.linalg.qr(samples)[0]
    return columns.T.reshape(KRYLOV_DIM, side, side)
