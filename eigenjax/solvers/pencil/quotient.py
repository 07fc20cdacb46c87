"""Operator B^-1 A of a pencil A x = lambda B x without symmetry, differentiable in A and in B.

    C v = B^-1 (A v),    dC v = B^-1 (dA v - dB C v)

The second line is the derivative of a linear solve; B is Hermitian, so that its solution serves the transpose too.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.complexified import ComplexifiedOperator, is_real, joined
from eigenjax.operators.packed import PackedOperator
from eigenjax.solvers.pencil.mass import CholeskySolver, IterativeSolver, is_indefinite, mass_solver
from eigenjax.solvers.pencil.pencil import partner
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ComplexSolver:
    """Solution of B x = y for complex y, where B is real."""

    inner: CholeskySolver | IterativeSolver

    def __call__(self, rhs: PyTree) -> PyTree:
        """Compute B^-1 y."""
        return joined(*map(self.inner, _parts(rhs)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class QuotientOperator(LinearOperator):
    """Operator B^-1 A."""

    a: LinearOperator
    b: LinearOperator
    solver: CholeskySolver | IterativeSolver | ComplexSolver
    indefinite: jax.Array  # () bool, B is known not to be positive definite

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.a.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute B^-1 A v."""
        solver = jax.lax.stop_gradient(self.solver)
        image = matvec(self.a, tree.cast_like(vector, tree.working_structure(self.structure)))
        multiply = functools.partial(matvec, self.b)
        if is_real(self.structure):
            return jax.lax.custom_linear_solve(multiply, image, lambda _, rhs: solver(rhs), symmetric=True)
        # On real and imaginary parts a Hermitian map is symmetric, and needs no transpose.
        on_parts = lambda function: lambda pair: _parts(function(joined(*pair)))
        solve = lambda _, rhs: on_parts(solver)(rhs)
        return joined(*jax.lax.custom_linear_solve(on_parts(multiply), _parts(image), solve, symmetric=True))


def _parts(vector: PyTree) -> tuple[PyTree, PyTree]:
    return jax.tree.map(jnp.real, vector), jax.tree.map(jnp.imag, vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InverseProduct(LinearOperator):
    """Operator (A - s B)^-1 B."""

    inverse: LinearOperator
    b: LinearOperator

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.b.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute (A - s B)^-1 B v."""
        return matvec(self.inverse, matvec(self.b, vector))


def quotient(a: LinearOperator, b: Any, *, complexify: bool) -> QuotientOperator:
    """Build B^-1 A; b may be anything that `as_operator` takes.

    Args:
        a: A.
        b: B, symmetric or Hermitian and positive definite.
        complexify: whether real operators act on complex vectors.

    Raises:
        TypeError: if b is no operator.
        ValueError: if it does not act on the vectors of A.
    """
    b = partner(a, b, "b")
    assert b is not None
    solver, indefinite = _prepared(jax.lax.stop_gradient(b))
    if complexify:
        return QuotientOperator(ComplexifiedOperator(a), ComplexifiedOperator(b), ComplexSolver(solver), indefinite)
    return QuotientOperator(a, b, solver, indefinite)


@jax.jit
def _prepared(b: LinearOperator) -> tuple[CholeskySolver | IterativeSolver, jax.Array]:
    solver = mass_solver(b)
    return solver, is_indefinite(b, solver)


def parts(op: LinearOperator) -> tuple[LinearOperator, LinearOperator | None, jax.Array]:
    """Return A, B and whether B is known to be indefinite, of an operator or of a quotient; B is None without one."""
    inner = op.inner if isinstance(op, PackedOperator) else op
    if not isinstance(inner, QuotientOperator):
        return op, None, jnp.zeros((), bool)
    if isinstance(op, PackedOperator):
        a, b = (PackedOperator(part, op.packing) for part in (inner.a, inner.b))
        return a, b, inner.indefinite
    return inner.a, inner.b, inner.indefinite
