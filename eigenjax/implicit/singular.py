"""Derivative of singular triplets.

Differentiate A v_i = s_i u_i, A^H u_i = s_i v_i and the orthonormality of both, with U = [u_1 .. u_k] and
V = [v_1 .. v_k], D = U^H dA V and the projections P_U = I - U U^H, P_V = I - V V^H:

    d s_i = Re D_ii
    u_j^H du_i + v_j^H dv_i = (D_ji + conj D_ij) / (s_i - s_j)
    u_j^H du_i - v_j^H dv_i = (D_ji - conj D_ij) / (s_i + s_j)
    [s_i, -A; -A^H, s_i] [P_U du_i; P_V dv_i] = [P_U dA v_i; P_V dA^H u_i]

so that for cotangents (Ubar, sbar, Vbar), with aU and aV the antihermitian parts of U^H Ubar and V^H Vbar,

    Re sum_i <ubar_i, du_i> + sbar_i ds_i + <vbar_i, dv_i>  =  Re sum_i <w_i, dA v_i> + <u_i, dA y_i>
    W = U M + X,    M_ji = (aU + aV)_ji / (s_i - s_j) + (aU - aV)_ji / (s_i + s_j) + sbar_i delta_ij
    [s_i, -A; -A^H, s_i] [x_i; y_i] = [P_U ubar_i; P_V vbar_i]

(with j = i in the second term of M, the phase between u and v, but not in the first, their common phase). The cotangent
of A is sum_i w_i v_i^H + u_i y_i^H. It is never formed: W and U are pulled back through the map from the operator's
leaves to A V and A Y. The adjoint of the operator is used, but not differentiated.

Tangents use the same denominators and systems: du_i = sum_j u_j N_ji + x_i with
N = ((D + D^H) / (s_i - s_j) + (D - D^H) / (s_i + s_j)) / 2. For dv_i the second term has the opposite sign. The
right-hand sides are [P_U dA v_i; P_V dA^H u_i], where the adjoint is differentiated.

The first term is zero within clusters, and the second where both values are zero. Of the largest triplets, x_i and y_i
are zero where s_i is. A loss that does not depend on the choice of vectors there gets its exact gradient; no other
gradient is defined. Of the smallest triplets all null vectors of the smaller side are known, so that their projector
has a derivative: y_i for a tall A, and x_i too for a square one. For a tall A the left null vectors are a part of a
larger null space, and have no derivative along it. A zero value of a tall A is not differentiable: the derivative is
that along the left vector returned.

Cost besides the forward solve: one pull-back through k matvecs. If the loss depends on the vectors, add one through k
more, and the conjugate gradient steps on the complement (`systems.dilation`), each with a matvec with A and one with
A^H.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.implicit.differentiable import conjugated
from eigenjax.implicit.phases import are_complex, at_fixed_phase
from eigenjax.implicit.program import Method, Rule
from eigenjax.implicit.systems.dilation import solve_dilation
from eigenjax.implicit.systems.pairs import without_rounding
from eigenjax.implicit.systems.tangents import all_zero, is_zero, pull_back, tangent_along
from eigenjax.implicit.systems.triplets import SolvedTriplets, antihermitian, norm_of, reciprocal_gaps
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.packed import PackedMap, packed_map, unpacked
from eigenjax.operators.rectangular import adjoint_matvec, as_rectangular, matvec
from eigenjax.result import SingularResult
from eigenjax.solvers.start import given_vector
from eigenjax.vectors import tree
from eigenjax.vectors.packing import Packing
from eigenjax.vectors.tree import PyTree


def _rectangular(op: Any, options: dict[str, Any]) -> RectangularOperator:
    like = options.pop("like")
    return as_rectangular(op, like=options["v0"] if like is None else like, adjoint=options.pop("adjoint"))


def _pack(op: RectangularOperator, traced: dict[str, Any]) -> tuple[RectangularOperator, dict[str, Any]]:
    packed_op = packed_map(op, traced)
    if isinstance(packed_op, PackedMap) and packed_op.input_packing and traced["v0"] is not None:
        traced = traced | {"v0": _packed_start(op, traced["v0"], packed_op.input_packing)}
    return packed_op, traced


@functools.partial(jax.jit, static_argnums=2)
def _packed_start(op: RectangularOperator, v0: PyTree, packing: Packing) -> PyTree:
    return packing.pack(given_vector(v0, op.domain))


def _save(
    method: Method, op: RectangularOperator, solved: WithRecycled[SingularResult], adjoint_tol: Any
) -> SolvedTriplets:
    result = solved.result
    norm = norm_of(jax.lax.stop_gradient(op), result.residuals.dtype) if method.chosen == "SM" else None
    triplets = (result.left, result.values, result.right, result.residuals)
    return SolvedTriplets(op, *triplets, adjoint_tol, solved.recycled, norm)


def _cotangent(method: Method, solved: SolvedTriplets, cotangent: SingularResult) -> RectangularOperator:
    values_bar = conjugated(cotangent.values, solved.values)
    vectors, weights = solved.right, jax.vmap(tree.scale)(values_bar, solved.left)
    bars, pair = (cotangent.left, cotangent.right), (solved.left, solved.right)
    if not all_zero(bars):
        bars = jax.tree.map(conjugated, bars, pair, is_leaf=is_zero)
        weights = jax.tree.map(jnp.add, weights, tree.combine(_inner_coefficients(solved, *bars), solved.left))
        if _has_complement(solved):
            x, y = solve_dilation(solved, bars, method.adjoint_max_iter)
            weights = jax.tree.map(jnp.add, weights, x)
            stacked = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a, b]))
            vectors, weights = stacked(solved.right, y), stacked(weights, solved.left)
    return pull_back(matvec, solved.op, vectors, jax.tree.map(jnp.conj, weights))


def _tangent(method: Method, solved: SolvedTriplets, op_dot: Any) -> dict[str, Any] | None:
    both = functools.partial(_both_images, left=solved.left, right=solved.right)
    images = tangent_along(both, solved.op, op_dot)
    if images is None:
        return None
    inner = tree.gram(solved.left, images[0])
    over_differences, over_sums = reciprocal_gaps(solved, inner.dtype)
    conjugate = jnp.conj(inner).T
    minus, plus = (inner - conjugate) * over_sums, (inner + conjugate) * over_differences
    left = tree.combine((plus + minus) / 2, solved.left)
    right = tree.combine((plus - minus) / 2, solved.right)
    if _has_complement(solved):
        complement = solve_dilation(solved, images, method.adjoint_max_iter)
        left, right = jax.tree.map(jnp.add, (left, right), complement)
    return {"left": left, "values": jnp.diagonal(inner).real.astype(solved.values.dtype), "right": right}


def _finish(method: Method, op: Any, traced: dict[str, Any], result: SingularResult) -> SingularResult:
    del method, traced
    if are_complex(result.right):
        result = _at_fixed_phases(result)
    if not isinstance(op, PackedMap):
        return result
    left, right = unpacked(result.left, op.output_packing), unpacked(result.right, op.input_packing)
    return result._replace(left=left, right=right)


@jax.jit
def _at_fixed_phases(result: SingularResult) -> SingularResult:
    # The left and right vectors of a triplet share one phase; the solver fixes it by the right vector.
    right, left = at_fixed_phase(result.right, along=result.left)
    return result._replace(left=left, right=right)


RULE = Rule(_rectangular, _pack, _save, _cotangent, _tangent, _finish)


def _has_complement(solved: SolvedTriplets) -> bool:
    return solved.values.shape[0] < max(solved.op.shape)


def _both_images(op: RectangularOperator, *, left: PyTree, right: PyTree) -> PyTree:
    """Compute A V and A^H U."""
    return jax.vmap(functools.partial(matvec, op))(right), jax.vmap(functools.partial(adjoint_matvec, op))(left)


def _inner_coefficients(solved: SolvedTriplets, left_bar: PyTree, right_bar: PyTree) -> jax.Array:
    """Compute (k, k) M without the term of the singular values."""
    aU, aV = (antihermitian(tree.gram(*x)) for x in ((solved.left, left_bar), (solved.right, right_bar)))
    over_differences, over_sums = reciprocal_gaps(solved, aU.dtype)
    norms = jnp.hypot(tree.norms(left_bar), tree.norms(right_bar))
    return without_rounding(aU + aV, norms) * over_differences + without_rounding(aU - aV, norms) * over_sums
