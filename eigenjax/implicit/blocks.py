"""The spectra of all layers at once, with one program for the layers that are alike.

Compiling a solver takes seconds, so that one program for each layer of a deep network is what one would wait for.
Layers whose leaves have the same shapes are one operator of an index instead,

    A_l v = P_l^T A P_l v,    l = 0 .. L - 1,

in which P_l puts v into the leaves of layer l and zeros into all others; the index is an array, and the solver is
mapped over it. (Six layers alike of a network's Hessian: a program 1.3 times as long as that of one layer, where six
programs make 5.2.) The price: a product of a layer is one with all of A, where one with a block of its own skips the
derivatives in layers further from the loss: 0.2 (the last of the six) to 0.55 (the first) of the operations.
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
    """The block of one of several layers that are alike, on a list of leaves."""

    inner: LinearOperator
    index: jax.Array  # () which of the layers
    places: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})  # of the leaves of each

    @property
    def structure(self) -> PyTree:
        """The leaves of the first layer; those of the others are shaped like them."""
        leaves = jax.tree.leaves(self.inner.structure)
        return [leaves[place] for place in self.places[0]]

    def mv(self, vector: PyTree) -> PyTree:
        """A product with all of A."""
        structures, treedef = jax.tree.flatten(self.inner.structure)
        leaves = [zeros(leaf) for leaf in structures]
        for layer, places in enumerate(self.places):
            for place, part in zip(places, vector, strict=True):
                leaves[place] = jnp.where(self.index == layer, part, leaves[place])
        image = jax.tree.leaves(self.inner.mv(treedef.unflatten(leaves)))
        mine = lambda alike: jax.lax.select_n(self.index, *(image[place] for place in alike))
        return [mine(alike) for alike in zip(*self.places, strict=True)]


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
    """K eigenpairs of each layer's block, by `eigsh`, all in one call.

        A_l v = lambda v    for the diagonal blocks A_l of `blocks(op, by)`

    Layers whose leaves have the same shapes are solved by one compiled program, mapped over them; each of the others
    has its own.

    Args:
        op: A, symmetric, whatever `as_operator` takes.
        k: pairs of each layer, static; as many as there are of a layer with fewer parameters.
        by: what makes a layer, as of `blocks`.
        simultaneous: how many layers that are alike are solved at once, static. None: all of them, which takes the
            memory of as many products with all of A, and until the slowest is done. 1: one after another, in the
            memory of one, for whoever has no room.
        v0: what this function returned before, to start from.
        **options: of `eigsh`, the same for all layers: `which`, `tol`, `krylov_dim`, `verify`, ...
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The result of each layer by its name; eigenvectors have None in place of the other layers. Differentiable in
        op, as `eigsh` is.

    Raises:
        ValueError: if simultaneous is less than one, v0 lacks a layer, or as `blocks` and `eigsh` say.
        TypeError: as `blocks` and `eigsh` say.

    Cost: of each layer that of `eigsh`; a product is one with all of A where layers are alike.

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
    """The names of the layers whose leaves agree in shape, dtype and sharding."""
    groups: dict[Any, list[str]] = {}
    for name, kept in named.items():
        leaves = jax.tree.leaves(split(structure, kept)[0])
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
    """The results of layers that are alike."""
    if len(masks) == 1:
        return [eigsh(block(op, masks[0]), k, v0=None if starts is None else starts[0], **options)]
    places = tuple(tuple(place for place, keep in enumerate(kept) if keep) for kept in masks)
    rows = None if starts is None else [jax.tree.leaves(start.eigenvectors) for start in starts]
    stacked = None if rows is None else [jnp.stack(leaves) for leaves in zip(*rows, strict=True)]
    arrays = {name: options[name] for name in _ARRAYS if name in options}
    static = tuple(sorted((name, value) for name, value in options.items() if name not in _ARRAYS))
    together = _lanes(op, stacked, arrays, places=places, k=k, simultaneous=simultaneous, static=static)
    results = [jax.tree.map(lambda x, lane=lane: x[lane], together) for lane in range(len(masks))]
    treedefs = [jax.tree.structure(split(op.structure, kept)[0]) for kept in masks]
    return [
        result._replace(eigenvectors=treedef.unflatten(result.eigenvectors))
        for result, treedef in zip(results, treedefs, strict=True)
    ]


# Options of `eigsh` that are arrays; the others are static.
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
    """One program for all layers that are alike, compiled once: a mapping outside jit would be, at every call."""
    one = lambda lane: eigsh(IndexedBlock(op, lane[0], places), k, v0=lane[1], **arrays, **dict(static))
    lanes = (jnp.arange(len(places), dtype=jnp.int32), starts)
    return jax.vmap(one)(lanes) if simultaneous is None else jax.lax.map(one, lanes, batch_size=simultaneous)
