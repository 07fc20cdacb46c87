"""Derivative of the exponential of an operator times a vector, in reverse mode.

With y(s) = exp(s t A) v and z(s) = exp((1 - s) conj(t) A^H) w for the cotangent w of y(1),

    d <w, y(1)>  =  <z(0), dv>  +  dt <w, A y(1)>  +  t integral of <z(s), dA y(s)> ds over s from 0 to 1

The integral over one step is exact in the Krylov spaces of y and z at its two ends: with B = exp of the block matrix
[[s t H_y, e_1 e_1^T], [0, s t H_z^H]], its upper right block holds the coefficients of <W_j, dA V_k>. Its singular
values fall faster than exponentially, and each of those above rounding costs one product with the adjoint of dA.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.krylov_space import KrylovSpace, krylov_space
from eigenjax.operators.base import LinearOperator, conjugated, matvec
from eigenjax.spectrum.exponential.defect import matrix_exponential, step
from eigenjax.spectrum.exponential.steps import Exponential
from eigenjax.spectrum.probing.bilinear_terms import add_terms, cotangent_of, floating_leaves
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


def pullback(
    op: LinearOperator, t: jax.Array, solved: Exponential, cotangent: PyTree, krylov_dim: int
) -> tuple[Any, PyTree, jax.Array]:
    """Compute the cotangents of the operator, of v and of t.

    Args:
        op: A.
        t: () the time, real or complex.
        solved: the forward solve, with the vectors between the steps.
        cotangent: that of the vector, in JAX's convention, without a conjugation.
        krylov_dim: m.
    """
    floating, rebuild = floating_leaves(op)
    zeros = [jnp.zeros_like(x) for x in floating]

    def backward(carry):
        index, adjoint, total = carry
        fraction = solved.fractions[index]
        forward_space = krylov_space(op, tree.row(solved.starts, index), krylov_dim)
        adjoint_space = krylov_space(op.H, adjoint, krylov_dim)
        coefficients = _coefficients(t * fraction.astype(t.dtype), forward_space, adjoint_space)
        total = add_terms(floating, rebuild, total, coefficients, forward_space.basis, adjoint_space.basis)
        found = step(adjoint_space, jnp.conj(t), fraction)
        adjoint = tree.scale(adjoint_space.length, tree.combine(found.coefficients, adjoint_space.basis))
        return index - 1, adjoint, total

    start = (solved.num_steps - 1, conjugated(cotangent), zeros)
    _, adjoint, total = jax.lax.while_loop(lambda carry: carry[0] >= 0, backward, start)
    # The derivative of a vector that is not that at the time t.
    valid = jnp.where(solved.done < 1, jnp.nan, jnp.ones_like(solved.done))
    adjoint, total = jax.tree.map(lambda x: x * valid.astype(x.dtype), (adjoint, total))
    # <w, A y(1)> as a product without conjugation.
    slope = tree.inner(conjugated(cotangent), matvec(op, solved.vector))
    slope = slope if jnp.iscomplexobj(t) else slope.real
    return cotangent_of(op, total), conjugated(adjoint), (slope * valid.astype(slope.dtype)).astype(t.dtype)


def _coefficients(factor: jax.Array, of_y: KrylovSpace, of_z: KrylovSpace) -> jax.Array:
    """Return the coefficients (m, m) of t times the integral over one step, in the bases of both spaces."""
    m = of_y.matrix.shape[0]
    corner = jnp.zeros_like(of_y.matrix).at[0, 0].set(1)
    lower = jnp.concatenate([jnp.zeros_like(corner), factor * jnp.conj(of_z.matrix).T], axis=1)
    block = jnp.concatenate([jnp.concatenate([factor * of_y.matrix, corner], axis=1), lower])
    weight = factor * (of_y.length * of_z.length).astype(factor.dtype)
    return weight * matrix_exponential(block)[:m, m:]
