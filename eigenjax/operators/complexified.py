"""Complex vectors of a real operator: A (x + i y) = A x + i A y.

A real operator can have complex eigenvectors. Solvers multiply it by real vectors only, so that the basis and the
matvecs take half the memory and half the work.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


def is_real(structure: PyTree) -> bool:
    """Return whether a vector holds real numbers only.

    Raises:
        TypeError: if some leaves are real and others complex, because the eigenvectors are complex in every leaf.
    """
    kinds = {jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(structure)}
    if len(kinds) > 1:
        raise TypeError(
            "the operator acts on real and complex leaves at once, and its eigenvectors are complex in all: make all "
            "leaves complex"
        )
    return not kinds.pop()


def complex_structure(structure: PyTree) -> PyTree:
    """Return the structure of complex vectors of the same shapes and precision.

    >>> print(complex_structure(jax.ShapeDtypeStruct((3,), jnp.float32)).dtype)
    complex64
    """
    widened = lambda x: jnp.complex128 if jnp.finfo(x.dtype).bits == 64 else jnp.complex64
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, widened(x)), structure)


def joined(real: PyTree, imaginary: PyTree) -> PyTree:
    """Return the vector x + i y."""
    return jax.tree.map(jax.lax.complex, real, imaginary)


def combine(coefficients: jax.Array, basis: PyTree) -> PyTree:
    """Combine basis vectors with complex coefficients, for a real or complex basis; the result is one vector or k."""
    if not is_real(basis):
        return tree.combine(coefficients, basis)
    return joined(tree.combine(coefficients.real, basis), tree.combine(coefficients.imag, basis))


def on_complex(function: Callable[[PyTree], PyTree], structure: PyTree) -> Callable[[PyTree], PyTree]:
    """Extend a linear function on vectors of this structure to complex vectors."""
    if not is_real(structure):
        return function
    part = lambda name, x: function(jax.tree.map(lambda leaf: getattr(leaf, name), x))
    return lambda x: joined(part("real", x), part("imag", x))


def complex_matvec(op: LinearOperator, vector: PyTree) -> PyTree:
    """Compute A v for a complex v, with two real matvecs if A is real."""
    return on_complex(functools.partial(matvec, op), op.structure)(vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComplexifiedOperator(LinearOperator):
    """Real operator on complex vectors."""

    inner: LinearOperator

    @property
    def structure(self) -> PyTree:
        """Structure of the complex vectors."""
        return complex_structure(self.inner.structure)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A x + i A y."""
        return complex_matvec(self.inner, vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A^T x + i A^T y."""
        working = tree.working_structure(self.inner.structure)
        adjoint = lambda v: tree.cast_like(self.inner.adjoint_mv(tree.cast_like(v, self.inner.structure)), working)
        return on_complex(adjoint, working)(vector)
