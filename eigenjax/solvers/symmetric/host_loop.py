"""Restarted solve in a loop on the host, for calls outside of any program.

    vectors = propose(state);  images = A vectors;  state = absorb(state, images);  ...

The matvec is a program of its own. All others depend on the structure of the vectors and on the static options only, so
that a second operator compiles its matvec and nothing else. Each turn waits for two flags of the state.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from eigenjax.arguments import on_device
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.base import LinearOperator, matvec, structural_operator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.residuals import (
    Verification,
    VerificationProgress,
    absorb_image,
    vector_to_multiply,
)
from eigenjax.solvers.symmetric import finalize, restarted_lanczos
from eigenjax.solvers.symmetric.plan import Plan, initialize_solve
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.solvers.warm_start import is_start_block
from eigenjax.vectors import tree
from eigenjax.vectors.placement import spans_devices
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.tree import PyTree

# Switch of JAX that refuses infinities in the results of programs.
_DEBUG_INFS = "jax_debug_infs"


def is_outside_programs(op: LinearOperator, v0: Any, *numbers: Any) -> bool:
    """Return whether a solve can run in a loop on the host.

    It can outside of jit, vmap and the like, on one device, and without several given vectors.

    Args:
        op: the operator.
        v0: the start of the solve.
        *numbers: its other arguments.
    """
    # A new array is a tracer within a program, even where no argument is one. (Zeros would be moved to the device.)
    leaves = [*jax.tree.leaves((op, v0, numbers)), jax.lax.iota(jnp.int32, 1)]
    is_traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    # Between programs the state holds infinities.
    is_debugged = getattr(jax.config, _DEBUG_INFS)
    fits = not is_start_block(op, v0) and not spans_devices(op, op.structure, v0)
    return fits and not is_traced and not is_debugged


def solve_on_host(op: LinearOperator, plan: Plan, v0: Any, sigma: Any, key: jax.Array | None) -> EigenResult:
    """Compute the result of a restarted solve from a single start vector, or a random one."""
    spec, tol, sigma = plan.spec, jax.tree.map(on_device, plan.tol), on_device(sigma)
    shared = structural_operator(op.structure, rounding_unit(op))
    state, references, vectors, flags = _begin(shared, v0, key, plan._replace(tol=None))
    while True:
        pending, done = jax.device_get(flags)
        if done:
            break
        images = vectors if pending else _multiply(op, vectors)
        state, vectors, flags = _absorb(shared, state, images, spec=spec, tol=tol, sigma=sigma)
    return verified_on_host(functools.partial(_multiply, op), shared, state, references, spec, tol)


def verified_on_host(
    multiply: Callable[[PyTree], PyTree],
    op: LinearOperator,
    state: RestartedState,
    references: PyTree | None,
    spec: SolveSpec,
    tol: Any,
) -> EigenResult:
    """Return the result of a state: one matvec verifies the residuals, k more recompute them if that fails.

    Args:
        multiply: function that computes the (b, ...) matvecs of (b, ...) vectors.
        op: the operator, of which only the structure is used.
        state: the state of the solve; its basis is not narrow.
        references: vectors that the signs of the eigenvectors follow.
        spec: the static options of the solve.
        tol: relative tolerance on the residuals.
    """
    verification, progress, vectors = _begin_verification(op, state, references, spec=spec)
    while True:
        num_matvecs, needed = jax.device_get((progress.num_matvecs, progress.needed))
        if num_matvecs >= needed:
            return _conclude(op, state, verification, progress, spec=spec, tol=tol)
        progress, vectors = _absorb_image(verification, progress, multiply(vectors))


@functools.partial(jax.jit, static_argnames="plan")
def _begin(
    op: LinearOperator, v0: Any, key: jax.Array | None, plan: Plan
) -> tuple[RestartedState, PyTree | None, PyTree, jax.Array]:
    state, _, references = initialize_solve(op, plan, v0, seed_of(key))
    # Without weak types, the first call of `_absorb` and all others are one program.
    state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
    return state, references, *_next(state)


@jax.jit
def _multiply(op: LinearOperator, vectors: PyTree) -> PyTree:
    """Compute the matvecs of (b, ...) vectors."""
    if jax.tree.leaves(vectors)[0].shape[0] > 1:
        return jax.vmap(lambda v: matvec(op, v))(vectors)
    return jax.tree.map(lambda x: x[None], matvec(op, tree.row(vectors, 0)))


# The state is updated in place: two copies of it would be two bases.
@functools.partial(jax.jit, static_argnames="spec", donate_argnames="state")
def _absorb(
    op: LinearOperator, state: RestartedState, images: PyTree, *, spec: SolveSpec, tol: Any, sigma: Any
) -> tuple[RestartedState, PyTree, jax.Array]:
    state = restarted_lanczos.absorb(op, state, images, spec, tol=tol, sigma=sigma)
    return state, *_next(state)


def _next(state: RestartedState) -> tuple[PyTree, jax.Array]:
    """Return the vectors to multiply next, and whether they are pending and the solve is over, (2,) bool."""
    return restarted_lanczos.propose(state), jnp.stack([state.krylov.pending, state.done])


@functools.partial(jax.jit, static_argnames="spec")
def _begin_verification(
    op: LinearOperator, state: RestartedState, references: PyTree | None, *, spec: SolveSpec
) -> tuple[Verification, VerificationProgress, PyTree]:
    verification, progress = finalize.begin(op, state, spec, references)
    return verification, progress, _next_vector(verification, progress)


@jax.jit
def _absorb_image(
    verification: Verification, progress: VerificationProgress, images: PyTree
) -> tuple[VerificationProgress, PyTree]:
    progress = absorb_image(verification, progress, tree.row(images, 0))
    return progress, _next_vector(verification, progress)


def _next_vector(verification: Verification, progress: VerificationProgress) -> PyTree:
    return jax.tree.map(lambda x: x[None], vector_to_multiply(verification, progress))


@functools.partial(jax.jit, static_argnames="spec")
def _conclude(
    op: LinearOperator,
    state: RestartedState,
    verification: Verification,
    progress: VerificationProgress,
    *,
    spec: SolveSpec,
    tol: Any,
) -> EigenResult:
    return finalize.conclude(op, state, spec, verification, progress, tol=tol)
