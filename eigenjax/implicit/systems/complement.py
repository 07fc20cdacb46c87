"""Linear systems of the derivative of eigenvectors on the complement of their span.

    P (lambda_i - A) P z_i  +  sum_j z_j E_ji  =  P b_i,    P = I - X X^H,    i = 1 .. k

with E the coupling within clusters (`pairs`), zero except for its derivative. The map is the same for tangents and
cotangents. If the pairs are at one or both ends of the spectrum, or of largest magnitude, no computed eigenvalue lies
among the others. The systems are then definite, of either sign, and conjugate gradients solve them. For interior
eigenvalues MINRES solves them, with three more vectors per system (`stages`).

All k systems are solved simultaneously, with one block matvec of k vectors per step: the fewest steps. This takes
4 k + 11 vectors, 8 k + 11 with MINRES, including those of the matvec. If k vectors exceed a cache, memory dominates,
and a matvec of a few vectors uses a device as fully as one of all. Then the systems are solved in three parts, five
with MINRES, one after another (`groups`), in at most 3 k + 8 vectors: 30 for k = 10, and 28 with MINRES. Each takes the
same matvecs and does not wait for slower ones; the steps add up, to three times as many with MINRES. Recurrences with
fewer vectors do not help: conjugate residuals take 5 k and break down where <r, A r> = 0, SYMMLQ takes 5 k.

The tolerance follows from the accuracy of the pairs. A pair with residual r_i is an exact pair of A + dA with
||dA|| <= r_i. So b_i and z_i are accurate to a relative r_i / g_i only, with g_i the gap of pair i to the remaining
eigenvalues, and

    e  =  (sum_i min(1, r_i / g_i)^2 ||z_i||^2)^1/2

is the error of sum_i z_i x_i^H that the pairs alone cause. System i is solved to ||residual_i|| <= g_i e / k^1/2, which
adds at most e. The same bound on the least residual in the Krylov space suffices (`conjugate_gradients`; it saves a
seventh of the matvecs on a 2-D Laplacian). The first of many pairs at the end of a spectrum has a much larger gap than
the last, and takes fewer matvecs. Without a known gap the bound is ||residual_i|| <= r_i ||z_i|| / k^1/2, which is no
looser.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems import deflation, stages
from eigenjax.implicit.systems.deflation import Deflation
from eigenjax.implicit.systems.groups import in_groups, in_turn
from eigenjax.implicit.systems.pairs import Pairs, cluster_coupling
from eigenjax.krylov.recycling import RecycledPairs
from eigenjax.operators.base import matvec
from eigenjax.solvers.linear.conjugate_gradients import conjugate_gradients_together
from eigenjax.solvers.linear.minres import LinearSolution, minres_together
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import positive_or_one, safe_divide
from eigenjax.vectors.orthogonalize import project_out
from eigenjax.vectors.tree import PyTree

# For pairs selected by these rules the shifted operator is definite on the complement.
OUTERMOST = ("LA", "SA", "LM", "BE")
# The linear solves add at most this share of the error of the pairs. (Only residuals along the nearest eigenvector
# reach that bound; measured is a fiftieth of it to all. The gap is that to a Ritz value, and may be slightly too
# small.)
_SHARE = 1.0
# A projected right-hand side below this times eps of the whole is zero.
_NEGLIGIBLE = 16.0
# No residual can be reduced below this times eps ||A|| ||z||.
_ATTAINABLE = 1.0
# Maximal number of matvecs for one system: in exact arithmetic n suffice.
_PRODUCTS_PER_DIMENSION = 10
_PRODUCTS = 10_000
# Bytes of k vectors up to which all systems are solved simultaneously, as little memory could be saved. Above, a matvec
# of a few vectors uses a device as fully as one of all, and the systems are solved in this number of parts.
_ALL_AT_ONCE = 2**25
_PARTS, _PARTS_DEFINITE = 5, 3


def solve_complement(
    pairs: Pairs,
    inside: jax.Array,
    rhs: PyTree,
    *,
    recycled: RecycledPairs | None,
    adjoint_tol: Any,
    max_iter: int | None,
    definite: bool,
) -> PyTree:
    """Compute X inside + Z, differentiable to any order in both directions.

    The system is solved as  [P (lambda_i - A) P + s X X^H] z_i + .. = P b_i  with a norm estimate s of A. It has the
    same solution, is symmetric and nonsingular, and holds to first order when A and X vary. A derivative of z_i may
    leave the range of P, which the singular system would exclude.

    Args:
        pairs: all n pairs, which leave no complement, or fewer.
        inside: (k, k) coefficients of the part within the span of X.
        rhs: k vectors b_i.
        recycled: recycled Ritz pairs of the forward solve, to be deflated.
        adjoint_tol: residual relative to P b_i; None uses the bound of the module docstring.
        max_iter: maximal number of matvecs for one pair; None is min(10 n, 10,000).
        definite: the pairs are outermost, so that conjugate gradients apply.
    """
    vectors, norm_estimate = pairs.vectors, norm_estimate_of(pairs)
    if pairs.eigenvalues.shape[0] == pairs.op.size:
        return tree.combine(inside, vectors)

    def system(z):
        images = project_out(vectors, _shifted(pairs, project_out(vectors, z)))
        inside = tree.combine(tree.gram(vectors, z), vectors)
        coupled = tree.combine(cluster_coupling(pairs), z)
        return jax.tree.map(lambda x, y, t: x + norm_estimate.astype(x.dtype) * y + t, images, inside, coupled)

    def solve(_, rhs):
        found = iterate(pairs, rhs, recycled=recycled, adjoint_tol=adjoint_tol, max_iter=max_iter, definite=definite)
        given = tree.gram(vectors, rhs)
        return _with_inside(vectors, found.solution, given / norm_estimate.astype(given.dtype))

    # The transpose of a Hermitian map is its conjugate.
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    is_complex = jnp.issubdtype(tree.accumulation_dtype(vectors), jnp.complexfloating)
    transposed = (lambda vecmat, rhs: conjugate(solve(vecmat, conjugate(rhs)))) if is_complex else None
    # Solve for all of b_i, because `iterate` uses its norm. Then replace the part of the solution within the span of X.
    solution = jax.lax.custom_linear_solve(system, rhs, solve, transposed, symmetric=not is_complex)
    return _with_inside(vectors, solution, inside)


def _with_inside(vectors: PyTree, block: PyTree, inside: jax.Array) -> PyTree:
    """Compute X inside + P block in one sum, so that the part inside is not stored during the solve."""
    return jax.tree.map(jnp.add, block, tree.combine(inside - tree.gram(vectors, block), vectors))


def iterate(
    pairs: Pairs,
    rhs: PyTree,
    *,
    recycled: RecycledPairs | None = None,
    adjoint_tol: Any,
    max_iter: int | None,
    definite: bool = False,
) -> LinearSolution:
    """Compute the k solutions without derivatives, with their convergence information."""
    floors = negligible(rhs)
    rhs = in_groups(functools.partial(project_out, pairs.vectors), rhs)
    max_iter = max_iter or min(_PRODUCTS_PER_DIMENSION * pairs.op.size, _PRODUCTS)
    # A given tolerance bounds residuals; the default bounds errors, times the gap.
    by_error = adjoint_tol is None and pairs.gaps is not None
    stop_at = targets(pairs, tree.norms(rhs), floors, adjoint_tol)
    part = None if recycled is None else deflation.deflate(pairs, recycled)
    size = _side_by_side(pairs, definite)

    options = {"max_iter": max_iter, "definite": definite, "by_error": by_error}
    solve = functools.partial(_solve_group, pairs, part, size, **options)
    if size >= pairs.eigenvalues.shape[0]:
        return solve(jnp.zeros((), jnp.int32), rhs, stop_at)
    return in_turn(solve, rhs, targets=stop_at, size=size)


def _side_by_side(pairs: Pairs, definite: bool) -> int:
    """Compute the number of systems that are solved simultaneously."""
    k = pairs.eigenvalues.shape[0]
    bytes_of_all = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pairs.vectors))
    parts = 1 if bytes_of_all <= _ALL_AT_ONCE else (_PARTS_DEFINITE if definite else _PARTS)
    return -(-k // parts)


def _solve_group(
    pairs: Pairs,
    part: Deflation | None,
    size: int,
    first: jax.Array,
    rhs: PyTree,
    stop_at: Callable[[jax.Array], jax.Array],
    *,
    max_iter: int,
    definite: bool,
    by_error: bool,
) -> LinearSolution:
    """Solve `size` of the systems simultaneously, from the one with index `first`."""
    of_group = lambda x: jax.lax.dynamic_slice_in_dim(x, first, size)
    pairs = pairs._replace(eigenvalues=of_group(pairs.eigenvalues), sizes=of_group(sizes_of(pairs)))
    part = part and part._replace(inverses=of_group(part.inverses), used=of_group(part.used))
    norms = sizes_of(pairs)
    # At every matvec: rounding would bring the eigenvectors back.
    system = lambda z: in_groups(functools.partial(project_out, pairs.vectors), _shifted(pairs, z))
    if part is not None:  # with U deflated, the systems of `deflation`
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
    """Return a function from the (k,) norms of the solutions to the residuals to stop at."""
    numbers = (pairs.eigenvalues, pairs.residuals, pairs.gaps, sizes_of(pairs), lengths, floors, adjoint_tol)
    eigenvalues, residuals, gaps, sizes, lengths, floors, adjoint_tol = jax.lax.stop_gradient(numbers)
    norm_estimate = jnp.maximum(jnp.max(jnp.abs(eigenvalues)), jnp.max(sizes))
    if adjoint_tol is not None:
        asked = jnp.asarray(adjoint_tol).astype(lengths.dtype) * lengths
        return lambda _: jnp.maximum(asked, floors)
    unit = _ATTAINABLE * jnp.finfo(norm_estimate.dtype).eps * sizes
    of_each = _SHARE / lengths.shape[0] ** 0.5

    def from_solutions(norms):
        if gaps is None:
            allowed = of_each * residuals * norms
        else:
            # No gap within A exceeds 2 ||A||, and one below the residuals is not certain.
            bounded_gaps = jnp.clip(gaps, jnp.max(residuals), 2 * norm_estimate)
            share = jnp.minimum(1, safe_divide(residuals, bounded_gaps))
            allowed = of_each * bounded_gaps * tree.norm(share * norms)
        return jnp.maximum(jnp.maximum(allowed, unit * norms), floors)

    return from_solutions


def asked(
    found: LinearSolution, pairs: Pairs, solutions: PyTree, lengths: jax.Array, floors: jax.Array, adjoint_tol: Any
) -> jax.Array:
    """Compute (k,) targets of the residuals, which are larger than the targets of errors."""
    longer = safe_divide(found.residual, found.tested, otherwise=1)
    return targets(pairs, lengths, floors, adjoint_tol)(tree.norms(solutions)) * longer


def norm_estimate_of(pairs: Pairs) -> jax.Array:
    """Compute () the norm estimate s: the largest |lambda|, or one if that is zero."""
    return positive_or_one(jax.lax.stop_gradient(jnp.max(jnp.abs(pairs.eigenvalues))))


def sizes_of(pairs: Pairs) -> jax.Array:
    """Compute (k,) the norms that the rounding of the matvecs is relative to."""
    sizes = norm_estimate_of(pairs) if pairs.sizes is None else jax.lax.stop_gradient(pairs.sizes)
    return jnp.broadcast_to(sizes, pairs.eigenvalues.shape)


def negligible(rhs: PyTree) -> jax.Array:
    """Compute (k,) norms below which a projected right-hand side is rounding of a vector within the span of X."""
    lengths = tree.norms(jax.lax.stop_gradient(rhs))
    return _NEGLIGIBLE * jnp.finfo(lengths.dtype).eps * lengths


def _shifted(pairs: Pairs, z: PyTree) -> PyTree:
    """Compute (lambda_i - A) z_i."""
    images = jax.vmap(functools.partial(matvec, pairs.op))(z)
    residual = lambda value, z, image: tree.add_scaled(tree.scale(value, z), -1.0, image)
    return jax.vmap(residual)(pairs.eigenvalues, z, images)
