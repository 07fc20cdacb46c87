"""Eigenpairs of a pencil and the linear systems of their derivative, on the complement of their span.

    P^H (lambda_i B - A) P z_i  +  sum_j B z_j E_ji  =  P^H b_i,    P = I - X X^H B,    i = 1 .. k

with E the coupling within clusters, zero except for its derivative. The map is Hermitian, and is differentiated as it
stands. It is solved in the inner product of B, by the operators that the solver multiplies (`solvers.pencil`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems import complement, pairs
from eigenjax.implicit.systems.pairs import Pairs, same_cluster
from eigenjax.implicit.systems.tangents import image_tangent
from eigenjax.operators.base import matvec
from eigenjax.result import EigenResult
from eigenjax.solvers.pencil.pencil import Pencil
from eigenjax.solvers.pencil.transforms import MassInverseOperator, images_of, in_metric, inverted, plain, transformed
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul, positive_or_one, safe_divide
from eigenjax.vectors.tree import PyTree


class PencilPairs(NamedTuple):
    """Eigenpairs of a pencil, k of them."""

    pencil: Pencil
    eigenvalues: jax.Array  # (k,)
    vectors: PyTree  # k vectors, B-orthonormal
    errors: jax.Array  # (k,) sizes of the errors of the eigenvalues, from the residuals
    gaps: jax.Array | None  # (k,) lower bounds of the distance to all eigenvalues not computed; None: unknown


def pencil_pairs(pencil: Pencil, result: EigenResult, errors: Any, which: str | None) -> PencilPairs:
    """Build the pairs of a result.

    Args:
        pencil: the pencil.
        result: the result.
        errors: (k,) sizes of the errors of the eigenvalues, or None.
        which: "LA", "SA", "LM" or "BE" if the pairs are known to be selected by it.
    """
    gaps = None
    if errors is None:
        lengths = jax.lax.map(lambda x: tree.norm(x if pencil.b is None else matvec(pencil.b, x)), result.eigenvectors)
        errors = safe_divide(result.residuals, lengths)
    if pencil.inverse is None and result.gap is not None:
        gaps = pairs.own_gaps(result.eigenvalues, result.gap, which)
    return PencilPairs(pencil, result.eigenvalues, result.eigenvectors, errors, gaps)


def divided_by_gaps(found: PencilPairs, numerators: jax.Array) -> jax.Array:
    """Compute K (k, k) with  K T - T K = numerators  between the clusters, and zero within them."""
    return pairs.divided(found.eigenvalues, found.errors, numerators, _coupling_of(found))


def matrix_t(found: PencilPairs) -> jax.Array:
    """Compute T (k, k): the eigenvalues, and the coupling within clusters."""
    coupling = _coupling_of(found)
    return jnp.diag(found.eigenvalues).astype(coupling.dtype) + coupling


def solve_complement(found: PencilPairs, rhs: PyTree, *, adjoint_tol: Any, max_iter: int | None, definite: bool) -> Any:
    """Compute the z_i, differentiable to any order in both directions; None if the pairs leave no complement.

    As in `complement`, the term s B X X^H B z_i makes the map nonsingular.

    Args:
        found: the pairs.
        rhs: k vectors b_i.
        adjoint_tol: residual relative to the right-hand side, in the norm of the solver; None chooses it.
        max_iter: maximal number of matvecs for one pair; None is min(10 n, 10,000).
        definite: the pairs are outermost for the operator that the solver multiplies.
    """
    pencil, vectors = found.pencil, found.vectors
    if found.eigenvalues.shape[0] == pencil.size:
        return None
    scale = positive_or_one(jax.lax.stop_gradient(jnp.max(jnp.abs(found.eigenvalues))))
    coupling, images = _coupling_of(found), images_of(pencil, vectors)

    def system(z):
        along = tree.gram(images, z)
        part = jax.tree.map(jnp.subtract, z, tree.combine(along, vectors))
        of_b, of_a = images_of(pencil, part), jax.vmap(functools.partial(matvec, pencil.a))(part)
        shifted = jax.vmap(lambda value, x, y: tree.add_scaled(tree.scale(value, x), -1.0, y))
        shifted = shifted(found.eigenvalues, of_b, of_a)
        outside = jax.tree.map(jnp.subtract, shifted, tree.combine(tree.gram(vectors, shifted), images))
        inside = tree.combine(scale.astype(along.dtype) * along, images)
        coupled = tree.combine(coupling, images_of(pencil, z))
        return jax.tree.map(lambda x, y, z: x + y + z, outside, inside, coupled)

    def solve(_, rhs):
        options = {"adjoint_tol": adjoint_tol, "max_iter": max_iter, "definite": definite}
        solution = _iterate(found, rhs, **options)
        given = tree.gram(vectors, rhs) / scale.astype(coupling.dtype)
        return _with_inside(vectors, images, solution, given)

    # The transpose of a Hermitian map is its conjugate.
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    is_complex = jnp.issubdtype(coupling.dtype, jnp.complexfloating)
    transposed = (lambda vecmat, rhs: conjugate(solve(vecmat, conjugate(rhs)))) if is_complex else None
    solution = jax.lax.custom_linear_solve(system, rhs, solve, transposed, symmetric=not is_complex)
    return _with_inside(vectors, images, solution, jnp.zeros_like(coupling))


def _iterate(found: PencilPairs, rhs: PyTree, **options: Any) -> PyTree:
    """Solve the systems with the operator of the solver, without derivatives."""
    pencil, op = found.pencil, transformed(found.pencil)
    values, errors = found.eigenvalues, found.errors
    if isinstance(op, MassInverseOperator):
        rhs = op.from_images(rhs)
    else:
        # (theta_i - F B) z_i = - theta_i F b_i
        assert pencil.shift is not None
        thetas = inverted(0.0, values - pencil.shift)
        errors, values = errors * jnp.square(thetas), thetas
        rhs = jax.vmap(tree.scale)(-thetas, _inverse_images(pencil, rhs))
    solved = Pairs(op, values, in_metric(pencil, found.vectors), errors, found.gaps)
    return plain(complement.iterate(solved, rhs, **options).solution)


def _inverse_images(pencil: Pencil, rhs: PyTree) -> Any:
    return in_metric(pencil, jax.lax.map(functools.partial(matvec, pencil.inverse), rhs))


def _with_inside(vectors: PyTree, images: PyTree, block: PyTree, inside: jax.Array) -> PyTree:
    """Compute X inside + P block."""
    return jax.tree.map(jnp.add, block, tree.combine(inside - tree.gram(images, block), vectors))


def _coupling_of(found: PencilPairs) -> jax.Array:
    """Compute E (k, k): zero, at no matvec, with the derivative of X^H A X within clusters."""
    alike = same_cluster(found.eigenvalues, found.errors)
    mask = alike & ~jnp.eye(found.eigenvalues.shape[0], dtype=bool)
    return _coupling((found.pencil.a, found.pencil.b), found.vectors, found.eigenvalues, mask)


@jax.custom_jvp
def _coupling(operators: Any, vectors: PyTree, eigenvalues: jax.Array, mask: jax.Array) -> jax.Array:
    del operators, eigenvalues  # only the derivative depends on them
    return jnp.zeros(mask.shape, tree.accumulation_dtype(vectors))


def _coupling_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (a, b), vectors, eigenvalues, mask = primals
    zero = _coupling(*primals)
    of_a = image_tangent(a, tangents[0][0], vectors)
    of_b = None if b is None else image_tangent(b, tangents[0][1], vectors)
    moved = jnp.zeros_like(zero)
    if of_a is not None:
        moved = tree.gram(vectors, of_a)
    if of_b is not None:
        t, mass = jnp.diag(eigenvalues).astype(zero.dtype) + zero, tree.gram(vectors, of_b)
        moved = moved - (matmul(mass, t) + matmul(t, mass)) / 2
    return zero, jnp.where(mask, moved, 0)


_coupling.defjvp(_coupling_jvp, symbolic_zeros=True)
