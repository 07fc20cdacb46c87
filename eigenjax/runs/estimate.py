"""Estimate of the resources of a solve from shapes alone: memory, traffic between devices, number of matvecs.

Nothing is run. With m basis vectors and blocks of b,

    bytes = operator + temporaries of a matvec + (m + b + max(k, m / 5) + 4) vectors
"""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eigenjax.arguments import brief, plain_int
from eigenjax.calls import explained, prefixed
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.runs import checks
from eigenjax.solvers.symmetric.plan import planned
from eigenjax.vectors import tree
from eigenjax.vectors.storage import Storage
from eigenjax.vectors.tree import PyTree

# Vectors of a restarted solve besides its basis.
_VECTORS_BESIDE, _SHARE_OF_BASIS = 4, 5
# Matvecs for each pair if the wanted end is well separated, as for a network's Hessian; other spectra take restarts.
_FEWEST_PER_PAIR = 2
# An all-reduce moves twice what it reduces: each device sends its data, and receives the sum.
_MOVED = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1, "collective-permute": 1}
# A TPU stores the last axis of an array in tiles of 128 numbers, the one before of 8: 64 take the memory of 128.
_TILE = {1: 128, 2: 8}
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_MOVED)})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")


class Estimate(NamedTuple):
    """Resources of a solve; bytes are per device.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> needed = estimate(jax.ShapeDtypeStruct((1000, 1000), jnp.float32), k=2)
        >>> needed.operator_bytes, needed.num_matvecs[0]
        (4000000, 4)
    """

    operator_bytes: int
    """Parameters and data."""
    matvec_bytes: int
    """Temporaries that the compiler allocates for a matvec, besides its argument and its result."""
    solver_bytes: int
    """The Krylov basis and the other vectors of the solver."""
    total_bytes: int
    """Sum of the three."""
    network_bytes: int
    """Moved from or to a device by one matvec, each loop counted once; the solver adds a few kB."""
    num_matvecs: tuple[int, int]
    """From 2 k, for a spectrum with a well-separated wanted end, to the largest number allowed."""


