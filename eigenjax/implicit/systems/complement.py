"""The linear systems of the derivative: what the eigenvectors do outside their own span.

    P (lambda_i - A) P z_i  +  sum_j z_j E_ji  =  P b_i,    P = I - X X^H,    i = 1 .. k

with E the coupling within clusters (`pairs`), zero but for its derivative. It is the same map for tangents and for
cotangents. Of the pairs at one end of the spectrum, at both, or of largest magnitude none lies among what is left out:
what is left is definite, of one sign or the other, and conjugate gradients solve it. For pairs near a number MINRES,
which holds three vectors more a system (`rounds`).

All k systems go side by side, one product of k vectors a step: the fewest steps. That holds 4 k + 11 vectors, 8 k + 11
with MINRES, those of the product among them. Where k vectors are more than a cache holds, memory is what counts, and a
product of a few is as busy as one of all: then the systems go in three parts, with MINRES in five, one after another
(`groups`), in no more than 3 k + 8 vectors: 30 for k = 10, and 28 with MINRES. Each takes the products it took, and
does not wait for those that are slower; the steps add up, with MINRES to three times as many. Recurrences with fewer
vectors are no way to get there: conjugate residuals hold 5 k and break down where <r, A r> = 0, SYMMLQ holds 5 k.

How well to solve. The pair itself is known to within its residual r_i: it is an exact pair of A + dA with
||dA|| <= r_i. So b_i and z_i mean nothing below a relative r_i / g_i, g_i its own gap to the eigenvalues left out, and

    e  =  (sum_i min(1, r_i / g_i)^2 ||z_i||^2)^1/2

is the error of the whole sum_i z_i x_i^H that comes of the pairs alone. System i is solved to
||rest_i|| <= g_i e / k^1/2, which adds e at most; and so does it if that is said of the least residual there is in the
Krylov space (`conjugate_gradients`; on a 2-D Laplacian it saves a seventh of the products). The first of many pairs at
the end of a spectrum has a much larger gap than the last, and needs fewer products. Where no gap is known, to
||rest_i|| <= r_i ||z_i|| / k^1/2, which is no looser.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems import deflation, stages
from eigenjax.implicit.systems.deflation import Elimination
from eigenjax.implicit.systems.groups import in_groups, in_turn
from eigenjax.implicit.systems.pairs import Pairs, cluster_coupling
from eigenjax.krylov.recycling import Remainder
from eigenjax.operators.base import matvec
from eigenjax.solvers.linear.conjugate_gradients import conjugate_gradients_together
from eigenjax.solvers.linear.minres import LinearSolution, minres_together
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Of pairs chosen so, the shifted operator is definite on the complement.
OUTERMOST = ("LA", "SA", "LM", "BE")
# The linear solves add at most this share of the error that the pairs make. (That bound is reached by residuals along
# the nearest eigenvalue alone; measured is a fiftieth of it to all. The gap is that to a
# Ritz value, and may be a little less.)
_SHARE = 1.0
# A projected right-hand side below so many units of rounding of the whole is zero.
_NEGLIGIBLE = 16.0
# Nor can a residual be made smaller than so many units of rounding of ||A|| ||z||.
_ATTAINABLE = 1.0
# Products that one system may take: in exact arithmetic n suffice.
_PRODUCTS_PER_DIMENSION = 10
_PRODUCTS = 10_000
# Bytes of k vectors up to which all systems go side by side: there is little memory to be saved. Above, a product of
# a few vectors keeps a machine as busy as one of all, and the systems go in so many parts, one after another.
_ALL_AT_ONCE = 2**25
_PARTS, _PARTS_DEFINITE = 5, 3


def solve_complement(
    pairs: Pairs,
    inside: jax.Array,
    rhs: PyTree,
    *,
    known: Remainder | None,
    adjoint_tol: Any,
    max_iter: int | None,
    definite: bool,
) -> PyTree:
    """X inside + Z, differentiable to any order in both directions.

    The system is solved as  [P (lambda_i - A) P + s X X^H] z_i + .. = P b_i  with a scale s of A. It has the same
    solution, is symmetric and not singular, and stays true to first order when A and X vary: a derivative of z_i may
    leave the range of P, which the singular system would not let it.

    Args:
        pairs: fewer than n.
        inside: (k, k) what to add within the span of X.
        rhs: k vectors b_i.
        known: what the forward solve has left over, to be eliminated.
        adjoint_tol: residual relative to P b_i; None is as above.
        max_iter: products for one pair; None is 10 n, at most 10,000.
        definite: whether the pairs are outermost, so that conjugate gradients will do.
    """
    vectors, scale = pairs.vectors, scale_of(pairs)

    def system(z):
        images = project_out(vectors, _shifted(pairs, project_out(vectors, z)))
        inside = tree.combine(tree.gram(vectors, z), vectors)
        turned = tree.combine(cluster_coupling(pairs), z)
        return jax.tree.map(lambda x, y, t: x + scale.astype(x.dtype) * y + t, images, inside, turned)

    def solve(_, rhs):
        found = iterate(pairs, rhs, known=known, adjoint_tol=adjoint_tol, max_iter=max_iter, definite=definite)
        given = tree.gram(vectors, rhs)
        return _with_inside(vectors, found.solution, given / scale.astype(given.dtype))

    # The transpose of a Hermitian map is its conjugate.
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    is_complex = jnp.issubdtype(tree.accumulation_dtype(vectors), jnp.complexfloating)
    transposed = (lambda vecmat, rhs: conjugate(solve(vecmat, conjugate(rhs)))) if is_complex else None
    # What b_i has within the span of X goes through, for `iterate` to see how large the whole was, and is taken out.
    whole = jax.lax.custom_linear_solve(system, rhs, solve, transposed, symmetric=not is_complex)
    return _with_inside(vectors, whole, inside)


def _with_inside(vectors: PyTree, block: PyTree, inside: jax.Array) -> PyTree:
    """X inside + P block: one sum, which can only be taken when the block is there, and is not held until then."""
    return jax.tree.map(jnp.add, block, tree.combine(inside - tree.gram(vectors, block), vectors))


def iterate(
    pairs: Pairs,
    rhs: PyTree,
    *,
    known: Remainder | None = None,
    adjoint_tol: Any,
    max_iter: int | None,
    definite: bool = False,
) -> LinearSolution:
    """The k solutions as they are found, and how it went."""
    floors = negligible(rhs)
    rhs = in_groups(functools.partial(project_out, pairs.vectors), rhs)
    max_iter = max_iter or min(_PRODUCTS_PER_DIMENSION * pairs.op.size, _PRODUCTS)
    # A residual that is asked for is one; what is asked for otherwise is an error, over the gap.
    by_error = adjoint_tol is None and pairs.gaps is not None
    stop_at = targets(pairs, tree.norms(rhs), floors, adjoint_tol)
    part = None if known is None else deflation.elimination(pairs, known)
    size = _side_by_side(pairs, definite)

    def solve(first, rhs, targets):
        of_group = lambda x: jax.lax.dynamic_slice_in_dim(x, first, size)
        few = pairs._replace(eigenvalues=of_group(pairs.eigenvalues), sizes=of_group(sizes_of(pairs)))
        some = part and part._replace(inverses=of_group(part.inverses), used=of_group(part.used))
        return _solve(few, some, rhs, targets, max_iter=max_iter, definite=definite, by_error=by_error)

    return in_turn(solve, rhs, targets=stop_at, size=size)


def _side_by_side(pairs: Pairs, definite: bool) -> int:
    """How many of the k systems are solved at once."""
    k = pairs.eigenvalues.shape[0]
    bytes_of_all = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pairs.vectors))
    parts = 1 if bytes_of_all <= _ALL_AT_ONCE else (_PARTS_DEFINITE if definite else _PARTS)
    return -(-k // parts)


def _solve(
    pairs: Pairs,
    part: Elimination | None,
    rhs: PyTree,
    stop_at: Callable[[jax.Array], jax.Array],
    *,
    max_iter: int,
    definite: bool,
    by_error: bool,
) -> LinearSolution:
    """Some of the systems side by side."""
    norms = sizes_of(pairs)
    # At every product: rounding would bring the eigenvectors back.
    system = lambda z: in_groups(functools.partial(project_out, pairs.vectors), _shifted(pairs, z))
    if part is not None:  # with U eliminated, the systems of `elimination`
        known_norms = norms if definite else None
        return stages.solve(
            system, part, rhs, targets=stop_at, max_iter=max_iter, operator_norm=known_norms, by_error=by_error
        )
    stop = lambda z: stop_at(tree.norms(z))
    if not definite:
        return minres_together(system, rhs, targets=stop, max_iter=max_iter)
    return conjugate_gradients_together(
        system, rhs, targets=stop, max_iter=max_iter, operator_norm=norms, by_error=by_error
    )


def targets(pairs: Pairs, lengths: jax.Array, floors: jax.Array, adjoint_tol: Any) -> Callable[[jax.Array], jax.Array]:
    """How the residuals to stop at follow from the (k,) norms of the solutions."""
    numbers = (pairs.eigenvalues, pairs.residuals, pairs.gaps, sizes_of(pairs), lengths, floors, adjoint_tol)
    eigenvalues, residuals, gaps, sizes, lengths, floors, adjoint_tol = jax.lax.stop_gradient(numbers)
    scale = jnp.max(jnp.abs(eigenvalues))
    if adjoint_tol is not None:
        asked = jnp.asarray(adjoint_tol).astype(lengths.dtype) * lengths
        return lambda _: jnp.maximum(asked, floors)
    unit = _ATTAINABLE * jnp.finfo(scale.dtype).eps * sizes
    of_each = _SHARE / lengths.shape[0] ** 0.5

    def from_solutions(norms):
        if gaps is None:
            allowed = of_each * residuals * norms
        else:
            # No gap within A is more than 2 ||A||, and one below the residuals is not known to be there.
            known = jnp.clip(gaps, jnp.max(residuals), 2 * scale)
            share = jnp.minimum(1, residuals / jnp.where(known > 0, known, 1))
            allowed = of_each * known * tree.norm(share * norms)
        return jnp.maximum(jnp.maximum(allowed, unit * norms), floors)

    return from_solutions


def asked(
    found: LinearSolution, pairs: Pairs, solutions: PyTree, lengths: jax.Array, floors: jax.Array, adjoint_tol: Any
) -> jax.Array:
    """(k,) the residuals that solves were asked for: what is held against a target for an error is less than one."""
    longer = jnp.where(found.judged > 0, found.residual / jnp.where(found.judged > 0, found.judged, 1), 1)
    return targets(pairs, lengths, floors, adjoint_tol)(tree.norms(solutions)) * longer


def scale_of(pairs: Pairs) -> jax.Array:
    """() the largest |lambda|, or one."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(pairs.eigenvalues)))
    return jnp.where(largest > 0, largest, 1)


def sizes_of(pairs: Pairs) -> jax.Array:
    """(k,) the norms that the rounding of products belongs to."""
    sizes = scale_of(pairs) if pairs.sizes is None else jax.lax.stop_gradient(pairs.sizes)
    return jnp.broadcast_to(sizes, pairs.eigenvalues.shape)


def negligible(rhs: PyTree) -> jax.Array:
    """(k,): what the projection leaves of a vector within the span of X is rounding, and not to be solved for."""
    lengths = tree.norms(jax.lax.stop_gradient(rhs))
    return _NEGLIGIBLE * jnp.finfo(lengths.dtype).eps * lengths


def project_out(vectors: PyTree, block: PyTree) -> PyTree:
    """P applied to several vectors."""
    return jax.tree.map(jnp.subtract, block, tree.combine(tree.gram(vectors, block), vectors))


def _shifted(pairs: Pairs, z: PyTree) -> PyTree:
    """(lambda_i - A) z_i."""
    images = jax.vmap(functools.partial(matvec, pairs.op))(z)
    rest = lambda value, z, image: tree.add_scaled(tree.scale(value, z), -1.0, image)
    return jax.vmap(rest)(pairs.eigenvalues, z, images)
