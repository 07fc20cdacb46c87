"""Largest eigenvalues of the diagonal blocks of all layers, with one compiled program for all of them.

`block_spectra` compiles a program for every shape of layer, and compilation dominates its time. Here

    B_l = P_l A P_l + c (I - P_l),    P_l the projection on layer l

has the same structure for all layers and for A itself (P = I). P_l is given by boolean arrays, which are data: one
compiled program solves for all layers. The eigenvalues of B_l are those of the layer's block, and c. By Cauchy
interlacing the block's eigenvalues are at least the lowest of A. With c below it, the largest eigenvalues of B_l are
those of the block, up to the size of the layer. The cost: each matvec is one with all of A, and vectors have its size.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.parts.blocks import layers
from eigenjax.operators.parts.selection import split
from eigenjax.report.analysis.solve import LANCZOS_CHUNK, Programs, advance_lanczos, begin_lanczos, check_lanczos
from eigenjax.report.inputs.progress import Update
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Largest number of matvecs for all layers together.
MAX_MATVECS = 2000
# Fewest matvecs for one layer: with fewer, its first pairs do not converge.
LEAST_MATVECS = 30
# c is -_MARGIN times the largest magnitude found, because the lowest eigenvalue is known only approximately.
_MARGIN = 1.25


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LayerOperator(LinearOperator):
    """Operator P A P + c (I - P), with the projection P given by one boolean for each leaf.

    Example:
        >>> from eigenjax.operators.convert import as_operator
        >>> op = as_operator(lambda v: {"a": v["a"] + v["b"], "b": v["a"]}, like={"a": jnp.ones(1), "b": jnp.ones(1)})
        >>> print(LayerOperator(op, {"a": jnp.bool_(True), "b": jnp.bool_(False)}, jnp.float32(-3.0))(
        ...     {"a": jnp.ones(1), "b": jnp.ones(1)}))
        {'a': Array([1.], dtype=float32), 'b': Array([-3.], dtype=float32)}
    """

    inner: LinearOperator  # A
    mask: PyTree  # () bool for each leaf: True if P keeps it
    outside: jax.Array  # () eigenvalue c on the other leaves

    @property
    def structure(self) -> PyTree:
        """Shapes and dtypes of the vectors, the same as those of A."""
        return self.inner.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute P A P v + c (I - P) v with one matvec of A."""
        part = jax.tree.map(lambda keep, x: jnp.where(keep, x, jnp.zeros_like(x)), self.mask, vector)
        image = self.inner.mv(part)
        choose = lambda keep, inside, x: jnp.where(keep, inside, self.outside.astype(x.dtype) * x)
        return jax.tree.map(choose, self.mask, image, vector)


class LayerSpectra(NamedTuple):
    """Largest eigenvalues of the layers' blocks."""

    results: dict[str, EigenResult]  # by the layer's name; eigenvectors are None
    sizes: dict[str, int]  # number of parameters, by the layer's name
    left_out: list[str]  # names of the layers that exceed the limit on matvecs


def whole(op: LinearOperator) -> LayerOperator:
    """Wrap an operator as a single layer that contains all leaves."""
    return _part(op, [True] * len(jax.tree.leaves(op.structure)), 0.0)


def layers_of(op: LinearOperator) -> dict[str, tuple[bool, ...]]:
    """Map each layer to the leaves that belong to it.

    Leaves with the same parent form a layer. If all leaves have the same parent, each is a layer by itself.

    >>> from eigenjax.operators.convert import as_operator
    >>> layers_of(as_operator(lambda v: v, like={"a": jnp.ones(1), "b": jnp.ones(2)}))
    {'a': (True, False), 'b': (False, True)}
    """
    named = layers(op.structure)
    return named if len(named) > 1 else layers(op.structure, lambda path: path)


def solve_layers(
    op: LinearOperator, programs: Programs, *, k: int, krylov_dim: int, largest: float, tol: float, update: Update
) -> LayerSpectra:
    """Compute the k largest eigenvalues of each layer's diagonal block.

    Args:
        op: the operator of all parameters.
        programs: compiled programs; those that solved `whole(op)` with the same krylov_dim are reused.
        k: number of pairs of each layer; all pairs of a layer with fewer parameters.
        krylov_dim: largest number of matvecs for one layer; fewer if there are many layers.
        largest: largest magnitude of an eigenvalue of `op`.
        tol: a pair is converged when its residual is at most tol times the largest |eigenvalue| of B_l.
        update: called as `update(completed, note)` after each layer.

    Returns:
        The results. Cost: at most about `MAX_MATVECS` matvecs. The smallest layers are left out if that is not
        enough for all.
    """
    named = layers_of(op)
    sizes = {name: tree.size(split(op.structure, mask)[0]) for name, mask in named.items()}
    room = max(MAX_MATVECS // LEAST_MATVECS, 1)
    solved = set(sorted(named, key=lambda name: -sizes[name])[:room])
    most = max(min(krylov_dim, MAX_MATVECS // len(solved)), min(k, krylov_dim))
    results = {}
    for name, mask in named.items():
        if name in solved:
            layer = _part(op, mask, -_MARGIN * largest)
            result = _solve(layer, programs, k, krylov_dim, most, tol)
            results[name] = _first(result, min(k, sizes[name]))
            update(len(results), f"{len(results)} of {len(solved)}, {_num_matvecs(results)} matvecs")
    left_out = [name for name in named if name not in solved]
    return LayerSpectra(results, sizes, left_out)


def _num_matvecs(results: dict[str, EigenResult]) -> int:
    return sum(int(result.num_matvecs) for result in results.values())


def _part(op: LinearOperator, mask: Any, outside: float) -> LayerOperator:
    structures, treedef = jax.tree.flatten(op.structure)
    dtype = tree.real_dtype(tree.accumulation_dtype(tree.working_structure(op.structure)))
    assert len(structures) == len(mask)
    return LayerOperator(op, treedef.unflatten([jnp.asarray(keep) for keep in mask]), jnp.asarray(outside, dtype))


def _solve(op: LayerOperator, programs: Programs, k: int, krylov_dim: int, most: int, tol: float) -> EigenResult:
    # The "rbg" implementation compiles in half the time; the layers may share their start vector.
    state, done, check_matvecs = begin_lanczos(programs, op, jax.random.key(0, impl="rbg"), krylov_dim), 0, 0
    while True:
        chunk = min(LANCZOS_CHUNK, most - done)
        state, done = advance_lanczos(programs, op, state, chunk), done + chunk
        if done >= min(k, most):
            result = check_lanczos(programs, op, state, tol, k=k, which="LA")
            check_matvecs += int(result.num_matvecs) - done
            if done >= most or bool(result.converged.all()):
                return result._replace(num_matvecs=np.int32(done + check_matvecs))


def _first(result: EigenResult, count: int) -> EigenResult:
    # All eigenvalues beyond the layer's size are c.
    host = result._replace(eigenvectors=None)
    host = jax.tree.map(np.asarray, host)
    cut = {name: getattr(host, name)[:count] for name in ("eigenvalues", "residuals", "converged")}
    return host._replace(**cut)
