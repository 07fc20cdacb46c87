"""What a solve will need, from shapes alone: memory, traffic between devices, products. Nothing is run.

bytes = operator + a product's temporaries + (m + b + max(k, m / 5) + 4) vectors
"""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eigenjax.arguments import plain_int, shown
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.checks import prefixed
from eigenjax.operators.convert import as_operator
from eigenjax.runs import checks
from eigenjax.solvers.symmetric.plan import planned
from eigenjax.vectors import tree
from eigenjax.vectors.storage import Storage
from eigenjax.vectors.tree import PyTree

# Vectors that a restarted solve holds beside its basis, as `eigsh` documents them.
_VECTORS_BESIDE, _SHARE_OF_BASIS = 4, 5
# Products for each pair: of a spectrum whose top stands out, as that of a network's Hessian; restarts for the others.
_AT_LEAST = 2
# What an all-reduce moves is twice what it reduces: everything is sent out and comes back as a sum.
_MOVED = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1, "collective-permute": 1}
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_MOVED)})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")


class Estimate(NamedTuple):
    """What a solve will need; bytes are of one device."""

    operator_bytes: int
    """Parameters and data."""
    product_bytes: int
    """What the compiler sets aside for a product, beside its argument and its result."""
    solver_bytes: int
    """The Krylov basis and the other vectors of the solver."""
    total_bytes: int
    """All three."""
    network_bytes: int
    """Moved from or to a device by one product, once through each loop; the solver adds a few kB."""
    num_matvecs: tuple[int, int]
    """From a spectrum whose wanted end stands out (2 k) to the most that is allowed."""


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
    """What `eigsh` or `run` will need for an operator that need not exist yet: it is compiled for one product, not run.

    Args:
        op: whatever `as_operator` takes, or an operator of `jax.ShapeDtypeStruct`, as `jax.eval_shape` gives it:
            `jax.eval_shape(lambda p, d: hessian(loss, p, d), params, data)`; or the shape of a matrix.
        k: number of pairs.
        mesh: of devices at hand. Leaves without a sharding of their own are taken as split over all of them along
            the longest axis that they divide, those without one as copied to each. None leaves all on one device.
        krylov_dim: as of `eigsh`.
        block_size: as of `eigsh`.
        max_matvecs: as of `eigsh`.
        which: as of `eigsh`.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The figures. The memory of a product and what it moves are the compiler's own, for these devices; a collective
        inside a loop over microbatches is counted once.

    Raises:
        ValueError, TypeError: as `eigsh`.

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
        raise TypeError(f"estimate got mesh={shown(mesh)}: give a jax.sharding.Mesh, such as jax.make_mesh, or None")
    near = which == "SM"
    options = {"which": which, "tol": None, "krylov_dim": krylov_dim, "max_matvecs": max_matvecs}
    plan = planned(op, k, **options, block_size=block_size, near=near, verify=False, kept=Storage())
    placed = jax.tree.map(lambda leaf: _placed(leaf, mesh), op)
    vector = _like(placed.structure, mesh, plan.block_size)
    compiled = jax.jit(_products).lower(placed, vector).compile()
    per_vector = sum(map(_bytes, jax.tree.leaves(vector))) // plan.block_size
    m = plan.krylov_dim
    count = m + plan.block_size + max(k, -(-m // _SHARE_OF_BASIS)) + _VECTORS_BESIDE
    operator_bytes = sum(map(_bytes, jax.tree.leaves(placed)))
    memory = compiled.memory_analysis()
    product_bytes = 0 if memory is None else int(memory.temp_size_in_bytes)
    solver_bytes = count * per_vector
    return Estimate(
        operator_bytes=operator_bytes,
        product_bytes=product_bytes,
        solver_bytes=solver_bytes,
        total_bytes=operator_bytes + product_bytes + solver_bytes,
        network_bytes=moved_bytes(compiled.as_text() or "") // plan.block_size,
        num_matvecs=(min(_AT_LEAST * k, plan.goal.max_matvecs), plan.goal.max_matvecs),
    )


def _operator(op: Any, like: PyTree) -> LinearOperator:
    """An operator of arrays or of shapes, from a matrix or the shape of one too."""
    if isinstance(op, LinearOperator):
        return op
    if hasattr(op, "first_operator"):
        raise TypeError(f"{op.no_operator}; its batches alone: estimate(stream.first_operator(), k)")
    if like is None and callable(op) and not hasattr(op, "mv"):
        raise TypeError(
            f"estimate got {shown(op)}, which says nothing of its vectors: give an operator, such as "
            "as_operator(f, like=params)"
        )
    with prefixed("estimate"):
        return jax.eval_shape(as_operator, op) if isinstance(op, jax.ShapeDtypeStruct) else as_operator(op, like=like)


def moved_bytes(program: str) -> int:
    """What the collectives of a compiled program move, to or from one device.

    >>> moved_bytes("%x = (f32[2,8]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1")
    136
    """
    return sum(_MOVED[name] * _bytes_of_text(shapes) for shapes, name in _COLLECTIVE.findall(program))


def _bytes_of_text(shapes: str) -> int:
    total = 0
    for _, bits, lengths in _ARRAY.findall(shapes):
        total += math.prod(map(int, filter(None, lengths.split(",")))) * max(int(bits or 8) // 8, 1)
    return total


def _products(op: LinearOperator, vectors: PyTree) -> PyTree:
    if jax.tree.leaves(vectors)[0].shape[0] == 1:
        return matvec(op, tree.row(vectors, 0))
    return jax.vmap(lambda v: matvec(op, v))(vectors)


def _placed(leaf: Any, mesh: Mesh | None) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if mesh is not None and not isinstance(sharding, NamedSharding):
        sharding = NamedSharding(mesh, _split(leaf.shape, mesh))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _split(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """All axes of the mesh along the longest axis that they divide."""
    fitting = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
    if not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, mesh.axis_names)


def _like(structure: PyTree, mesh: Mesh | None, count: int) -> PyTree:
    """So many vectors in working dtypes, each sharded as it would be by itself."""

    def rows(leaf):
        own = _placed(leaf, mesh).sharding
        sharding = NamedSharding(own.mesh, PartitionSpec(None, *own.spec)) if isinstance(own, NamedSharding) else None
        return jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=sharding)

    return jax.tree.map(rows, tree.working_structure(structure))


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Of the part of a leaf that one device holds."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * jnp.dtype(leaf.dtype).itemsize
