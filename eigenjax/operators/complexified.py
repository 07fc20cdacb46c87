"""Complex vectors of an operator that is real: A (x + i y) = A x + i A y.

A real operator has complex eigenvectors, and is only ever shown real vectors: its basis, and what it computes, take
half the memory and half the work.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


def is_real(structure: PyTree) -> bool:
    """Whether a vector holds real numbers only.

    Raises:
        TypeError: if some leaves are real and others complex: the eigenvectors would not fit the vectors.
    """
    kinds = {jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(structure)}
    if len(kinds) > 1:
        raise TypeError(
            "the operator acts on real and complex leaves at once, and its eigenvectors are complex in all: make all "
            "leaves complex"
        )
    return not kinds.pop()


def joined(real: PyTree, imaginary: PyTree) -> PyTree:
    """The vector x + i y."""
    return jax.tree.map(jax.lax.complex, real, imaginary)


def combine(coefficients: jax.Array, basis: PyTree) -> PyTree:
    """`tree.combine` with complex coefficients, of a real basis too; a complex vector, or k of them."""
    if not is_real(basis):
        return tree.combine(coefficients, basis)
    return joined(tree.combine(coefficients.real, basis), tree.combine(coefficients.imag, basis))


def on_complex(function: Callable[[PyTree], PyTree], structure: PyTree) -> Callable[[PyTree], PyTree]:
    """A linear function of vectors of this structure, as one of complex vectors."""
    if not is_real(structure):
        return function
    part = lambda name, x: function(jax.tree.map(lambda leaf: getattr(leaf, name), x))
    return lambda x: joined(part("real", x), part("imag", x))


def complex_matvec(op: LinearOperator, vector: PyTree) -> PyTree:
    """A v for a complex v; two products where A is real."""
    return on_complex(functools.partial(matvec, op), op.structure)(vector)
