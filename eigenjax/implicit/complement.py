"""The linear systems of the derivative: what the eigenvectors do outside their own span.

    P (lambda_i - A) P z_i  +  sum_j z_j E_ji  =  P b_i,    P = I - X X^H,    i = 1 .. k

with E the coupling within clusters (`pairs`), zero but for its derivative. It is the same map for tangents and for
cotangents. All k systems go side by side, one product of k vectors a step, by MINRES: the complement is definite only
where all pairs of one end were found, which nothing guarantees, and where it is, MINRES reaches a residual in no more
products than conjugate gradients do.

How well to solve. The pair itself is known to within its residual r_i: it is an exact pair of A + dA with
||dA|| <= r_i. So b_i and z_i mean nothing below a relative r_i / g_i, g_i the gap to the eigenvalues left out, and

    e  =  max_i  min(1, r_i / g) ||z_i||

is the error of the whole sum_i z_i x_i^H that comes of the pairs alone. System i is solved to ||rest_i|| <= g e / 2.
Where no gap is known, to ||rest_i|| <= r_i ||z_i|| / 2, which is no looser.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.implicit import elimination
from eigenjax.implicit.pairs import Pairs, cluster_coupling
from eigenjax.operators.base import matvec
from eigenjax.solvers.minres import LinearSolution, minres_together
from eigenjax.solvers.remainder import Remainder
from eigenjax.tree import PyTree

# The linear solves add at most this share of the error that the pairs make. (That bound is reached by a residual along
# the nearest eigenvalue alone; measured is a fortieth to a third of it.)
_SHARE = 0.5
# A projected right-hand side below so many units of rounding of the whole is zero.
_NEGLIGIBLE = 16.0
# Nor can a residual be made smaller than so many units of rounding of ||A|| ||z||.
_ATTAINABLE = 1.0
# Products that one system may take: in exact arithmetic n suffice.
_PRODUCTS_PER_DIMENSION = 10
_PRODUCTS = 10_000


def solve_complement(
    pairs: Pairs, rhs: PyTree, *, known: Remainder | None, adjoint_tol: Any, max_iter: int | None
) -> PyTree:
    """Z, differentiable to any order in both directions.

    The system is solved as  [P (lambda_i - A) P + s X X^H] z_i + .. = P b_i  with a scale s of A. It has the same
    solution, is symmetric and not singular, and stays true to first order when A and X vary: a derivative of z_i may
    leave the range of P, which the singular system would not let it.

    Args:
        pairs: fewer than n.
        rhs: k vectors b_i.
        known: what the forward solve has left over, to be eliminated.
        adjoint_tol: residual relative to P b_i; None is as above.
        max_iter: products for one pair; None is 10 n, at most 10,000.
    """
    vectors, scale = pairs.vectors, scale_of(pairs)

    def system(z):
        images = jax.vmap(lambda value, z: _shifted(pairs, value, z))(pairs.eigenvalues, z)
        inside = tree.combine(tree.gram(vectors, z), vectors)
        turned = tree.combine(cluster_coupling(pairs), z)
        return jax.tree.map(lambda x, y, t: x + scale.astype(x.dtype) * y + t, images, inside, turned)

    def solve(_, rhs):
        found = iterate(pairs, rhs, known=known, adjoint_tol=adjoint_tol, max_iter=max_iter)
        inside = tree.combine(tree.gram(vectors, rhs), vectors)
        add = lambda x, y: x + y / scale.astype(y.dtype)
        return jax.tree.map(add, project_out(vectors, found.solution), inside)

    # The transpose of a Hermitian map is its conjugate.
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    is_complex = jnp.issubdtype(tree.accumulation_dtype(vectors), jnp.complexfloating)
    transposed = (lambda vecmat, rhs: conjugate(solve(vecmat, conjugate(rhs)))) if is_complex else None
    # What b_i has within the span of X goes through, for `iterate` to see how large the whole was, and is taken out.
    whole = jax.lax.custom_linear_solve(system, rhs, solve, transposed, symmetric=not is_complex)
    return project_out(vectors, whole)


def iterate(
    pairs: Pairs, rhs: PyTree, *, known: Remainder | None = None, adjoint_tol: Any, max_iter: int | None
) -> LinearSolution:
    """The k solutions as MINRES finds them, and how it went."""
    floors = negligible(rhs)
    rhs = project_out(pairs.vectors, rhs)
    norms = jax.vmap(tree.norm)
    stop_at = targets(pairs, norms(rhs), floors, adjoint_tol)
    max_iter = max_iter or min(_PRODUCTS_PER_DIMENSION * pairs.op.size, _PRODUCTS)
    system = jax.vmap(functools.partial(_shifted, pairs))
    if known is None:
        whole = lambda z: system(pairs.eigenvalues, z)
        return minres_together(whole, rhs, targets=lambda z: stop_at(norms(z)), max_iter=max_iter)

    # With U eliminated, the systems of `elimination`.
    of_each = functools.partial(jax.vmap, in_axes=(None, 0))
    part = elimination.elimination(pairs, known)
    inverses, inside = part.inverses, of_each(elimination.inside)(part, rhs)

    def apply(y):
        images = of_each(elimination.without)(part, system(pairs.eigenvalues, y))
        along = jax.vmap(elimination.schur_term, in_axes=(None, 0, 0))(part, inverses, y)
        return jax.tree.map(jnp.subtract, images, along)

    each = (None, 0, 0, 0)
    components = lambda y: jax.vmap(elimination.components, in_axes=each)(part, inverses, inside, y)
    stop = lambda y: stop_at(jnp.hypot(norms(y), norms(components(y))))
    reduced = jax.vmap(elimination.reduced, in_axes=each)(part, inverses, rhs, inside)
    found = minres_together(apply, reduced, targets=stop, max_iter=max_iter)
    y = found.solution
    return found._replace(solution=jax.vmap(elimination.completed, in_axes=(None, 0, 0))(part, components(y), y))


def targets(pairs: Pairs, lengths: jax.Array, floors: jax.Array, adjoint_tol: Any) -> Callable[[jax.Array], jax.Array]:
    """How the residuals to stop at follow from the (k,) norms of the solutions."""
    numbers = (pairs.eigenvalues, pairs.residuals, pairs.gap, lengths, floors, adjoint_tol)
    eigenvalues, residuals, gap, lengths, floors, adjoint_tol = jax.lax.stop_gradient(numbers)
    scale = jnp.max(jnp.abs(eigenvalues))
    if adjoint_tol is not None:
        asked = jnp.asarray(adjoint_tol).astype(lengths.dtype) * lengths
        return lambda _: jnp.maximum(asked, floors)
    unit = _ATTAINABLE * jnp.finfo(scale.dtype).eps * scale

    def from_solutions(norms):
        if gap is None:
            allowed = _SHARE * residuals * norms
        else:
            # No gap within A is more than 2 ||A||, and one below the residuals is not known to be there.
            known = jnp.clip(gap, jnp.max(residuals), 2 * scale)
            share = jnp.minimum(1, residuals / jnp.where(known > 0, known, 1))
            allowed = _SHARE * known * jnp.max(share * norms)
        return jnp.maximum(jnp.maximum(allowed, unit * norms), floors)

    return from_solutions


def scale_of(pairs: Pairs) -> jax.Array:
    """() the largest |lambda|, or one."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(pairs.eigenvalues)))
    return jnp.where(largest > 0, largest, 1)


def negligible(rhs: PyTree) -> jax.Array:
    """(k,): what the projection leaves of a vector within the span of X is rounding, and not to be solved for."""
    lengths = jax.lax.stop_gradient(jax.vmap(tree.norm)(rhs))
    return _NEGLIGIBLE * jnp.finfo(lengths.dtype).eps * lengths


def project_out(vectors: PyTree, block: PyTree) -> PyTree:
    """P applied to k vectors."""
    return jax.tree.map(jnp.subtract, block, tree.combine(tree.gram(vectors, block), vectors))


def _shifted(pairs: Pairs, value: jax.Array, z: PyTree) -> PyTree:
    """P (lambda - A) P z."""
    outside = lambda z: tree.add_scaled(z, -1.0, tree.combine(tree.project(pairs.vectors, z), pairs.vectors))
    z = outside(z)  # at every product: rounding would bring the eigenvectors back
    return outside(tree.add_scaled(tree.scale(value, z), -1.0, matvec(pairs.op, z)))
