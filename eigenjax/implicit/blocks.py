"""Spectra of all layers of a network at once, with one program for all layers of equal shapes.

Compiling a solver takes seconds, which dominates if each layer of a deep network has its own program. Layers whose
leaves have the same shapes are one operator with an index instead,

    A_l v = P_l^T A P_l v,    l = 0 .. L - 1,

in which P_l puts v into the leaves of layer l and zeros into all others. The index is an array, and the solver is
mapped over it. (For six equal layers of a network's Hessian the program is 1.3 times as long as that of one layer; six
programs are 5.2 times as long.) The cost: a matvec of a layer is one with all of A. A block of its own skips the
derivatives in layers further from the loss, and takes 0.2 (the last of the six) to 0.55 (the first) of the operations.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import plain_int
from eigenjax.calls import explained
from eigenjax.implicit import eigsh
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.parts.blocks import By, layers
from eigenjax.operators.parts.restriction import block, zeros
from eigenjax.operators.parts.selection import split
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IndexedBlock(LinearOperator):
    """Diagonal block of one of several layers of equal shapes, acting on a list of leaves."""

    inner: LinearOperator  # A
    index: jax.Array  # () index of the layer
    places: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})  # leaf indices of each layer

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors: the leaves of the first layer, whose shapes all layers share."""
        leaves = jax.tree.leaves(self.inner.structure)
        return [leaves[place] for place in self.places[0]]

    def mv(self, vector: PyTree) -> PyTree:
        """Compute a matvec of the block by one with all of A."""
        structures, treedef = jax.tree.flatten(self.inner.structure)
        leaves = [zeros(leaf) for leaf in structures]
        for layer, places in enumerate(self.places):
            for place, part in zip(places, vector, strict=True):
                leaves[place] = jnp.where(self.index == layer, part, leaves[place])
        image = jax.tree.leaves(self.inner.mv(treedef.unflatten(leaves)))
        select_own = lambda alike: jax.lax.select_n(self.index, *(image[place] for place in alike))
        return [select_own(alike) for alike in zip(*self.places, strict=True)]


@explained
def block_spectra(
    op: Any,
    k: int = 6,
    *,
    by: By = None,
    simultaneous: int | None = None,
    v0: dict[str, EigenResult] | None = None,
    like: PyTree = None,
    **options: Any,
) -> dict[str, EigenResult]:
    """Compute k eigenpairs of each layer's diagonal block with `eigsh`, all in one call.

        A_l v = lambda v    for the diagonal blocks A_l of `blocks(op, by)`

    Layers whose leaves have the same shapes are solved by one compiled program, mapped over them; each of the others
    has its own.

    Args:
        op: A, symmetric, anything that `as_operator` takes.
        k: number of pairs of each layer, at most its number of parameters; static.
        by: rule that groups the leaves into layers: the same argument as that of `blocks`.
        simultaneous: number of layers of equal shapes solved at once; static. None solves all of them, in the memory of
            as many matvecs with all of A, until the slowest has converged. 1 solves one after another, in the memory of
            one: set it if memory is short.
        v0: a previous result of this function, as a warm start.
        **options: options of `eigsh`, the same for all layers: `which`, `tol`, `krylov_dim`, `verify`, ...
        like: structure of the vectors of a bare callable: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The result of each layer by its name; eigenvectors have None in place of the other layers. It is differentiable
        in op, like a result of `eigsh`.

    Raises:
        ValueError: if simultaneous is less than one, v0 lacks a layer, or `blocks` or `eigsh` raises it.
        TypeError: if `blocks` or `eigsh` raises it.

    Cost: that of `eigsh` for each layer; for layers of equal shapes a matvec is one with all of A.

    Example:
        >>> import eigenjax
        >>> params = {"first": {"w": jnp.ones(3)}, "second": {"w": 2 * jnp.ones(3)}}
        >>> op = eigenjax.hessian(lambda p: sum(jnp.sum(x ** 3) for x in jax.tree.leaves(p)), params)
        >>> print(*(f"{name}: {result.eigenvalues[0]:.2f}" for name, result in block_spectra(op, k=1).items()))
        first: 6.00 second: 12.00
    """
    simultaneous, k = plain_int(simultaneous), plain_int(k)
    if simultaneous is not None and (not isinstance(simultaneous, int) or simultaneous < 1):
        raise ValueError(f"simultaneous={simultaneous!r}: give a positive int, or None for all layers at once")
    op = as_operator(op, like=like)
    named = layers(op.structure, by)
    if v0 is not None and not named.keys() <= v0.keys():
        raise ValueError(f"v0 has no result of the layers {sorted(named.keys() - v0.keys())}")
    found: dict[str, EigenResult] = {}
    for alike in _alike(op.structure, named).values():
        starts = None if v0 is None else [v0[name] for name in alike]
        masks = [named[name] for name in alike]
        count = min(k, tree.size(split(op.structure, masks[0])[0]))
        found |= dict(zip(alike, _solve(op, masks, starts, count, simultaneous, options), strict=True))
    return {name: found[name] for name in named}


