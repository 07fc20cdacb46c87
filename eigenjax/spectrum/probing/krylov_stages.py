"""Lanczos from random vectors as stages of an estimate, one stage for each batch of probes.

A stage of b probes takes m passes, each with the next Lanczos vectors of all b. In memory, `quadrature.tridiagonals`
computes the same in one program.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.solvers.symmetric import lanczos
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing.deflation import ComplementOperator, DeflatedPairs
from eigenjax.spectrum.probing.quadrature import random_start, value_inside
from eigenjax.spectrum.probing.stages import Block, Estimator, Inputs, Part, Stage, StageState, mapped
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.tree import PyTree


class KrylovState(NamedTuple):
    """State of the Lanczos processes of one batch of probes."""

    inside: jax.Array | None  # () value inside the remaining spectrum; None without known pairs
    finished: LanczosState | None  # (q, ...) states of the probes of the batches before, without vectors
    current: LanczosState  # (b, ...) states of this batch


@dataclasses.dataclass(frozen=True)
class KrylovStage:
    """Lanczos steps from a batch of probes."""

    first: int  # index of the first probe
    count: int  # b, number of probes of this batch
    num_probes: int  # p, number of all probes
    krylov_dim: int  # m, number of steps

    def blocks(self, _probe_batch: int) -> list[Block]:
        """Return the m passes."""
        return [Block((self.count,), (0,))] * self.krylov_dim

    def enter(self, op: LinearOperator, inputs: Inputs, previous: Any) -> KrylovState:
        """Return the state before the first matvec."""
        keys = jax.random.split(inputs.key, self.num_probes)[self.first : self.first + self.count]

        def start(key: jax.Array) -> LanczosState:
            return lanczos.init(
                op, random_start(op, key, inputs.deflated), krylov_dim=self.krylov_dim, key=seed_of(key)
            )

        inside = finished = None
        if isinstance(previous, KrylovState):
            inside, finished = previous.inside, states_of(previous)
        elif isinstance(previous, StageState):
            inside = previous.outputs[0][0]
        return KrylovState(inside, finished, mapped(start, keys))

    def propose(self, _op: LinearOperator, _inputs: Inputs, state: KrylovState, _starts: Any, _lengths: Any) -> PyTree:
        """Return the next Lanczos vector of each probe."""
        return mapped(lanczos.next_vector, state.current)

    def multiply(
        self, products: Callable, op: LinearOperator, inputs: Inputs, state: KrylovState, vectors: PyTree
    ) -> PyTree:
        """Compute the images of the vectors under the deflated operator by a function of the host."""
        if inputs.deflated is None:
            return products(vectors)
        arguments = op, inputs.deflated, state.inside, vectors
        return _image_of(*arguments, products(_to_multiply(*arguments)))

    def absorb(
        self,
        _op: LinearOperator,
        _inputs: Inputs,
        state: KrylovState,
        vectors: PyTree,
        images: PyTree,
        _starts: Any,
        _lengths: Any,
    ) -> KrylovState:
        """Take one step of each Lanczos process."""
        step = lambda arguments: lanczos.absorb(*arguments)
        return state._replace(current=mapped(step, (state.current, vectors, images)))


def krylov_stages(num_probes: int, krylov_dim: int, probe_batch: int, *, deflated: bool) -> tuple[Any, ...]:
    """Return the stages that run m Lanczos steps from each of p probes, b probes at a time.

    Cost: p m matvecs in m passes for each batch; one more matvec, and pass, with known pairs.
    """
    batches = [
        KrylovStage(first, min(probe_batch, num_probes - first), num_probes, krylov_dim)
        for first in range(0, num_probes, probe_batch)
    ]
    return (*((_inside_stage(num_probes),) if deflated else ()), *batches)


@functools.lru_cache(maxsize=8)
def _inside_stage(num_probes: int) -> Stage:
    """Return the stage that finds a value inside the remaining spectrum."""
    keys = lambda _op, inputs, _carry: jax.random.fold_in(inputs.key, num_probes)[None]
    begin = lambda _op, inputs, _previous: inputs.deflated
    start = lambda op, deflated, key: random_start(op, key, deflated)
    return Stage(begin, (Part(1, keys, start, value_inside),))


def krylov_estimator(
    num_probes: int,
    krylov_dim: int,
    probe_batch: int,
    finalize: Callable[[LinearOperator, Inputs, LanczosState], Any],
    *,
    deflated: bool,
) -> Estimator:
    """Return the estimator whose result is a function of the Lanczos states of all probes."""
    stages = krylov_stages(num_probes, krylov_dim, probe_batch, deflated=deflated)
    return Estimator(stages, lambda op, inputs, state: finalize(op, inputs, states_of(state)))


def states_of(state: KrylovState) -> LanczosState:
    """Return the Lanczos states of all probes so far, without their vectors."""
    current = state.current._replace(basis=None, direction=None)
    if state.finished is None:
        return current
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), state.finished, current)


@jax.jit
def _to_multiply(op: LinearOperator, deflated: DeflatedPairs, inside: jax.Array, vectors: PyTree) -> PyTree:
    return mapped(ComplementOperator(op, deflated.vectors, inside).to_multiply, vectors)


@jax.jit
def _image_of(
    op: LinearOperator, deflated: DeflatedPairs, inside: jax.Array, vectors: PyTree, products: PyTree
) -> PyTree:
    image = lambda pair: ComplementOperator(op, deflated.vectors, inside).image_of(*pair)
    return mapped(image, (vectors, products))
