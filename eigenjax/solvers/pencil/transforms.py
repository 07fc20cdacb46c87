"""Operators with the eigenvectors of a pencil A x = lambda B x, self-adjoint in the inner product x^H B y.

    B^-1 A            theta = lambda                  one matvec with A, and one system with B
    (A - s B)^-1 B    theta = 1 / (lambda - s)        one product with the inverse, and one matvec with B

Their vectors hold B v beside v (`MetricVector`), so that an inner product takes no matvec with B: the first operator
has A v at hand, the second computes B v once. Each Gram-Schmidt pass computes B v anew (`refresh`). Without B the
second operator is the inverse itself.
"""

import dataclasses
import functools
from typing import Any

import jax

from eigenjax.krylov.metric import MetricOperator
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.solvers.pencil.mass import CholeskySolver, DiagonalSolver, IterativeSolver, mass_solver
from eigenjax.solvers.pencil.pencil import Pencil, all_times_b
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_vector
from eigenjax.vectors.tree import MetricVector, PyTree


class _OfPencil(MetricOperator):
    """Operator that is self-adjoint in the inner product of B."""

    b: LinearOperator

    @property
    def structure(self) -> MetricVector:
        """Structure of a vector v and of B v."""
        working = tree.working_structure(self.b.structure)
        return MetricVector(working, working)

    def refresh(self, vector: MetricVector) -> MetricVector:
        """Compute B v anew."""
        return MetricVector(vector.v, matvec(self.b, vector.v))

    def random_start(self, seed: jax.Array) -> MetricVector:
        """Draw a pseudo-random vector v, and compute B v."""
        drawn = arbitrary_vector(seed, self.structure.v)
        return self.refresh(MetricVector(drawn, drawn))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MassInverseOperator(_OfPencil):
    """Operator B^-1 A."""

    a: LinearOperator
    b: LinearOperator
    solve: CholeskySolver | IterativeSolver | DiagonalSolver

    def mv(self, vector: MetricVector) -> MetricVector:
        """Compute B^-1 A v and A v."""
        image = matvec(self.a, vector.v)
        return MetricVector(self.solve(image), image)

    def from_images(self, images: PyTree) -> MetricVector:
        """Compute the k vectors v_i with given B v_i, one after another."""
        return MetricVector(jax.lax.map(self.solve, images), images)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ShiftInverseOperator(_OfPencil):
    """Operator (A - s B)^-1 B."""

    b: LinearOperator
    inverse: LinearOperator

    # A start in the range of the operator has no component in the null space of a singular B.
    start_matvecs = 1

    def mv(self, vector: MetricVector) -> MetricVector:
        """Compute w = (A - s B)^-1 B v and B w."""
        return self._with_image(vector.bv)

    def random_start(self, seed: jax.Array) -> MetricVector:
        """Multiply the inverse by a pseudo-random vector."""
        return self._with_image(arbitrary_vector(seed, self.structure.v))

    def _with_image(self, vector: PyTree) -> MetricVector:
        product = matvec(self.inverse, vector)
        return MetricVector(product, matvec(self.b, product))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OnImages(_OfPencil):
    """Preconditioner T of A - s B, which multiplies the image part A x - lambda B x of a residual."""

    inner: LinearOperator
    b: LinearOperator

    def mv(self, vector: MetricVector) -> MetricVector:
        """Compute w = T r from the image part r, and B w."""
        search = matvec(self.inner, vector.bv)
        return MetricVector(search, matvec(self.b, search))


def transformed(pencil: Pencil) -> LinearOperator:
    """Return the operator whose matvecs a solver makes."""
    if pencil.b is None:
        return pencil.a if pencil.inverse is None else pencil.inverse
    if pencil.inverse is None:
        return MassInverseOperator(pencil.a, pencil.b, mass_solver(pencil.b))
    return ShiftInverseOperator(pencil.b, pencil.inverse)


def in_metric(pencil: Pencil, vectors: PyTree) -> Any:
    """Return k vectors as the operator takes them, at one matvec with B for each."""
    return vectors if pencil.b is None else MetricVector(vectors, all_times_b(pencil, vectors))


def images_of(pencil: Pencil, vectors: PyTree) -> PyTree:
    """Compute B x_i for k vectors at once."""
    return vectors if pencil.b is None else jax.vmap(functools.partial(matvec, pencil.b))(vectors)


def plain(vectors: Any) -> PyTree:
    """Return the vectors without B v."""
    return vectors.v if isinstance(vectors, MetricVector) else vectors


def inverted(shift: Any, values: jax.Array) -> jax.Array:
    """Return s + 1 / theta, or 1 / (lambda - s) for the shift 0 and lambda - s; of a zero Inf."""
    return shift + 1 / values
