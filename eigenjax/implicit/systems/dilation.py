"""Linear systems of the derivative of singular triplets on the complements of their spans.

    [s_i, -A; -A^H, s_i] [x_i; y_i] = [f_i; g_i],    f_i = P_U ubar_i,  g_i = P_V vbar_i,    i = 1 .. k

on the complement: (s_i - H) z_i for the dilation H = [0, A; A^H, 0]. All other singular values are below s_i, or all
above it if the k smallest are known. The first row gives x_i = (f_i + A y_i) / s_i, and then the second is

    P_V (s_i^2 - A^H P_U A) P_V y_i  =  s_i g_i + A^H f_i

These are the definite systems of the k largest or smallest eigenpairs (s_i^2, v_i) of A^H A, solved by `complement` on
the smaller of the two sides. For the largest, with s the largest remaining value, their condition is s_i^2 /
(s_i^2 - s^2). That of the whole system is (s_i + s) / (s_i - s): for s near s_i four times as large, at twice the
steps. The residual of the reduced system is s_i times that of the whole, whose first row has none.

Recycled triplets, A v = theta u and A^H u = theta v + d s, are deflated (`deflation`), with

    A^H A v = theta^2 v + d (theta s)

The squares lose no accuracy: between A and A^H the part along U is projected out. Rounding is eps ||A|| after the first
matvec and eps ||A|| s_i after the second. That is eps ||A|| / s_i of the solution, the same as without squares. A is
divided by its norm estimate, so that no square over- or underflows.

The smallest triplets. The condition is that of A^H A on the complement, ||A||^2 / (s^2 - s_i^2) with s the smallest
remaining value, and the solution has an error of eps times that. If s_i = 0, the two rows separate:

    y_i = -(A^H A)^-1 A^H f_i,    x_i = A z_i,    P_V (-A^H P_U A) P_V z_i = g_i

The left complement of a tall A contains left null vectors too, where x_i is not defined. There it is zero.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems import complement
from eigenjax.implicit.systems.pairs import Pairs, own_gaps
from eigenjax.implicit.systems.triplets import SolvedTriplets, positive, triplet_norm_estimate
from eigenjax.krylov.recycling import RecycledPairs
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.base import matvec as symmetric_matvec
from eigenjax.operators.maps import AdjointMap, RectangularOperator
from eigenjax.operators.rectangular import Dilation, adjoint_matvec, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.orthogonalize import project_out, project_out_of_vector
from eigenjax.vectors.tree import PyTree

# A right-hand side of the reduced system below this times eps of the vector that it is projected from is zero.
_NEGLIGIBLE = 16.0


class TripletSolution(NamedTuple):
    """Solutions z_i = (x_i, y_i) of k systems, with convergence information."""

    vectors: PyTree  # (x, y), with a leading axis k on every leaf
    residuals: jax.Array  # (k,) residuals of the whole systems, estimated by the recurrence
    targets: jax.Array  # (k,) targets of these residuals
    num_steps: jax.Array  # (k,) int32, matvecs with A, and as many with A^H


def solve_dilation(solved: SolvedTriplets, bars: PyTree, max_iter: int | None) -> PyTree:
    """Compute (X, Y) for all triplets together, differentiable to any order in both directions.

    With a norm estimate c of A, the system is [P (s_i - H) P + c (I - P)] z_i = P zbar_i for P = diag(P_U, P_V). It has
    the same solution, is symmetric and nonsingular, and holds to first order when A, U and V vary. A derivative of z_i
    may leave the range of P, which the singular system would exclude.
    """
    norm_estimate, inside = triplet_norm_estimate(solved), functools.partial(_inside, solved)

    def apply(z):
        return jax.tree.map(lambda x, y: x + norm_estimate.astype(x.dtype) * y, shifted(solved, z), inside(z))

    def solve(_, rhs):
        along = jax.vmap(functools.partial(tree.scale, 1 / norm_estimate))(inside(rhs))
        return jax.tree.map(jnp.add, iterate(solved, rhs, max_iter).vectors, along)

    # The transpose of a Hermitian map is its conjugate.
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    is_complex = jnp.issubdtype(tree.accumulation_dtype((solved.left, solved.right)), jnp.complexfloating)
    transposed = (lambda vecmat, rhs: conjugate(solve(vecmat, conjugate(rhs)))) if is_complex else None
    # Before and after the solve, for the derivatives. If the triplets are the smallest, all null vectors are known.
    defined = jnp.ones_like(solved.values) if solved.are_smallest else positive(solved)
    masked = functools.partial(jax.vmap(tree.scale), defined)
    # Solve for whole vectors, because the solve uses their norms. Then remove the part within the span.
    solution = jax.lax.custom_linear_solve(apply, masked(bars), solve, transposed, symmetric=not is_complex)
    return masked(outside(solved, solution))


def outside(solved: SolvedTriplets, z: PyTree) -> PyTree:
    """Compute P z for k pairs of vectors."""
    return project_out(solved.left, z[0]), project_out(solved.right, z[1])


def shifted(solved: SolvedTriplets, z: PyTree) -> PyTree:
    """Compute P (s_i - H) P z_i."""
    z = outside(solved, z)
    images = jax.vmap(functools.partial(symmetric_matvec, Dilation(solved.op)))(z)
    residual = lambda value, z, image: tree.add_scaled(tree.scale(value, z), -1.0, image)
    return outside(solved, jax.vmap(residual)(solved.values, z, images))


def iterate(solved: SolvedTriplets, bars: PyTree, max_iter: int | None) -> TripletSolution:
    """Compute the solutions on the complement, without derivatives, by systems on the smaller side."""
    is_wide = solved.op.shape[0] < solved.op.shape[1]
    other_way = (lambda pair: pair[::-1]) if is_wide else (lambda pair: pair)
    op = AdjointMap(solved.op) if is_wide else solved.op
    left, right = other_way((solved.left, solved.right))
    f, g = other_way(outside(solved, bars))
    reduced = _Reduced(op, left, triplet_norm_estimate(solved))
    values, floors = solved.values / reduced.norm_estimate, _floors(bars)
    lengths = jnp.hypot(tree.norms(f), tree.norms(g))
    if op.shape[1] == values.shape[0]:  # the span is all of the smaller side
        y, none = jax.tree.map(jnp.zeros_like, g), jnp.zeros_like(values)
        found = _Reduction(y, none, none, jnp.zeros(values.shape, jnp.int32))
        x = _over_values(solved, f)
    else:
        solve = functools.partial(_of_smaller_side, solved, reduced, right, whole=lengths, max_iter=max_iter)
        rhs = jax.tree.map(jnp.add, jax.vmap(tree.scale)(values, g), jax.vmap(reduced.backward)(f))
        if solved.are_smallest:
            found = solve(rhs, factors=jnp.where(positive(solved) > 0, values, 1), cutoffs=floors)
        else:
            rhs = jax.vmap(tree.scale)(positive(solved), rhs)
            found = solve(rhs, factors=values, cutoffs=values * floors)
        x = _over_values(solved, jax.tree.map(jnp.add, f, jax.vmap(reduced.forward)(found.solution)))
        if solved.are_smallest:
            x, found = _with_null_vectors(solved, reduced, x, found, g, functools.partial(solve, cutoffs=floors))
    y = jax.vmap(functools.partial(tree.scale, 1 / reduced.norm_estimate))(found.solution)
    steps = jnp.where(lengths > floors, found.steps + 1, 0)
    return TripletSolution(other_way((x, y)), found.residuals, found.targets, steps)


class _Reduction(NamedTuple):
    """Solutions of the reduced systems, times the scale."""

    solution: PyTree  # (k, ...)
    residuals: jax.Array  # (k,) residuals of the whole systems
    targets: jax.Array  # (k,) targets of these residuals
    steps: jax.Array  # (k,) int32


def _over_values(solved: SolvedTriplets, x: PyTree) -> PyTree:
    """Divide k vectors by the singular values; those of the value zero become zero."""
    return jax.vmap(tree.scale)(safe_divide(positive(solved), solved.values), x)


def _with_null_vectors(
    solved: SolvedTriplets, reduced: "_Reduced", x: PyTree, found: _Reduction, g: PyTree, solve: Any
) -> tuple[PyTree, _Reduction]:
    """Add x_i = A z_i of the triplets with the value zero to x, and its convergence information."""
    is_zero = (positive(solved) == 0).astype(solved.values.dtype)
    null = solve(jax.vmap(tree.scale)(is_zero, g), factors=jnp.ones_like(solved.values))
    along = jax.vmap(reduced.forward)(null.solution)
    x = jax.vmap(tree.add_scaled, in_axes=(0, None, 0))(x, 1 / reduced.norm_estimate, along)
    residuals, targets = jnp.hypot(found.residuals, null.residuals), jnp.hypot(found.targets, null.targets)
    return x, _Reduction(found.solution, residuals, targets, found.steps + null.steps)


def _of_smaller_side(
    solved: SolvedTriplets,
    reduced: "_Reduced",
    right: PyTree,
    rhs: PyTree,
    *,
    factors: jax.Array,
    whole: jax.Array,
    cutoffs: jax.Array,
    max_iter: int | None,
) -> _Reduction:
    """Solve the reduced systems.

    Args:
        solved: the triplets.
        reduced: A^H P_U A over the square of the scale.
        right: V.
        rhs: k right-hand sides.
        factors: (k,) residuals of the reduced systems over those of the whole.
        whole: (k,) norms of the right-hand sides of the whole systems.
        cutoffs: (k,) norms of right-hand sides below which they are rounding.
        max_iter: maximal number of steps.
    """
    rhs = project_out(right, rhs)
    lengths = tree.norms(rhs)
    nonzero = lengths > cutoffs
    rhs = jax.vmap(tree.scale)(nonzero.astype(lengths.dtype), rhs)
    pairs, recycled = _pairs(solved, reduced, right), _squared(solved.recycled, reduced.norm_estimate)
    of_reduced = safe_divide(factors * whole, lengths, where=nonzero, otherwise=0)
    tol = None if solved.adjoint_tol is None else solved.adjoint_tol * of_reduced
    found = complement.iterate(pairs, rhs, recycled=recycled, adjoint_tol=tol, max_iter=max_iter, definite=True)
    solution = project_out(right, found.solution)
    asked = complement.asked(found, pairs, solution, jnp.where(nonzero, lengths, 0), jnp.zeros_like(lengths), tol)
    of_whole = safe_divide(1, factors, where=nonzero, otherwise=0)
    return _Reduction(solution, found.residual * of_whole, asked * of_whole, found.num_matvecs)


def _pairs(solved: SolvedTriplets, reduced: "_Reduced", right: PyTree) -> Pairs:
    """Build the eigenpairs of A^H A over the square of the scale."""
    values, residuals = solved.values / reduced.norm_estimate, solved.residuals / reduced.norm_estimate
    nearest, is_separated = _nearest(solved, values, reduced.norm_estimate)
    gaps = None
    if solved.recycled is not None:
        gap = jnp.where(is_separated, jnp.abs((values[-1] - nearest) * (values[-1] + nearest)), 0)
        gaps = own_gaps(jnp.square(values), gap, "SA" if solved.are_smallest else "LA")
    # Over the gap of the squares this is r_i / |s_i - s|, the error of a triplet.
    residuals = residuals * (values + nearest)
    if solved.are_smallest:
        # A over s_i multiplies an error of y_i in x_i.
        sizes, residuals = jnp.ones_like(values), residuals * values
    else:
        sizes = values * jnp.max(values)
    return Pairs(reduced, jnp.square(values), right, residuals, gaps, sizes=sizes)


def _nearest(solved: SolvedTriplets, values: jax.Array, norm_estimate: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the recycled value nearest to the k values over the scale, (), and whether it is beyond all of them."""
    if solved.recycled is None:
        return jnp.zeros_like(values[0]), jnp.zeros((), bool)
    valid = jnp.any(solved.recycled.coefficients != 0, axis=0)
    others = solved.recycled.values / norm_estimate
    if not solved.are_smallest:
        nearest = jnp.max(jnp.where(valid, others, 0), initial=0)
        return nearest, jnp.any(valid) & (nearest < values[-1])
    nearest = jnp.where(jnp.any(valid), jnp.min(jnp.where(valid, others, jnp.inf), initial=jnp.inf), values[-1])
    return nearest, nearest > values[-1]


