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
import numpy as np

from eigenjax.krylov.general.krylov_space import KrylovSpace, krylov_space
from eigenjax.operators.base import LinearOperator, conjugated, matvec
from eigenjax.spectrum.exponential.defect import matrix_exponential, step
from eigenjax.spectrum.exponential.steps import Exponential
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Singular values below this times eps times the largest are rounding.
_ROUNDING = 1.0


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
    floating, rebuild = _floating(op)
    zeros = [jnp.zeros_like(x) for x in floating]

    def backward(carry):
        index, adjoint, total = carry
        fraction = solved.fractions[index]
        forward_space = krylov_space(op, tree.row(solved.starts, index), krylov_dim)
        adjoint_space = krylov_space(op.H, adjoint, krylov_dim)
        total = _add_terms(floating, rebuild, total, t, fraction, forward_space, adjoint_space)
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
    return _cotangent(op, total), conjugated(adjoint), (slope * valid.astype(slope.dtype)).astype(t.dtype)


def _add_terms(floating, rebuild, total, t, fraction, of_y: KrylovSpace, of_z: KrylovSpace) -> list[jax.Array]:
    """Add t times the integral over one step, term by term, until the singular values are rounding."""
    m, factor = of_y.matrix.shape[0], t * fraction.astype(t.dtype)
    corner = jnp.zeros_like(of_y.matrix).at[0, 0].set(1)
    lower = jnp.concatenate([jnp.zeros_like(corner), factor * jnp.conj(of_z.matrix).T], axis=1)
    block = jnp.concatenate([jnp.concatenate([factor * of_y.matrix, corner], axis=1), lower])
    left, sizes, right = jnp.linalg.svd(matrix_exponential(block)[:m, m:])
    weight = factor * (of_y.length * of_z.length).astype(factor.dtype)
    least = _ROUNDING * jnp.finfo(sizes.dtype).eps * sizes[0]

    def add(carry):
        k, total = carry
        along = tree.combine(left[:, k], of_y.basis)
        beside = tree.combine(jnp.conj(right[k]), of_z.basis)
        _, pull = jax.vjp(lambda leaves: matvec(rebuild(leaves), along), floating)
        (terms,) = pull(tree.scale(weight * sizes[k].astype(weight.dtype), conjugated(beside)))
        return k + 1, jax.tree.map(jnp.add, total, terms)

    is_counted = lambda carry: (carry[0] < m) & (sizes[jnp.minimum(carry[0], m - 1)] > least)
    return jax.lax.while_loop(is_counted, add, (jnp.int32(0), total))[1]


def _floating(op: LinearOperator) -> tuple[list[jax.Array], Any]:
    """Return the floating-point leaves of an operator, and a function that builds it from such leaves."""
    leaves, treedef = jax.tree.flatten(op)
    is_floating = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]

    def rebuild(floating):
        new = iter(floating)
        return jax.tree.unflatten(
            treedef, [next(new) if yes else x for x, yes in zip(leaves, is_floating, strict=True)]
        )

    return [jnp.asarray(x) for x, yes in zip(leaves, is_floating, strict=True) if yes], rebuild


def _cotangent(op: LinearOperator, floating: list[jax.Array]) -> Any:
    """Return the cotangent of an operator, with zeros of dtype float0 for integer leaves."""
    new = iter(floating)
    zero = lambda x: np.zeros(jnp.shape(x), jax.dtypes.float0)
    return jax.tree.map(lambda x: next(new) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else zero(x), op)
