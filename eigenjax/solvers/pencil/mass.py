"""Linear systems B x = y with the positive definite operator of a pencil.

A dense matrix is factorized once. Other systems are solved by conjugate gradients to working precision, scaled by the
diagonal of B where it is known: a mass matrix of finite elements then takes some 20 matvecs, whatever its size.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.complexified import ComplexifiedOperator
from eigenjax.operators.convert import MatrixOperator
from eigenjax.operators.packed import PackedOperator
from eigenjax.operators.parts.precondition import DiagonalOperator
from eigenjax.operators.sparse.padded import diagonal_of_sparse
from eigenjax.solvers.linear.conjugate_gradients import conjugate_gradients_together
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Conjugate gradients with a mass matrix of condition 10^6 take fewer.
_MAX_ITER = 10_000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CholeskySolver:
    """Solution of B x = y by a Cholesky factor of B."""

    factor: jax.Array  # (n, n) L, lower triangular

    def __call__(self, rhs: jax.Array) -> jax.Array:
        """Compute B^-1 y."""
        return jax.scipy.linalg.cho_solve((self.factor, True), rhs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IterativeSolver:
    """Solution of B x = y by conjugate gradients on D^-1/2 B D^-1/2."""

    b: LinearOperator
    scaling: PyTree | None  # D^-1/2, or None

    def __call__(self, rhs: PyTree) -> PyTree:
        """Compute B^-1 y."""

        def multiply(block: PyTree) -> PyTree:
            image = self._scaled(matvec(self.b, self._scaled(tree.row(block, 0))))
            return jax.tree.map(lambda x: x[None], image)

        # Without a target, the iteration ends at rounding.
        zero = jnp.zeros(1, tree.real_dtype(tree.accumulation_dtype(rhs)))
        block = jax.tree.map(lambda x: x[None], self._scaled(rhs))
        limit = min(10 * self.b.size, _MAX_ITER)
        found = conjugate_gradients_together(multiply, block, targets=lambda _: zero, max_iter=limit)
        return self._scaled(tree.row(found.solution, 0))

    def _scaled(self, vector: PyTree) -> PyTree:
        if self.scaling is None:
            return vector
        return jax.tree.map(lambda d, x: d.astype(x.dtype) * x, self.scaling, vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiagonalSolver:
    """Approximate solution of B x = y by the diagonal of B."""

    diagonal: PyTree

    def __call__(self, rhs: PyTree) -> PyTree:
        """Compute D^-1 y."""
        return jax.tree.map(lambda d, x: x / d.astype(x.dtype), self.diagonal, rhs)


def cheap_solver(b: LinearOperator) -> CholeskySolver | IterativeSolver | DiagonalSolver:
    """Prepare an approximate solution of systems with B, for norms that need no more than their size."""
    diagonal = _known_diagonal(b)
    return mass_solver(b) if diagonal is None else DiagonalSolver(diagonal)


def mass_solver(b: LinearOperator) -> CholeskySolver | IterativeSolver:
    """Prepare the solution of systems with B."""
    if isinstance(b, MatrixOperator) and isinstance(b.matrix, jax.Array):
        wide = b.matrix.astype(tree.accumulation_dtype(b.structure))
        return CholeskySolver(jnp.linalg.cholesky((wide + jnp.conj(wide).T) / 2))
    diagonal = _known_diagonal(b)
    scaling = None if diagonal is None else jax.tree.map(lambda d: jax.lax.rsqrt(d.real), diagonal)
    return IterativeSolver(b, scaling)


def is_indefinite(b: LinearOperator, solver: CholeskySolver | IterativeSolver | DiagonalSolver) -> jax.Array:
    """Return whether B is finite, and the preparation of the solver shows that it is not positive definite, () bool."""
    if isinstance(solver, CholeskySolver) and isinstance(b, MatrixOperator):
        return jnp.all(jnp.isfinite(b.matrix)) & ~jnp.all(jnp.isfinite(solver.factor))
    diagonal = _known_diagonal(b)
    if diagonal is None:
        return jnp.zeros((), bool)
    leaves = [leaf.real for leaf in jax.tree.leaves(diagonal)]
    finite, positive = ([jnp.all(test(x)) for x in leaves] for test in (jnp.isfinite, lambda x: x > 0))
    return jnp.all(jnp.stack(finite)) & ~jnp.all(jnp.stack(positive))


def _known_diagonal(b: LinearOperator) -> PyTree | None:
    """Return the diagonal of B as a vector in working dtypes, or None."""
    working: Any = tree.working_structure(b.structure)
    if isinstance(b, MatrixOperator):
        matrix = b.matrix
        diagonal = jnp.diagonal(matrix) if isinstance(matrix, jax.Array) else diagonal_of_sparse(matrix)
        return diagonal.astype(working.dtype)
    if isinstance(b, DiagonalOperator):
        return jax.tree.map(lambda d, x: jnp.broadcast_to(d, x.shape).astype(x.dtype), b.diagonal, working)
    if isinstance(b, ComplexifiedOperator) and (inner := _known_diagonal(b.inner)) is not None:
        return jax.tree.map(lambda d, x: d.astype(x.dtype), inner, working)
    if isinstance(b, PackedOperator) and (inner := _known_diagonal(b.inner)) is not None:
        return b.packing.pack(inner)
    return None
