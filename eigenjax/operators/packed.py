"""Operators on packed vectors, as solvers use them on one device."""

import dataclasses
import functools
from typing import Any

import jax

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.maps import RectangularOperator
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.packing import Packing, packing_of
from eigenjax.vectors.placement import spans_devices
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PackedOperator(LinearOperator):
    """Operator on packed vectors."""

    inner: LinearOperator
    packing: Packing = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the packed vectors."""
        return self.packing.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Unpack v, and pack A v, in the working dtypes."""
        return packed_image(self.inner.mv(self.packing.unpack(vector)), self.inner.structure, self.packing)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Unpack v, and pack A^H v, in the working dtypes."""
        return packed_image(self.inner.adjoint_mv(self.packing.unpack(vector)), self.inner.structure, self.packing)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PackedMap(RectangularOperator):
    """Rectangular map between packed vectors; a packing is None on a side whose vectors are flat already."""

    inner: RectangularOperator
    input_packing: Packing | None = dataclasses.field(metadata={"static": True})
    output_packing: Packing | None = dataclasses.field(metadata={"static": True})

    @property
    def domain(self) -> PyTree:
        """Structure of the packed input vectors."""
        return self.input_packing.structure if self.input_packing else self.inner.domain

    @property
    def codomain(self) -> PyTree:
        """Structure of the packed output vectors."""
        return self.output_packing.structure if self.output_packing else self.inner.codomain

    def mv(self, vector: PyTree) -> PyTree:
        """Unpack v, and pack A v, in the working dtypes."""
        image = self.inner.mv(unpacked(vector, self.input_packing))
        return packed_image(image, self.inner.codomain, self.output_packing)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Unpack u, and pack A^H u, in the working dtypes."""
        image = self.inner.adjoint_mv(unpacked(vector, self.output_packing))
        return packed_image(image, self.inner.domain, self.input_packing)


def packed_operator(op: LinearOperator, *others: PyTree) -> LinearOperator:
    """Return the operator on packed vectors.

    Args:
        op: the operator. It is returned unchanged if its vectors are flat, or if it is on several devices.
        *others: vectors that it is used with. The operator is returned unchanged if they are on several devices.
    """
    if isinstance(op, PackedOperator) or spans_devices(op, op.structure, *others):
        return op
    packing = packing_of(op.structure)
    return op if packing is None else PackedOperator(op, packing)


def packed_map(op: RectangularOperator, *others: PyTree) -> RectangularOperator:
    """Return the map between packed vectors; the exceptions are those of `packed_operator`."""
    if isinstance(op, PackedMap) or spans_devices(op, op.domain, op.codomain, *others):
        return op
    packings = packing_of(op.domain), packing_of(op.codomain)
    return op if packings == (None, None) else PackedMap(op, *packings)


def packed_image(image: PyTree, structure: PyTree, packing: Packing | None) -> PyTree:
    """Pack a matvec; without a packing it is returned unchanged.

    The leaves of a group agree in their working dtypes. An operator may return wider ones than it takes.
    """
    return image if packing is None else packing.pack(tree.cast_like(image, tree.working_structure(structure)))


def without_packing(op: PackedOperator | PackedMap, vectors: PyTree, images: PyTree) -> tuple[Any, PyTree, PyTree]:
    """Return the operator inside, and unpacked, several vectors of its domain and as many of its codomain."""
    if isinstance(op, PackedOperator):
        return op.inner, op.packing.unpack(vectors), op.packing.unpack(images)
    return op.inner, unpacked(vectors, op.input_packing), unpacked(images, op.output_packing)


def packing_used(op: LinearOperator) -> Packing | None:
    """Return the packing of an operator's vectors; None if they are not packed."""
    return op.packing if isinstance(op, PackedOperator) else None


def unpacked(vectors: PyTree, packing: Packing | None) -> PyTree:
    """Unpack vectors; without a packing they are returned unchanged."""
    return vectors if packing is None else _unpacked(vectors, packing)


def unpacked_pairs(op: LinearOperator, result: EigenResult) -> EigenResult:
    """Return a result with unpacked eigenvectors."""
    return result._replace(eigenvectors=unpacked(result.eigenvectors, packing_used(op)))


@functools.partial(jax.jit, static_argnums=1)
def _unpacked(vectors: PyTree, packing: Packing) -> PyTree:
    """Unpack vectors by one compiled program, also when called outside of jit."""
    return packing.unpack(vectors)


def packed(vectors: PyTree, packing: Packing | None) -> PyTree:
    """Pack vectors of working dtypes; without a packing they are returned unchanged."""
    return vectors if packing is None else packing.pack(vectors)
