"""The spectra of all layers, by the programs that the whole was solved with.

`block_spectra` compiles a program for every shape of layer, which is what a person would wait for. Here

    B_l = P_l A P_l + c (I - P_l),    P_l the projection on layer l

is one operator for all layers, the whole (P = I) among them, with P_l in truth values that are data: all are solved by
one compiled program. The eigenvalues of B_l are those of the layer's block, and c. Those of the block are at least the
lowest of A (Cauchy), so that with c below that the largest of B_l are the layer's, however many one asks for, up to
the layer's size. The price: products with all of A, and vectors of its size.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.parts.blocks import layers
from eigenjax.operators.parts.selection import split
from eigenjax.report.analysis.solve import LANCZOS_CHUNK, Programs, advance_lanczos, begin_lanczos, look_at_lanczos
from eigenjax.report.inputs.progress import Update
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Products that all layers together may take: the pairs of the whole are the main thing.
MAX_PRODUCTS = 2000
# With fewer products than this a layer's first pairs have hardly begun to converge.
LEAST_PRODUCTS = 30
# How far c lies below the lowest eigenvalue, which is known approximately only.
_MARGIN = 1.25


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LayerOperator(LinearOperator):
    """P A P + c (I - P), with P in truth values for the leaves.

    Example:
        >>> from eigenjax.operators.convert import as_operator
        >>> op = as_operator(lambda v: {"a": v["a"] + v["b"], "b": v["a"]}, like={"a": jnp.ones(1), "b": jnp.ones(1)})
        >>> print(LayerOperator(op, {"a": jnp.bool_(True), "b": jnp.bool_(False)}, jnp.float32(-3.0))(
        ...     {"a": jnp.ones(1), "b": jnp.ones(1)}))
        {'a': Array([1.], dtype=float32), 'b': Array([-3.], dtype=float32)}
    """

    inner: LinearOperator
    kept: PyTree  # () bool for each leaf
    outside: jax.Array  # () c

    @property
    def structure(self) -> PyTree:
        """That of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """A product with all of A."""
        part = jax.tree.map(lambda keep, x: jnp.where(keep, x, jnp.zeros_like(x)), self.kept, vector)
        image = self.inner.mv(part)
        choose = lambda keep, inside, x: jnp.where(keep, inside, self.outside.astype(x.dtype) * x)
        return jax.tree.map(choose, self.kept, image, vector)


class LayerSpectra(NamedTuple):
    """What was found of the layers."""

    results: dict[str, EigenResult]  # by the layer's name; eigenvectors are left out
    sizes: dict[str, int]  # parameters
    left_out: list[str]  # layers for which there were no products left


def whole(op: LinearOperator) -> LayerOperator:
    """An operator as the one layer that holds everything."""
    return _part(op, [True] * len(jax.tree.leaves(op.structure)), 0.0)


def layers_of(op: LinearOperator) -> dict[str, tuple[bool, ...]]:
    """Which leaves belong to each layer: those with the same parent, or each by itself where all have the same one.

    >>> from eigenjax.operators.convert import as_operator
    >>> layers_of(as_operator(lambda v: v, like={"a": jnp.ones(1), "b": jnp.ones(2)}))
    {'a': (True, False), 'b': (False, True)}
    """
    named = layers(op.structure)
    return named if len(named) > 1 else layers(op.structure, lambda path: path)


def solve_layers(
    op: LinearOperator, programs: Programs, *, k: int, krylov_dim: int, largest: float, tol: float, update: Update
) -> LayerSpectra:
    """The k largest eigenvalues of each layer's block.

    Args:
        op: the whole.
        programs: that have solved `whole(op)` with the same krylov_dim need not be compiled again.
        k: pairs of each layer; as many as there are of one with fewer parameters.
        krylov_dim: products of a layer at most; fewer where there are many layers.
        largest: magnitude of an eigenvalue of the whole.
        tol: a pair is converged when its residual is at most tol times the largest |eigenvalue| of B_l.
        update: told of every layer.

    Returns:
        The results. Cost: at most `MAX_PRODUCTS` products; layers beyond are left out, the smallest first.
    """
    named = layers_of(op)
    sizes = {name: tree.size(split(op.structure, kept)[0]) for name, kept in named.items()}
    room = max(MAX_PRODUCTS // LEAST_PRODUCTS, 1)
    solved = set(sorted(named, key=lambda name: -sizes[name])[:room])
    most = max(min(krylov_dim, MAX_PRODUCTS // len(solved)), min(k, krylov_dim))
    results = {}
    for name, kept in named.items():
        if name in solved:
            layer = _part(op, kept, -_MARGIN * largest)
            result = _solve(layer, programs, k, krylov_dim, most, tol)
            results[name] = _first(result, min(k, sizes[name]))
            update(len(results), f"{len(results)} of {len(solved)}, {_products(results)} products")
    left_out = [name for name in named if name not in solved]
    return LayerSpectra(results, sizes, left_out)


def _products(results: dict[str, EigenResult]) -> int:
    return sum(int(result.num_matvecs) for result in results.values())


def _part(op: LinearOperator, kept: Any, outside: float) -> LayerOperator:
    structures, treedef = jax.tree.flatten(op.structure)
    dtype = tree.real_dtype(tree.accumulation_dtype(tree.working_structure(op.structure)))
    assert len(structures) == len(kept)
    return LayerOperator(op, treedef.unflatten([jnp.asarray(keep) for keep in kept]), jnp.asarray(outside, dtype))


def _solve(op: LayerOperator, programs: Programs, k: int, krylov_dim: int, most: int, tol: float) -> EigenResult:
    # Of this kind a key compiles in half the time; the start vectors of layers may be the same.
    state, done, looks = begin_lanczos(programs, op, jax.random.key(0, impl="rbg"), krylov_dim), 0, 0
    while True:
        chunk = min(LANCZOS_CHUNK, most - done)
        state, done = advance_lanczos(programs, op, state, chunk), done + chunk
        if done >= min(k, most):
            result = look_at_lanczos(programs, op, state, tol, k=k, which="LA")
            looks += int(result.num_matvecs) - done
            if done >= most or bool(result.converged.all()):
                return result._replace(num_matvecs=np.int32(done + looks))


def _first(result: EigenResult, count: int) -> EigenResult:
    # Beyond the layer's own size every further one is c.
    host = result._replace(eigenvectors=None)
    host = jax.tree.map(np.asarray, host)
    cut = {name: getattr(host, name)[:count] for name in ("eigenvalues", "residuals", "converged")}
    return host._replace(**cut)
