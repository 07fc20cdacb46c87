"""Operators over data larger than memory: one matvec, or a block of them, is one pass over batches on the host.

    A v = sum_j w_j A_j v / sum_j w_j,    A_j the operator of batch j, w_j its number of examples

Compiled programs make no callbacks to the host, so a stream is no `LinearOperator`. `run` drives it by reverse
communication: the solver proposes vectors, and the stream computes their matvecs. So do the estimators of a spectrum.

On a CPU a program gets its temporaries from the system, as pages that are cleared at first use. One program per batch
took 1.5 times the time of a loop over the batches in one program; with pages kept by the process, 1.02 times. On a CPU
a few batches therefore go into one program, which loops over them.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from eigenjax.calls import explained, prefixed
from eigenjax.operators.base import LinearOperator, check_vector, matvec
from eigenjax.operators.batching import checked_batch_size, num_examples
from eigenjax.operators.curvature.hessian import hessian
from eigenjax.operators.curvature.modules import parameters_of
from eigenjax.operators.functions.captured import NamedFunction
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.operators.parts.selection import Select
from eigenjax.runs import checks
from eigenjax.runs.source import Epoch, EpochWatch, batch_checksum, check_repeatable, first_batch, groups_alike
from eigenjax.spectrum.probing.host import HostOperator
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Hint for operator algebra, which a stream does not support.
_BUILT_IN = (
    "build it into the curvature, such as stream(lambda p, batch: 2.0 * hessian(loss, p, batch).shift(1.0), params, "
    "batches)"
)
# Groups of batches on the device: one in use, the next one in transfer or waiting.
_IN_FLIGHT = 2
# Batches in a group on a CPU, which leaves an eighth of the cost of fresh pages. They are copies, hence the limit in
# bytes. Elsewhere a group is one batch: memory is scarce, and the allocator keeps its pages.
_GROUP, _GROUP_BYTES = 8, 2**26


@dataclasses.dataclass(frozen=True)
class _HessianOf:
    """Map from params and batch to the Hessian of a loss; compared by its parts, so that programs are compiled once."""

    loss: Callable
    options: tuple[tuple[str, Any], ...]

    def __call__(self, params: PyTree, batch: PyTree) -> LinearOperator:
        return hessian(self.loss, params, batch, **dict(self.options))


class Stream(HostOperator):
    """Symmetric operator whose matvecs are epochs; created by `stream`, solved by `run`, and callable on the host."""

    # A stream is not a matrix: jax.numpy and the checks of operators reject it.
    __array_ufunc__ = None
    no_operator = (
        "a stream reads its data on the host for every matvec, and no compiled program can take it: its eigenpairs are "
        "found by eigenjax.run(stream, k), its trace, diagonal and density by eigenjax.trace and the like, and "
        "stream(v) is one matvec"
    )

    def __init__(
        self, curvature: Callable, params: PyTree, batches: Iterable, first: PyTree, weigh: Callable, sharding: Any
    ):
        self.curvature, self.params, self.arrays, self.batches = curvature, params, params, batches
        self._weigh, self._sharding = weigh, sharding
        self._first = batch_checksum(first)
        op = jax.eval_shape(curvature, params, _described(first))
        self.structure, self.unit = op.structure, rounding_unit(op)
        self.epoch: Epoch | None = None
        self.expected: list[float] | None = None

    @property
    def dtype(self) -> jnp.dtype:
        """Common dtype of the leaves, or the dtype that their scalars are accumulated in if they differ."""
        return tree.common_dtype(self.structure)

    def __call__(self, vector: PyTree) -> PyTree:
        """Compute A v in one pass over the data.

        Raises:
            TypeError: under jit and other transformations, or if a dtype differs.
            ValueError: if the structure or a shape differs; the message names the leaf.
            RunError: if the batches differ from those of an earlier pass.
        """
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(vector)):
            raise TypeError(
                "a stream reads its data on the host, and was called under jit (or handed to a solver that is "
                "compiled): solve it with eigenjax.run(stream, k), or call it outside"
            )
        check_vector(vector, self.structure, name="the vector given to the stream")
        working = tree.cast_like(vector, tree.working_structure(self.structure))
        images = self.products(jax.tree.map(lambda x: x[None], working))
        return tree.cast_like(tree.row(images, 0), self.structure)

    def __matmul__(self, vector: PyTree) -> PyTree:
        """Compute A v in one pass over the data."""
        return self(vector)

    def __repr__(self) -> str:
        return f"Stream of {self.size} numbers {self.dtype}, for eigenjax.run"

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(f"expected an array, and got a stream: {self.no_operator}")

    def __getattr__(self, name: str) -> Any:
        is_operators = name in ("shape", "T", "H", "shift", "mv")
        raise AttributeError(f"a stream has no {name}{f': {_BUILT_IN}' if is_operators else ''}")

    def _combined(self, _: Any = None) -> Any:
        raise TypeError(f"a stream cannot be added or multiplied: {_BUILT_IN}")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = _combined

    def products(self, vectors: PyTree) -> PyTree:
        """Compute the (b, ...) matvecs with b vectors in working dtypes, in one pass over the data."""
        check_vector(_one_of(vectors), tree.working_structure(self.structure), name="a row of vectors")
        total = jax.tree.map(jnp.zeros_like, vectors)
        watch = EpochWatch(self.epoch, self._first, self.expected)
        running: collections.deque[jax.Array] = collections.deque()
        most = _GROUP if _is_on_cpu(vectors) else 1
        for group in groups_alike(self._watched(watch), most, _GROUP_BYTES):
            if len(running) == _IN_FLIGHT:
                running.popleft().block_until_ready()
            batches, weights = zip(*((self._placed(batch), weight) for batch, weight in group), strict=True)
            with prefixed(f"stream: the matvec with batch {watch.place - 1} failed, or with one just before it"):
                total, done = _add_products(self.curvature, self.params, batches, weights, vectors, total)
            running.append(done)
        self.epoch = watch.end()
        return _divided(total, self.epoch.weight)

    def _watched(self, watch: EpochWatch) -> Iterator[tuple[PyTree, float]]:
        """Yield the batches with their weights, after a comparison of each one with an earlier pass."""
        for batch in self.batches:
            with prefixed(f"stream: batch {watch.place}"):
                weight = checks.checked_weight(self._weigh(batch))
            watch.add(batch, weight)
            yield batch, weight

    def first_operator(self) -> LinearOperator:
        """Return the operator of the first batch alone."""
        batch = first_batch(self.batches)
        EpochWatch(self.epoch, self._first, None).add(batch, 1.0)
        return self.curvature(self.params, self._placed(batch))

    def _placed(self, batch: PyTree) -> PyTree:
        batch = jax.tree.map(_array, batch)
        if self._sharding is None:
            return jax.device_put(batch)
        if jax.process_count() == 1:
            return jax.device_put(batch, self._sharding)
        place = functools.partial(jax.make_array_from_process_local_data, self._sharding)
        return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else place(x), batch)


@explained
def stream(
    loss: Callable[..., Any],
    params: PyTree,
    batches: Iterable[Any],
    *,
    batch_size: int | None = None,
    select: Select | None = None,
    mode: str = "auto",
    weight: Callable[[Any], float] | None = None,
    sharding: Any = None,
) -> Stream:
    """Create the operator of a Hessian, or any other curvature, over data that is read batch by batch in each matvec.

        A v = sum_j w_j A_j v / sum_j w_j

    Args:
        loss: `loss(params, batch) -> scalar`, the mean over the batch's examples, of which the Hessian is taken; or
            `curvature(params, batch) -> LinearOperator`, such as `lambda p, batch: hessian(loss, p, batch).shift(1.0)`.
        params: pytree of arrays; or a module of flax.nnx, for a `loss(module, batch)`: its nnx.Param vary.
        batches: iterable with the same batches in every pass: a list, a data loader that does not shuffle,
            `memory_mapped_batches`. A batch is a pytree of arrays, or of values that NumPy can convert. Only the last
            batch should differ in size: each size is compiled once.
        batch_size: for a loss: sum over microbatches of this many examples within a batch.
        select: for a loss: the parameters that vary, by `select(path, leaf) -> bool` or a pattern such as "*/kernel".
        mode: for a loss: "forward_over_reverse", "linearize", "reverse_over_reverse"; "auto" is the first that it has.
        weight: `weight(batch) -> float`, the weight w_j; None is its number of examples, their leading axis.
        sharding: a `jax.sharding.Sharding` for the arrays of a batch. In a program of many processes each one gives
            its own part of every batch.

    Returns:
        A `Stream`: `run(stream, k)` finds its eigenpairs, `stream(v)` is one matvec, on the host, `stream.products`
        several in one pass. It is equal to the operator of all data to rounding.

    Raises:
        TypeError: if batches can be iterated over only once, or the function gives neither a scalar nor an operator.
        ValueError: if there are no batches, or an option is invalid.

    Cost: a matvec is one pass over the data. At most two batches are on the device, on a CPU up to sixteen of up to
        8 MB; fewer if they are larger, two of more than 32 MB. This call reads the first batch.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = lambda w, batch: jnp.mean((batch @ w) ** 2)
        >>> op = stream(loss, jnp.ones(2), [jnp.eye(2), jnp.ones((1, 2))])
        >>> print(op(jnp.array([3.0, 0.0])))
        [4. 2.]
        >>> import jax
        >>> from eigenjax import trace
        >>> print(trace(op, key=jax.random.key(0), num_matvecs=2, probe_batch=2).estimate)
        2.6666667
    """
    checks.check_stream(loss, batches, weight, sharding)
    with prefixed("stream"):
        check_repeatable(batches)
        batch_size = checked_batch_size(batch_size)
    given = {"batch_size": batch_size, "select": select, "mode": None if mode == "auto" else mode}
    first = first_batch(batches)
    checks.check_params(params)
    params, loss = parameters_of(params, loss)
    checks.check_trees(params, first)
    params = jax.tree.map(jnp.asarray, params)
    with prefixed("stream: loss(params, batch) failed with the first batch"):
        named = NamedFunction(loss, params, _described(first))
    result = named.result
    weigh = num_examples if weight is None else weight
    options = {"batch_size": batch_size, "select": select, "mode": mode}
    if isinstance(result, LinearOperator):
        unused = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        if unused:
            raise ValueError(f"stream got {unused}: of a loss; build the operator of a batch with it instead")
        curvature = named
    elif getattr(result, "shape", None) == ():
        if weight is None and sharding is None and jnp.issubdtype(result.dtype, jnp.floating):
            checks.check_mean(loss, params, batches, first)
        curvature = _HessianOf(named, tuple(options.items()))
    else:
        gives = getattr(result, "shape", type(result).__name__)
        raise TypeError(f"stream: loss(params, batch) must give a scalar or a LinearOperator, and gives {gives}")
    with prefixed("stream"):
        return Stream(curvature, params, batches, first, weigh, sharding)


@functools.partial(jax.jit, static_argnames="curvature", donate_argnames="total")
def _add_products(
    curvature: Callable,
    params: PyTree,
    batches: tuple[PyTree, ...],
    weights: tuple[Any, ...],
    vectors: PyTree,
    total: PyTree,
) -> tuple[PyTree, jax.Array]:
    """Add the matvecs of a group of batches of equal shapes; the second result is ready when the group is done."""

    def add(total, batch_and_weight):
        batch, weight = batch_and_weight
        op = curvature(params, batch)
        if jax.tree.leaves(vectors)[0].shape[0] == 1:
            images = jax.tree.map(lambda x: x[None], matvec(op, tree.row(vectors, 0)))
        else:
            images = jax.vmap(lambda v: matvec(op, v))(vectors)
        return tree.add_scaled(total, weight, images), None

    if len(batches) == 1:
        total, _ = add(total, (batches[0], weights[0]))
    else:
        total, _ = jax.lax.scan(add, total, jax.tree.map(lambda *x: jnp.stack(x), *zip(batches, weights, strict=True)))
    return total, jnp.zeros((), bool)


@functools.partial(jax.jit, donate_argnums=0)
def _divided(total: PyTree, weight: Any) -> PyTree:
    return jax.tree.map(lambda x: x / jnp.asarray(weight).astype(tree.real_dtype(x.dtype)), total)


def _one_of(vectors: PyTree) -> PyTree:
    """Return the structure of one of the vectors that are stacked along a leading axis."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), vectors)


def _is_on_cpu(vectors: PyTree) -> bool:
    return all(device.platform == "cpu" for leaf in jax.tree.leaves(vectors) for device in leaf.devices())


def _described(batch: PyTree) -> PyTree:
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))
    return jax.tree.map(lambda x: describe(_array(x)), batch)


def _array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array | np.ndarray) else np.asarray(leaf)