def _alike(structure: PyTree, named: dict[str, tuple[bool, ...]]) -> dict[Any, list[str]]:
    """Group the names of the layers by shape, dtype and sharding of their leaves."""
    groups: dict[Any, list[str]] = {}
    for name, mask in named.items():
        leaves = jax.tree.leaves(split(structure, mask)[0])
        groups.setdefault(tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves), []).append(name)
    return groups


def _solve(
    op: LinearOperator,
    masks: Sequence[tuple[bool, ...]],
    starts: list[EigenResult] | None,
    k: int,
    simultaneous: int | None,
    options: dict[str, Any],
) -> list[EigenResult]:
    """Compute the results of layers of equal shapes."""
    if len(masks) == 1:
        return [eigsh(block(op, masks[0]), k, v0=None if starts is None else starts[0], **options)]
    places = tuple(tuple(place for place, keep in enumerate(mask) if keep) for mask in masks)
    rows = None if starts is None else [jax.tree.leaves(start.eigenvectors) for start in starts]
    stacked = None if rows is None else [jnp.stack(leaves) for leaves in zip(*rows, strict=True)]
    arrays = {name: options[name] for name in _ARRAYS if name in options}
    static = tuple(sorted((name, value) for name, value in options.items() if name not in _ARRAYS))
    together = _lanes(op, stacked, arrays, places=places, k=k, simultaneous=simultaneous, static=static)
    results = [jax.tree.map(lambda x, lane=lane: x[lane], together) for lane in range(len(masks))]
    treedefs = [jax.tree.structure(split(op.structure, mask)[0]) for mask in masks]
    return [
        result._replace(eigenvectors=treedef.unflatten(result.eigenvectors))
        for result, treedef in zip(results, treedefs, strict=True)
    ]


# Options of `eigsh` that are arrays; all others are static.
_ARRAYS = ("tol", "sigma", "key", "adjoint_tol")


@functools.partial(jax.jit, static_argnames=("places", "k", "simultaneous", "static"))
def _lanes(
    op: LinearOperator,
    starts: list[jax.Array] | None,
    arrays: dict[str, Any],
    *,
    places: tuple[tuple[int, ...], ...],
    k: int,
    simultaneous: int | None,
    static: tuple[tuple[str, Any], ...],
) -> EigenResult:
    """Solve all layers of equal shapes in one program, compiled once; a map outside of jit would compile anew."""
    one = lambda lane: eigsh(IndexedBlock(op, lane[0], places), k, v0=lane[1], **arrays, **dict(static))
    lanes = (jnp.arange(len(places), dtype=jnp.int32), starts)
    return jax.vmap(one)(lanes) if simultaneous is None else jax.lax.map(one, lanes, batch_size=simultaneous)
