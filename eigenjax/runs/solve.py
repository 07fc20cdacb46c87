"""Restarted solver driven from the host, one convergence check or one matvec at a time.

The programs are `init`, `step` and `finalize` of `solvers.symmetric.restarted_lanczos`, compiled. Between them the host
holds the whole solver state. The number of steps in one call does not change what they compute.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from eigenjax.arguments import on_device
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.base import LinearOperator, structural_operator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.runs.stream import Stream
from eigenjax.solvers.convergence.status import stopping_tolerance
from eigenjax.solvers.symmetric import plan as planning
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.finalize import finalize
from eigenjax.solvers.symmetric.host_loop import verified_on_host
from eigenjax.solvers.symmetric.plan import Plan
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.vectors.tree import PyTree


class SolveProgress(NamedTuple):
    """Progress of a run."""

    num_matvecs: Any  # () int32, matvecs so far
    num_converged: Any  # () int32, at the last convergence check
    worst_residual: Any  # () largest residual of the k pairs, inf before there are k
    bound: Any  # () bound on the residual of a converged pair
    done: Any  # () bool


class OperatorSolve:
    """Solve with matvecs that are compiled with it."""

    def __init__(self, op: LinearOperator, plan: Plan, sigma: Any, v0: Any, seed: jax.Array, shardings: PyTree):
        self._op, self._plan = op, plan
        self._numbers = {"tol": _moved(plan.tol), "sigma": _moved(0.0 if sigma is None else sigma)}
        static_plan = plan._replace(tol=None)
        begin = functools.partial(_begin, plan=static_plan)
        self.shardings = _state_shardings(jax.eval_shape(begin, op, v0, seed)[0], shardings)
        self.state, self._given, self._references = _compiled(_begin, static_plan, self.shardings, num_others=2)(
            op, v0, seed
        )

    def advance(self, until: int) -> SolveProgress:
        """Advance by at least one convergence check, until `until` matvecs have been used."""
        program = _compiled(_advance, self._plan.spec, self.shardings, num_others=1)
        self.state, progress = program(self._op, self.state, self._given, _moved(until), **self._numbers)
        return jax.device_get(progress)

    def finish(self) -> EigenResult:
        """Return the result of the current state."""
        finalize = _compiled(_finalize, self._plan.spec, None, num_others=0)
        return finalize(self._op, self.state, self._references, **self._numbers)


class StreamSolve(OperatorSolve):
    """Solve with matvecs that are passes over data on the host."""

    def __init__(self, stream: Stream, plan: Plan, sigma: Any, v0: Any, seed: jax.Array, shardings: PyTree):
        self._stream = stream
        super().__init__(structural_operator(stream.structure, rounding_unit(stream)), plan, sigma, v0, seed, shardings)

    def advance(self, until: int) -> SolveProgress:
        """Advance by at least one block, until `until` matvecs have been used."""
        program = _compiled(_absorb, self._plan.spec, self.shardings, num_others=1)
        while True:
            vectors = _propose(self.state)
            images = vectors if jax.device_get(self.state.krylov.pending) else self._stream.products(vectors)
            self.state, progress = program(self._op, self.state, images, **self._numbers)
            progress = jax.device_get(progress)
            if progress.done or progress.num_matvecs >= until:
                return progress

    def finish(self) -> EigenResult:
        """Return the result of the state: one matvec verifies the residuals, k more recompute them if that fails."""
        spec, tol = self._plan.spec, self._numbers["tol"]
        return verified_on_host(self._stream.products, self._op, self.state, self._references, spec, tol)


def vector_shardings(image: PyTree) -> PyTree | None:
    """Return the sharding of vectors on a mesh, taken from a matvec; None without a mesh of several devices."""
    leaves = [leaf.sharding for leaf in jax.tree.leaves(image)]
    meshes = [sharding.mesh for sharding in leaves if isinstance(sharding, NamedSharding)]
    if not meshes or meshes[0].size == 1:
        return None
    sharding_of = lambda s: s if isinstance(s, NamedSharding) else NamedSharding(meshes[0], PartitionSpec())
    return jax.tree.map(lambda x: sharding_of(x.sharding), image)


def _state_shardings(state: RestartedState, shardings: PyTree) -> RestartedState | None:
    """Return the sharding of a state: vectors and rows of bases like vectors, the rest replicated; in all programs."""
    if shardings is None:
        return None
    mesh = jax.tree.leaves(shardings)[0].mesh
    rows = jax.tree.map(lambda s: NamedSharding(mesh, PartitionSpec(None, *s.spec)), shardings)
    replicated = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), state)
    return replicated._replace(krylov=replicated.krylov._replace(basis=rows, residual_block=rows, dropped=shardings))


def _compiled(program: Any, fixed: Plan | SolveSpec, shardings: RestartedState | None, *, num_others: int) -> Any:
    """Compile a program; its first result, the state, is sharded by `shardings`; `num_others` more results follow."""
    leaves, treedef = jax.tree.flatten(shardings)
    return _compiled_once(program, fixed, tuple(leaves), treedef, num_others)


@functools.lru_cache(maxsize=32)
def _compiled_once(program: Any, fixed: Plan | SolveSpec, leaves: tuple, treedef: Any, num_others: int) -> Any:
    shardings = jax.tree.unflatten(treedef, leaves)
    name = "plan" if isinstance(fixed, Plan) else "spec"
    # The state is updated in place: two copies of it would be two bases.
    donated = 1 if program in (_advance, _absorb) else None
    results = None if shardings is None else (shardings, *[None] * num_others)
    return jax.jit(functools.partial(program, **{name: fixed}), donate_argnums=donated, out_shardings=results)


def _begin(op: LinearOperator, v0: Any, seed: jax.Array, *, plan: Plan) -> tuple[RestartedState, Any, Any]:
    state, given, references = planning.initialize_solve(op, plan, v0, seed)
    # Without weak types, the first call of `_advance` and all others are one program.
    strong = lambda x: jax.lax.convert_element_type(x, x.dtype)
    return jax.tree.map(strong, state), given, references


def _advance(
    op: LinearOperator, state: RestartedState, given: Any, until: Any, *, tol: Any, sigma: Any, spec: SolveSpec
) -> tuple[RestartedState, SolveProgress]:
    step = lambda state: restarted_lanczos.step(op, state, spec, tol=tol, sigma=sigma, given=given)
    state = jax.lax.while_loop(lambda s: ~s.done & (s.krylov.num_matvecs < until), step, state)
    return state, _progress(op, state, spec, tol)


def _absorb(
    op: LinearOperator, state: RestartedState, images: PyTree, *, tol: Any, sigma: Any, spec: SolveSpec
) -> tuple[RestartedState, SolveProgress]:
    state = restarted_lanczos.absorb(op, state, images, spec, tol=tol, sigma=sigma)
    return state, _progress(op, state, spec, tol)


def _finalize(
    op: LinearOperator, state: RestartedState, references: Any, *, tol: Any, sigma: Any, spec: SolveSpec
) -> EigenResult:
    return finalize(op, state, spec, tol=tol, sigma=sigma, references=references)


_propose = jax.jit(restarted_lanczos.propose)


def _progress(op: LinearOperator, state: RestartedState, spec: SolveSpec, tol: Any) -> SolveProgress:
    residuals = state.found.residuals[: spec.k]
    bound = stopping_tolerance(op, tol, state.norm_estimate.dtype) * state.norm_estimate
    num_converged = jnp.sum(residuals <= bound, dtype=jnp.int32)
    return SolveProgress(state.krylov.num_matvecs, num_converged, jnp.max(residuals), bound, state.done)


def _moved(value: Any) -> Any:
    """Move a number to the device explicitly; with several processes, jit places it on all devices itself."""
    return on_device(value) if jax.process_count() == 1 else value
