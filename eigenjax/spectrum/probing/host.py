"""Estimates with operators whose matvecs are computed by calls on the host, such as passes over data on disk.

The host drives the stages of an estimator: it proposes a block of vectors, multiplies it, and absorbs the images. Each
is a compiled program that depends on the structure of the vectors only. Between two passes the whole state is in
`HostEstimate.state`, so that it can be saved.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from eigenjax.operators.base import LinearOperator, structural_operator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.packed import packed, packed_operator, packing_used, unpacked
from eigenjax.spectrum.probing.stages import Block, Estimator, Inputs
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


class Plan(NamedTuple):
    """Estimate to compute, with its options checked."""

    name: str  # name of the public function
    estimator: Estimator
    inputs: Inputs
    options: dict[str, Any]  # all other options by name, as JSON can hold them; `probe_batch` is one of them
    function: Any = None  # f of tr f(A)


class HostOperator:
    """Square linear map whose matvecs are computed by calls on the host; no compiled program can take it.

    Subclasses define `structure`, `arrays` and `products`.
    """

    structure: PyTree  # structure of the vectors
    arrays: PyTree = None  # arrays whose devices the vectors are on

    @property
    def size(self) -> int:
        """Number of entries of a vector."""
        return tree.size(self.structure)

    def products(self, vectors: PyTree) -> PyTree:
        """Compute the (b, ...) matvecs with b vectors in working dtypes."""
        raise NotImplementedError

    def estimated(self, plan: Plan) -> Any:
        """Compute an estimate, one pass after another."""
        estimate = HostEstimate(self, plan)
        while not estimate.done:
            estimate.advance()
        return estimate.finish()


class HostEstimate:
    """Estimate in progress; `state` is all that a checkpoint needs.

    Args:
        operator: the operator.
        plan: the estimate.
        shardings: sharding of a vector on a mesh; None leaves it to the compiler.
    """

    def __init__(self, operator: HostOperator, plan: Plan, shardings: PyTree = None):
        # A new array is a tracer within a program, even where no argument is one.
        if any(isinstance(x, Tracer) for x in [*jax.tree.leaves(plan.inputs), jax.lax.iota(jnp.int32, 1)]):
            raise TypeError(
                f"{plan.name}: the operator is multiplied by a loop on the host, and cannot be traced (by jit, vmap, "
                f"grad, ...): call {plan.name} outside"
            )
        self._operator, self._inputs, self._shardings = operator, plan.inputs, shardings
        self._op = operator_on_host(operator, plan.inputs.deflated)
        self._stages, self._finalize = plan.estimator.stages, plan.estimator.finalize
        blocks = [
            (i, block) for i, stage in enumerate(self._stages) for block in stage.blocks(plan.options["probe_batch"])
        ]
        self._passes: list[tuple[int, Block]] = blocks
        self._stage, self.num_passes, self.num_matvecs = -1, 0, 0
        self.state: Any = None

    @property
    def total_passes(self) -> int:
        """Number of passes of the whole estimate."""
        return len(self._passes)

    @property
    def total_matvecs(self) -> int:
        """Number of matvecs of the whole estimate."""
        return sum(block.size for _, block in self._passes)

    @property
    def done(self) -> bool:
        """True once all matvecs have been computed."""
        return self.num_passes == self.total_passes

    def advance(self) -> None:
        """Compute the matvecs of one block, in one pass."""
        index, block = self._passes[self.num_passes]
        stage = self._stages[index]
        if index != self._stage:
            self.state, self._stage = self._compiled(_enter, index)(self._op, self._inputs, self.state), index
        # With several processes, jit places numbers on all devices itself.
        starts = jax.device_put(block.starts) if jax.process_count() == 1 else block.starts
        vectors = self._compiled(_propose, index, block)(self._op, self._inputs, self.state, starts)
        images = stage.multiply(self._products, self._op, self._inputs, self.state, vectors)
        arguments = self._op, self._inputs, self.state, vectors, images, starts
        self.state = self._compiled(_absorb, index, block)(*arguments)
        self.num_passes += 1
        self.num_matvecs += block.size

    def finish(self) -> Any:
        """Return the result after the last pass."""
        return self._finalize(self._op, self._inputs, self.state)

    def state_after(self, num_matvecs: int) -> Any:
        """Return the structure of the state after so many matvecs, with shardings; None if no pass ends there."""
        position = self._position(num_matvecs)
        if position is None:
            return None
        state = None
        for stage in self._stages[: self._passes[position - 1][0] + 1]:
            state = jax.eval_shape(stage.enter, self._op, self._inputs, state)
        alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = self._state_shardings(state) or jax.tree.map(lambda _: alone, state)
        describe = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        return jax.tree.map(describe, state, shardings)

    def resume(self, num_matvecs: int, state: Any) -> None:
        """Continue from a state after so many matvecs."""
        position = self._position(num_matvecs)
        if position is None:
            raise ValueError(f"no pass ends after {num_matvecs} matvecs")
        self.num_passes, self.num_matvecs, self.state = position, num_matvecs, state
        self._stage = self._passes[position - 1][0]

    def _position(self, num_matvecs: int) -> int | None:
        """Return the number of passes that so many matvecs take; None if no pass ends there."""
        total = 0
        for position, (_, block) in enumerate(self._passes, start=1):
            total += block.size
            if total == num_matvecs:
                return position
        return None

    def _products(self, vectors: PyTree) -> PyTree:
        packing = packing_used(self._op)
        images = self._operator.products(unpacked(vectors, packing))
        return images if packing is None else _packed(images, packing)

    def _compiled(self, program: Any, index: int, block: Block | None = None) -> Any:
        stage, lengths = self._stages[index], None if block is None else block.lengths
        if self._shardings is None or program is _propose:
            return _compiled_once(program, stage, lengths, None, None)
        is_first = program is _enter
        state = jax.eval_shape(stage.enter, self._op, self._inputs, self.state) if is_first else self.state
        leaves, treedef = jax.tree.flatten(self._state_shardings(state))
        return _compiled_once(program, stage, lengths, tuple(leaves), treedef)

    def _state_shardings(self, state: Any) -> Any:
        """Return the shardings of a state: vectors and rows of vectors like the vectors, the rest replicated."""
        if self._shardings is None:
            return None
        structure = tree.working_structure(self._op.structure)
        treedef, shapes = jax.tree.structure(structure), [x.shape for x in jax.tree.leaves(structure)]
        shardings = jax.tree.leaves(self._shardings)

        def sharding(part: Any) -> Any:
            leaves = jax.tree.leaves(part)
            if jax.tree.structure(part) == treedef and all(
                leaf.shape[leaf.ndim - len(shape) :] == shape for leaf, shape in zip(leaves, shapes, strict=True)
            ):
                of_rows = lambda leaf, shape, s: NamedSharding(
                    s.mesh, PartitionSpec(*[None] * (leaf.ndim - len(shape)), *s.spec)
                )
                return jax.tree.unflatten(treedef, list(map(of_rows, leaves, shapes, shardings)))
            return jax.tree.map(lambda _: NamedSharding(shardings[0].mesh, PartitionSpec()), part)

        return jax.tree.map(sharding, state, is_leaf=lambda x: jax.tree.structure(x) == treedef)


def operator_or_host(op: Any, like: PyTree, *others: PyTree) -> LinearOperator | HostOperator:
    """Return the operator on packed vectors; an operator whose matvecs are computed on the host is returned unchanged.

    Args:
        op: whatever `as_operator` takes, or a `HostOperator`.
        like: structure of the vectors of a bare callable.
        *others: vectors that the operator is used with.
    """
    return op if isinstance(op, HostOperator) else packed_operator(as_operator(op, like=like), *others)


def operator_on_host(operator: HostOperator, *others: PyTree) -> LinearOperator:
    """Return an operator of the structure alone, on packed vectors unless they are on several devices."""
    op = structural_operator(operator.structure)
    return packed_operator(op, operator.arrays, *others)


@functools.lru_cache(maxsize=128)
def _compiled_once(program: Any, stage: Any, lengths: tuple[int, ...] | None, leaves: Any, treedef: Any) -> Any:
    shardings = None if leaves is None else jax.tree.unflatten(treedef, leaves)
    fixed = {"stage": stage} if lengths is None else {"stage": stage, "lengths": lengths}
    # The state is updated in place: two copies of it would be two bases.
    donated = 2 if program is _absorb else None
    return jax.jit(functools.partial(program, **fixed), donate_argnums=donated, out_shardings=shardings)


def _enter(op: LinearOperator, inputs: Inputs, previous: Any, *, stage: Any) -> Any:
    return stage.enter(op, inputs, previous)


def _propose(op: LinearOperator, inputs: Inputs, state: Any, starts: Any, *, stage: Any, lengths: Any) -> PyTree:
    return stage.propose(op, inputs, state, starts, lengths)


def _absorb(
    op: LinearOperator,
    inputs: Inputs,
    state: Any,
    vectors: PyTree,
    images: PyTree,
    starts: Any,
    *,
    stage: Any,
    lengths: Any,
) -> Any:
    return stage.absorb(op, inputs, state, vectors, images, starts, lengths)


@functools.partial(jax.jit, static_argnums=1)
def _packed(images: PyTree, packing: Any) -> PyTree:
    return packed(images, packing)
