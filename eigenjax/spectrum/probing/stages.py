"""Estimators as stages of matvecs, for operators in memory and for those whose matvecs are passes over data.

    carry = begin(previous),    v_i = vector(carry, row_i),    y_i = output(v_i, A v_i)

The vectors of a stage do not depend on its matvecs. In memory a stage is a loop in one program (`compute`). On the host
(`passes`) each pass multiplies one block of its vectors.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.spectrum.probing.deflation import DeflatedPairs
from eigenjax.spectrum.probing.probes import each, unit_vector
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# (v, A v) -> () a quadratic form: <v, A v> for the trace, <A v, A v> for the Frobenius norm.
Form = Callable[[PyTree, PyTree], jax.Array]
# Number of estimators and stages that are remembered, so that a second call compiles nothing.
CACHED = 64


class Inputs(NamedTuple):
    """Arrays that an estimate begins with."""

    key: jax.Array  # typed key of the probes
    deflated: DeflatedPairs | None = None  # known pairs


class Part(NamedTuple):
    """Vectors of a stage, one for each row, and the numbers or vectors to store of their matvecs."""

    num_rows: int
    rows: Callable[[LinearOperator, Inputs, Any], PyTree]  # (op, inputs, carry) -> (num_rows, ...) rows
    vector: Callable[[LinearOperator, Any, Any], PyTree]  # (op, carry, row) -> v
    output: Callable[[PyTree, PyTree], PyTree]  # (v, A v) -> output


class Block(NamedTuple):
    """Vectors of one pass."""

    lengths: tuple[int, ...]  # number of vectors of each part
    starts: tuple[int, ...]  # index of the first vector of each part

    @property
    def size(self) -> int:
        """Number of vectors."""
        return sum(self.lengths)


class StageState(NamedTuple):
    """State of a stage."""

    carry: Any  # result of `begin`
    outputs: tuple[PyTree, ...]  # (num_rows, ...) outputs of each part, zero for vectors that are not multiplied yet


# Compared by identity, because functions have no other comparison.
@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Matvecs with vectors that are independent of each other."""

    begin: Callable[[LinearOperator, Inputs, Any], Any]  # (op, inputs, previous state or None) -> carry
    parts: tuple[Part, ...]

    def compute(self, op: LinearOperator, inputs: Inputs, previous: Any, probe_batch: int) -> StageState:
        """Compute the state after all matvecs, with an operator in memory."""
        carry = self.begin(op, inputs, previous)

        def output(part: Part, row: Any) -> PyTree:
            vector = part.vector(op, carry, row)
            return part.output(vector, matvec(op, vector))

        loops = (
            each(functools.partial(output, part), part.rows(op, inputs, carry), probe_batch) for part in self.parts
        )
        return StageState(carry, tuple(loops))

    def blocks(self, probe_batch: int) -> list[Block]:
        """Divide the vectors of all parts into blocks of `probe_batch`, the last of which may be smaller.

        >>> count = lambda n: Part(n, None, None, None)
        >>> [block.lengths for block in Stage(None, (count(3), count(2))).blocks(2)]
        [(2, 0), (1, 1), (0, 1)]
        """
        firsts, total = [], 0
        for part in self.parts:
            firsts.append(total)
            total += part.num_rows
        found = []
        for start in range(0, total, probe_batch):
            clipped = lambda x, i: min(max(x - firsts[i], 0), self.parts[i].num_rows)
            starts = [clipped(start, i) for i in range(len(self.parts))]
            ends = [clipped(start + probe_batch, i) for i in range(len(self.parts))]
            found.append(Block(tuple(end - s for s, end in zip(starts, ends, strict=True)), tuple(starts)))
        return found

    def enter(self, op: LinearOperator, inputs: Inputs, previous: Any) -> StageState:
        """Return the state before the first matvec."""
        carry = self.begin(op, inputs, previous)

        def outputs(part: Part) -> PyTree:
            vectors = jax.vmap(lambda row: part.vector(op, carry, row))(part.rows(op, inputs, carry))
            return jax.vmap(part.output)(vectors, vectors)

        return StageState(carry, tuple(tree.zeros(jax.eval_shape(lambda p=part: outputs(p))) for part in self.parts))

    def propose(
        self, op: LinearOperator, inputs: Inputs, state: StageState, starts: Any, lengths: tuple[int, ...]
    ) -> PyTree:
        """Return the (b, ...) vectors of a block."""
        pieces = []
        for part, start, length in zip(self.parts, starts, lengths, strict=True):
            if length:
                cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=length)
                rows = jax.tree.map(cut, part.rows(op, inputs, state.carry))
                pieces.append(mapped(functools.partial(part.vector, op, state.carry), rows))
        return pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *pieces)

    def multiply(
        self, products: Callable, _op: LinearOperator, _inputs: Inputs, _state: Any, vectors: PyTree
    ) -> PyTree:
        """Compute the matvecs of a block by a function of the host."""
        return products(vectors)

    def absorb(
        self,
        _op: LinearOperator,
        _inputs: Inputs,
        state: StageState,
        vectors: PyTree,
        images: PyTree,
        starts: Any,
        lengths: tuple[int, ...],
    ) -> StageState:
        """Store the outputs of a block."""
        outputs, first = list(state.outputs), 0
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            if length:
                piece = jax.tree.map(lambda x: x[first : first + length], (vectors, images))  # noqa: B023, called at once
                output = mapped(lambda pair, part=self.parts[i]: part.output(*pair), piece)
                outputs[i] = tree.set_rows(outputs[i], start, output)
                first += length
        return StageState(state.carry, tuple(outputs))


@dataclasses.dataclass(frozen=True, eq=False)
class Estimator:
    """Stages, and the result of the last of them."""

    stages: tuple[Any, ...]  # `Stage`, or another class with its methods for the host
    finalize: Callable[[LinearOperator, Inputs, Any], Any]  # (op, inputs, last state) -> result

    def compute(self, op: LinearOperator, inputs: Inputs, probe_batch: int) -> Any:
        """Compute the estimate of an operator in memory."""
        state = None
        for stage in self.stages:
            state = stage.compute(op, inputs, state, probe_batch)
        return self.finalize(op, inputs, state)


def whole_image(_vector: PyTree, image: PyTree) -> PyTree:
    """Return A v, as the output of a part."""
    return image


@functools.lru_cache(maxsize=CACHED)
def jitted(estimator: Estimator) -> Estimator:
    """Return the estimator with a compiled `finalize`, for calls outside of any program."""
    return Estimator(estimator.stages, jax.jit(estimator.finalize))


def mapped(function: Callable[[Any], Any], rows: Any) -> Any:
    """Apply a function to all rows at once; to a single row without vmap."""
    if jax.tree.leaves(rows)[0].shape[0] > 1:
        return jax.vmap(function)(rows)
    return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], rows)))


@functools.lru_cache(maxsize=CACHED)
def unit_stage(size: int, output: Callable[[PyTree, PyTree], PyTree]) -> Stage:
    """Return the stage of all n unit vectors."""
    rows = lambda _op, _inputs, _carry: jnp.arange(size, dtype=jnp.int32)
    vector = lambda op, _carry, index: unit_vector(tree.working_structure(op.structure), index)
    return Stage(lambda _op, _inputs, _previous: None, (Part(size, rows, vector, output),))