def _squared(recycled: RecycledPairs | None, norm_estimate: jax.Array) -> RecycledPairs | None:
    """Convert recycled triplets of A to recycled Ritz pairs of A^H A over the square of the scale."""
    if recycled is None:
        return None
    recycled = jax.lax.stop_gradient(recycled)
    values = recycled.values / norm_estimate
    # Not the values over the scale again: the compiler merges two divisions into one by a square that underflows.
    coupling, dtype = recycled.coupling, recycled.coupling.dtype
    coupling = coupling / norm_estimate.astype(dtype) * values.astype(dtype)[None, :]
    return recycled._replace(values=jnp.square(values), coupling=coupling)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Reduced(LinearOperator):
    """Operator A^H P_U A over the square of a scale."""

    map: RectangularOperator  # A
    left: Any  # U
    norm_estimate: jax.Array  # () the largest singular value

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors that A takes, in working dtypes."""
        return tree.working_structure(self.map.domain)

    def mv(self, vector: PyTree) -> PyTree:
        return self.backward(self.forward(vector))

    def forward(self, vector: PyTree) -> PyTree:
        """Compute P_U A v over the scale."""
        image = tree.scale(1 / self.norm_estimate, matvec(self.map, vector))
        return project_out_of_vector(self.left, image)

    def backward(self, vector: PyTree) -> PyTree:
        """Compute A^H u over the scale."""
        return tree.scale(1 / self.norm_estimate, adjoint_matvec(self.map, vector))


def _inside(solved: SolvedTriplets, z: PyTree) -> PyTree:
    """Project k pairs of vectors onto the spans of U and V."""
    spans = zip((solved.left, solved.right), z, strict=True)
    return tuple(tree.combine(tree.gram(vectors, block), vectors) for vectors, block in spans)


def _floors(bars: PyTree) -> jax.Array:
    """Compute (k,) norms below which a projected right-hand side is rounding of a vector within the spans."""
    lengths = jnp.hypot(tree.norms(bars[0]), tree.norms(bars[1]))
    return _NEGLIGIBLE * jnp.finfo(lengths.dtype).eps * lengths