@explained
def estimate(
    op: Any,
    k: int,
    *,
    mesh: Mesh | None = None,
    krylov_dim: int | None = None,
    block_size: int = 1,
    max_matvecs: int | None = None,
    which: str = "LA",
    like: PyTree = None,
) -> Estimate:
    """Estimate the resources of `eigsh` or `run` from shapes: one matvec is compiled, and nothing is run.

    Args:
        op: whatever `as_operator` takes, or an operator of `jax.ShapeDtypeStruct`, as `jax.eval_shape` gives it:
            `jax.eval_shape(lambda p, d: hessian(loss, p, d), params, data)`; or the shape of a matrix.
        k: number of pairs.
        mesh: available devices. A leaf without a sharding is assumed to be split over all of them, along its longest
            axis of which each device gets whole tiles of a TPU (128 numbers of the last axis, 8 of the one before); if
            there is none, along the longest that they divide, or it is copied to each. None uses one device.
        krylov_dim: m, number of basis vectors; None is max(2 k + 10, 20), for "SM" max(4 k + 20, 60).
        block_size: b, vectors multiplied at once (by vmap).
        max_matvecs: most matvecs of the solve; None is the larger of 100 m and 10 min(n, 1000).
        which: "LA" largest, "SA" smallest, "LM" largest magnitude, "BE" from both ends in turn, "SM" smallest
            magnitude.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The figures. Memory and traffic of a matvec are those of the compiler, for these devices. A collective inside a
        loop over microbatches is counted once.

    Raises:
        ValueError: if k, krylov_dim, block_size or max_matvecs does not fit, or `which` is unknown.
        TypeError: if `op` is nothing that `as_operator` takes, or an option has the wrong type.

    Cost: one compilation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eigenjax import as_operator
        >>> op = jax.eval_shape(as_operator, jax.ShapeDtypeStruct((1000, 1000), jnp.float32))
        >>> needed = estimate(op, k=5)
        >>> print(needed.operator_bytes, needed.solver_bytes, needed.num_matvecs)
        4000000 120000 (10, 10000)
    """
    op = _operator(op, like)
    k, krylov_dim, block_size, max_matvecs = map(plain_int, (k, krylov_dim, block_size, max_matvecs))
    checks.check_solve("estimate", k, op.size, which, block_size, krylov_dim, max_matvecs)
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"estimate got mesh={brief(mesh)}: give a jax.sharding.Mesh, such as jax.make_mesh, or None")
    interior = which == "SM"
    options = {"which": which, "tol": None, "krylov_dim": krylov_dim, "max_matvecs": max_matvecs}
    plan = planned(op, k, **options, block_size=block_size, interior=interior, verify=False, storage=Storage())
    placed = jax.tree.map(lambda leaf: _placed(leaf, mesh), op)
    vector = _like(placed.structure, mesh, plan.block_size)
    compiled = jax.jit(_matvecs).lower(placed, vector).compile()
    per_vector = sum(map(_bytes, jax.tree.leaves(vector))) // plan.block_size
    m = plan.krylov_dim
    count = m + plan.block_size + max(k, -(-m // _SHARE_OF_BASIS)) + _VECTORS_BESIDE
    operator_bytes = sum(map(_bytes, jax.tree.leaves(placed)))
    memory = compiled.memory_analysis()
    matvec_bytes = 0 if memory is None else int(memory.temp_size_in_bytes)
    solver_bytes = count * per_vector
    return Estimate(
        operator_bytes=operator_bytes,
        matvec_bytes=matvec_bytes,
        solver_bytes=solver_bytes,
        total_bytes=operator_bytes + matvec_bytes + solver_bytes,
        network_bytes=moved_bytes(compiled.as_text() or "") // plan.block_size,
        num_matvecs=(min(_FEWEST_PER_PAIR * k, plan.spec.max_matvecs), plan.spec.max_matvecs),
    )


def _operator(op: Any, like: PyTree) -> LinearOperator:
    """Convert an argument to an operator of arrays or shapes; a matrix or the shape of one will do."""
    if isinstance(op, LinearOperator):
        return op
    if hasattr(op, "first_operator"):
        raise TypeError(f"{op.no_operator}; its batches alone: estimate(stream.first_operator(), k)")
    if like is None and callable(op) and not hasattr(op, "mv"):
        raise TypeError(
            f"estimate got {brief(op)}, which says nothing of its vectors: give an operator, such as "
            "as_operator(f, like=params)"
        )
    with prefixed("estimate"):
        return jax.eval_shape(as_operator, op) if isinstance(op, jax.ShapeDtypeStruct) else as_operator(op, like=like)


def moved_bytes(program: str) -> int:
    """Count the bytes that the collectives of a compiled program move, to or from one device.

    >>> moved_bytes("%x = (f32[2,8]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1")
    136
    """
    return sum(_MOVED[name] * _bytes_of_text(shapes) for shapes, name in _COLLECTIVE.findall(program))


def _bytes_of_text(shapes: str) -> int:
    total = 0
    for _, bits, lengths in _ARRAY.findall(shapes):
        total += math.prod(map(int, filter(None, lengths.split(",")))) * max(int(bits or 8) // 8, 1)
    return total


def _matvecs(op: LinearOperator, vectors: PyTree) -> PyTree:
    if jax.tree.leaves(vectors)[0].shape[0] == 1:
        return matvec(op, tree.row(vectors, 0))
    return jax.vmap(lambda v: matvec(op, v))(vectors)


def _placed(leaf: Any, mesh: Mesh | None) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if mesh is not None and not isinstance(sharding, NamedSharding):
        sharding = NamedSharding(mesh, partition(leaf.shape, mesh))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def partition(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Split one axis of an array over all axes of a mesh: the longest that leaves whole tiles, or the longest at all.

    >>> mesh = jax.make_mesh((jax.device_count(),), ("all",))
    >>> [axis is not None for axis in partition((48, 4096, 16384), mesh)]
    [False, False, True]
    """
    fitting = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
    if not fitting:
        return PartitionSpec()
    whole = [axis for axis in fitting if shape[axis] // mesh.size % _TILE.get(len(shape) - axis, 1) == 0]
    longest = max(whole or fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, mesh.axis_names)


def _like(structure: PyTree, mesh: Mesh | None, count: int) -> PyTree:
    """Return `count` vectors in working dtypes, each sharded like a single vector."""

    def rows(leaf):
        leaf_sharding = _placed(leaf, mesh).sharding
        sharding = (
            NamedSharding(leaf_sharding.mesh, PartitionSpec(None, *leaf_sharding.spec))
            if isinstance(leaf_sharding, NamedSharding)
            else None
        )
        return jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=sharding)

    return jax.tree.map(rows, tree.working_structure(structure))


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Return the bytes of the part of a leaf on one device."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * jnp.dtype(leaf.dtype).itemsize
