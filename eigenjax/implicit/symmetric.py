"""Derivative of symmetric eigenpairs, the same for every solver.

Differentiate A x_i = lambda_i x_i and <x_i, x_j> = delta_ij, with X = [x_1 .. x_k] and P = I - X X^H:

    d lambda_i = <x_i, dA x_i>
    d x_i      = sum_{j != i} x_j <x_j, dA x_i> / (lambda_i - lambda_j)  +  (P (lambda_i - A) P)^+ P dA x_i

so that for cotangents (lambdabar, Xbar), with G = X^H Xbar, a = (G - G^H) / 2 and F_ji = 1 / (lambda_i - lambda_j),

    Re sum_i lambdabar_i d lambda_i + <xbar_i, d x_i>  =  Re sum_i <w_i, dA x_i>
    W = X (a * F + diag(lambdabar)) + Z,    P (lambda_i - A) P z_i = P xbar_i.

The cotangent of A is sum_i w_i x_i^H. It is never formed: W is pulled back once through the map from the operator's
leaves to A X. Within a cluster F is zero: for a loss of the invariant subspace `a` vanishes there and the result is
exact; other losses have no derivative there (`gauge`). The phase of a complex vector is fixed afterwards (`phases`).

For a loss of the subspace of close eigenvalues the gradient is exact at any gap between them. Forward mode rotates the
vectors within it and loses about eps ||A|| / gap, the second derivative (eps ||A|| / gap)^2 and more.
`eigh(degeneracy_tol=...)` of the dense matrix loses neither.

The linear solver uses the gaps between the wanted eigenvalues and the others, and recycles the Krylov space of the
solve. Cost besides the forward solve: one pull-back through k matvecs. If the loss depends on the eigenvectors, add the
matvecs of conjugate gradients on the complement, for each pair (`systems.complement`). Memory besides the saved pairs
and, where it is used, the basis: 3 k + 8 vectors if k of them exceed 32 MiB, else 4 k + 11, or 8 k + 11 for interior
eigenvalues. `differentiable` registers the rule.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.differentiable import conjugated
from eigenjax.implicit.gauge import antihermitian_part
from eigenjax.implicit.phases import are_complex, at_fixed_phase, references_of
from eigenjax.implicit.program import Method, Rule, pack_square, square
from eigenjax.implicit.systems.complement import OUTERMOST, solve_complement
from eigenjax.implicit.systems.pairs import Pairs, divided_by_gaps, pairs_of, without_rounding
from eigenjax.implicit.systems.tangents import all_zero, image_tangent, is_zero, symmetric_cotangent
from eigenjax.krylov.recycling import RecycledPairs, WithRecycled
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.packed import unpacked_pairs
from eigenjax.result import EigenResult
from eigenjax.vectors import tree


class Saved(NamedTuple):
    """Solution, for the derivative."""

    pairs: Pairs  # the pairs and their operator
    recycled: RecycledPairs | None  # recycled Ritz pairs
    adjoint_tol: Any  # relative residual of the linear systems; None derives it from the pairs


def _save(method: Method, op: LinearOperator, solved: WithRecycled[EigenResult], adjoint_tol: Any) -> Saved:
    return Saved(pairs_of(op, solved.result, method.chosen), solved.recycled, adjoint_tol)


def _cotangent(method: Method, saved: Saved, cotangent: EigenResult) -> LinearOperator:
    pairs = saved.pairs
    values_bar = conjugated(cotangent.eigenvalues, pairs.eigenvalues)
    if all_zero(cotangent.eigenvectors):
        weights = jax.vmap(tree.scale)(values_bar, pairs.vectors)
    else:
        vectors_bar = jax.tree.map(conjugated, cotangent.eigenvectors, pairs.vectors, is_leaf=is_zero)
        numerators = antihermitian_part(pairs.vectors, vectors_bar)
        coefficients = divided_by_gaps(pairs, without_rounding(numerators, tree.norms(vectors_bar)))
        coefficients = coefficients + jnp.diag(values_bar).astype(coefficients.dtype)
        weights = solve_complement(pairs, coefficients, vectors_bar, **_options(method, saved))
    return symmetric_cotangent(pairs.op, pairs.vectors, jax.tree.map(jnp.conj, weights))


def _tangent(method: Method, saved: Saved, op_dot: Any) -> dict[str, Any] | None:
    pairs = saved.pairs
    images = image_tangent(pairs.op, op_dot, pairs.vectors)
    if images is None:
        return None
    inner = tree.gram(pairs.vectors, images)
    vectors = solve_complement(pairs, divided_by_gaps(pairs, inner), images, **_options(method, saved))
    return {"eigenvalues": jnp.diagonal(inner).real.astype(pairs.eigenvalues.dtype), "eigenvectors": vectors}


def _options(method: Method, saved: Saved) -> dict[str, Any]:
    """Collect the options of the linear systems."""
    options = {"max_iter": method.adjoint_max_iter, "definite": method.chosen in OUTERMOST}
    return options | {"adjoint_tol": saved.adjoint_tol, "recycled": jax.lax.stop_gradient(saved.recycled)}


def _finish(method: Method, op: LinearOperator, traced: dict[str, Any], result: EigenResult) -> EigenResult:
    if are_complex(result.eigenvectors):
        result = _at_fixed_phases(method, op, traced, result)
    return unpacked_pairs(op, result)


@functools.partial(jax.jit, static_argnums=0)
def _at_fixed_phases(method: Method, op: LinearOperator, traced: dict[str, Any], result: EigenResult) -> EigenResult:
    references = references_of(op, {**dict(method.options), **traced})
    return result._replace(eigenvectors=at_fixed_phase(result.eigenvectors, **references))


RULE = Rule(square, pack_square, _save, _cotangent, _tangent, _finish)
