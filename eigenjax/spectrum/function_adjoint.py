"""Derivative of a function of an operator times a vector, in reverse mode.

For the cotangent w of y = f(A) v, in the Krylov spaces V of A from v and W of A^H from w,

    d <w, y>  =  <f(A)^H w, dv>  +  sum_ij f[theta_i, phi_j] <w, x_j> <x_j, dA x_i> <x_i, v>
                 +  sum_i <w, x_i> df(theta_i) <x_i, v>

with the divided differences f[x, y] = (f(x) - f(y)) / (x - y), the Ritz values theta of V and phi of W, and their Ritz
vectors x. For an operator without symmetry the left eigenvectors of the projected matrices take the place of one x.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.krylov.general.krylov_space import krylov_space
from eigenjax.operators.base import LinearOperator, conjugated
from eigenjax.operators.functions.captured import CapturedFunction
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.general_functions import Eigendecomposition, eigendecompositions, without_gaps
from eigenjax.spectrum.probing.bilinear_terms import add_terms, cotangent_of, floating_leaves
from eigenjax.spectrum.probing.derivatives import divided_differences
from eigenjax.spectrum.probing.quadrature import follow, steps_before_breakdown, tridiagonal_ritz_pairs
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.tree import PyTree


class Space(NamedTuple):
    """Krylov space with the decomposition of its projected matrix; two of them if close eigenvalues are moved apart."""

    basis: PyTree  # (m, ...) V
    length: jax.Array  # () norm of the start vector
    decompositions: tuple[Eigendecomposition, ...]


def symmetric_space(op: LinearOperator, start: PyTree, krylov_dim: int) -> tuple[Space, LanczosState]:
    """Build a Krylov space of a symmetric operator, with the solver state; cost: m matvecs."""
    state = follow(op, start, krylov_dim, seed_of(None))
    values, vectors, valid = tridiagonal_ritz_pairs(state, steps_before_breakdown(state))
    weights = jnp.where(valid, vectors[0], 0)
    values = jnp.where(weights == 0, values[jnp.argmax(jnp.abs(weights))], values)
    found = Eigendecomposition(values, vectors, weights, jnp.ones_like(values[0]))
    return Space(state.basis, tree.norm(start), (found,)), state


def general_space(op: LinearOperator, start: PyTree, krylov_dim: int) -> tuple[Space, jax.Array, jax.Array]:
    """Build a Krylov space of any operator, with H and the coupling to the next vector; cost: m matvecs."""
    space = krylov_space(op, start, krylov_dim)
    matrix = without_gaps(space)
    return Space(space.basis, space.length, eigendecompositions(matrix)), matrix, space.coupling


def pullback(
    op: LinearOperator, f: CapturedFunction, of_v: Space, of_w: Space, cotangent: PyTree
) -> tuple[Any, Any, PyTree]:
    """Compute the cotangents of the operator, of the arrays in f, and of v.

    Args:
        op: A.
        f: function of (m,) values.
        of_v: Krylov space of A from v.
        of_w: Krylov space of A^H from w, the conjugate of the cotangent.
        cotangent: that of f(A) v, in JAX's convention, without a conjugation.
    """
    is_real = not jnp.issubdtype(tree.accumulation_dtype(cotangent), jnp.complexfloating)
    pairs = list(zip(of_v.decompositions, of_w.decompositions, strict=True))
    coefficients = _mean([_coefficients(f, *pair) for pair in pairs])
    floating, rebuild = floating_leaves(op)
    zeros = [jnp.zeros_like(leaf) for leaf in floating]
    coefficients = tree.scale(of_v.length * of_w.length, coefficients.real if is_real else coefficients)
    of_op = cotangent_of(op, add_terms(floating, rebuild, zeros, coefficients, of_v.basis, of_w.basis))
    column = _mean([_adjoint_column(f, found) for found in of_w.decompositions])
    of_start = tree.scale(of_w.length, conjugated(tree.combine(column.real if is_real else column, of_w.basis)))
    return of_op, _of_function(f, of_v, cotangent), of_start


def _coefficients(f: Callable, of_v: Eigendecomposition, of_w: Eigendecomposition) -> jax.Array:
    """Return G (m, m) with <w, df(A) v> = sum_ab G_ab <W_b, dA V_a>, for unit vectors v and w."""
    differences = divided_differences(f, of_v.values, jnp.conj(of_w.values))
    weights = of_v.weights[:, None] * jnp.conj(of_w.weights)[None]
    # An infinite value of f without weight must not spoil the matrix.
    matrix = jnp.where(weights == 0, 0, weights.astype(differences.dtype) * differences)
    return _product(of_v.vectors, matrix, jnp.conj(of_w.vectors).T)


def _adjoint_column(f: Callable, of_w: Eigendecomposition) -> jax.Array:
    """Return the coefficients (m,) of f(A)^H w in the basis W, for a unit vector w."""
    images = jnp.conj(f(jnp.conj(of_w.values)))
    return _product(of_w.vectors, jnp.where(of_w.weights == 0, 0, images * of_w.weights.astype(images.dtype)))


def _of_function(f: CapturedFunction, of_v: Space, cotangent: PyTree) -> Any:
    """Return the cotangent of the arrays in f: the linear form of y in the values of f."""
    floating, rebuild = floating_leaves(f)
    overlaps = tree.scale(of_v.length, jnp.conj(tree.project(of_v.basis, conjugated(cotangent))))
    total = [jnp.zeros_like(leaf) for leaf in floating]
    for found in of_v.decompositions:
        images, pull = jax.vjp(lambda leaves, found=found: rebuild(leaves)(found.values), floating)
        form = _product(overlaps, found.vectors, jnp.diag(found.weights)) / len(of_v.decompositions)
        (terms,) = pull((form if jnp.iscomplexobj(images) else form.real).astype(images.dtype))
        total = jax.tree.map(jnp.add, total, terms)
    return cotangent_of(f, total)


def _mean(arrays: list[jax.Array]) -> jax.Array:
    return sum(arrays[1:], arrays[0]) / len(arrays)


def _product(*factors: jax.Array) -> jax.Array:
    dtype = np.result_type(*(factor.dtype for factor in factors))
    return matmul(*(factor.astype(dtype) for factor in factors))
