"""Derivative of the eigenpairs of a pencil A x = lambda B x, also where the solver inverts A - s B.

Differentiate A X = B X T and X^H B X = I, with T = diag(lambda) at the pairs themselves. Let E_A = X^H dA X,
E_B = X^H dB X, P = I - X X^H B, and

    E = E_A - (E_B T + T E_B) / 2,    d lambda = diag(E),    dX = X (K - E_B / 2) + Z

    K T - T K = E  between clusters, K = 0 within them,    P^H (lambda_i B - A) P z_i = P^H (dA x_i - lambda_i dB x_i).

The map from (dA X, dB X) to (d lambda, dX) is transposed for cotangents. With a = (G - G^H) / 2, G = X^H Xbar, Y the
solution of Y T - T Y = a between clusters plus diag(lambdabar), and z_i that of the system with P^H xbar_i, the weights
of dA X and dB X are

    W_A = X Y + Z,    W_B = - X (Y T + T Y + G) / 2 - Z T.

The systems are solved where the solver worked, in the inner product of B: (lambda_i - B^-1 A) z_i = P B^-1 b_i or, with
the inverse F of A - s B and theta_i = 1 / (lambda_i - s), (theta_i - F B) z_i = - theta_i F b_i, in few steps, because
all other eigenvalues of F B are small. `systems.complement` solves both. The inverse itself has no derivative.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.implicit.differentiable import conjugated
from eigenjax.implicit.gauge import antihermitian_part
from eigenjax.implicit.phases import are_complex, at_fixed_phase
from eigenjax.implicit.program import Method, Rule, square
from eigenjax.implicit.systems.complement import OUTERMOST
from eigenjax.implicit.systems.pairs import without_rounding
from eigenjax.implicit.systems.pencil import PencilPairs, divided_by_gaps, matrix_t, pencil_pairs, solve_complement
from eigenjax.implicit.systems.tangents import all_zero, image_tangent, is_zero, symmetric_cotangent
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.operators.packed import PackedOperator, unpacked_pairs
from eigenjax.result import EigenResult
from eigenjax.solvers.pencil.pencil import Pencil, packed_pencil, pencil_of
from eigenjax.solvers.warm_start import packed_start, start_rows
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.tree import PyTree


class Saved(NamedTuple):
    """Solution, for the derivative."""

    pairs: PencilPairs
    adjoint_tol: Any  # relative residual of the linear systems; None derives it from the pairs


def _take(op: Any, options: dict[str, Any]) -> Pencil:
    return pencil_of(square(op, options), options.pop("b"), options.pop("inverse"))


def _pack(pencil: Pencil, traced: dict[str, Any]) -> tuple[Pencil, dict[str, Any]]:
    if pencil.inverse is not None:
        dtype = tree.real_dtype(tree.accumulation_dtype(pencil.structure))
        shift = 0.0 if traced["sigma"] is None else traced["sigma"]
        pencil = dataclasses.replace(pencil, shift=jnp.asarray(shift).astype(dtype))
    packed = packed_pencil(pencil, traced)
    if packed is pencil or not isinstance(packed.a, PackedOperator):
        return pencil, traced
    given = traced.get("preconditioner")
    wrapped = None if given is None else PackedOperator(given, packed.a.packing)
    return packed, traced | {"v0": _packed_start(packed.a, traced["v0"]), "preconditioner": wrapped}


_packed_start = jax.jit(packed_start)


def _save(method: Method, pencil: Pencil, solved: WithRecycled[EigenResult], adjoint_tol: Any) -> Saved:
    return Saved(pencil_pairs(pencil, solved.result, solved.recycled, method.chosen), adjoint_tol)


def _cotangent(method: Method, saved: Saved, cotangent: EigenResult) -> Pencil:
    pairs = saved.pairs
    pencil, vectors = pairs.pencil, pairs.vectors
    values_bar = conjugated(cotangent.eigenvalues, pairs.eigenvalues)
    inside = jnp.diag(values_bar).astype(tree.accumulation_dtype(vectors))
    inner, outside = jnp.zeros_like(inside), None
    if not all_zero(cotangent.eigenvectors):
        vectors_bar = jax.tree.map(conjugated, cotangent.eigenvectors, vectors, is_leaf=is_zero)
        inner = tree.gram(vectors, vectors_bar)
        numerators = without_rounding(antihermitian_part(vectors, vectors_bar), _sizes(vectors, vectors_bar))
        inside = inside + divided_by_gaps(pairs, numerators)
        outside = solve_complement(pairs, vectors_bar, **_options(method, saved))
    weights = _with_outside(tree.combine(inside, vectors), outside)
    a_bar = symmetric_cotangent(pencil.a, vectors, jax.tree.map(jnp.conj, weights))
    b_bar = None
    if pencil.b is not None:
        t = matrix_t(pairs)
        mixed = -(matmul(inside, t) + matmul(t, inside) + inner) / 2
        weights = tree.combine(mixed, vectors)
        weights = _with_outside(weights, None if outside is None else tree.combine(-t, outside))
        b_bar = symmetric_cotangent(pencil.b, vectors, jax.tree.map(jnp.conj, weights))
    return Pencil(a_bar, b_bar, *jax.tree.map(_no_cotangent, (pencil.inverse, pencil.shift)))


def _tangent(method: Method, saved: Saved, pencil_dot: Any) -> dict[str, Any] | None:
    pairs = saved.pairs
    pencil, vectors = pairs.pencil, pairs.vectors
    of_a = image_tangent(pencil.a, pencil_dot.a, vectors)
    of_b = None if pencil.b is None else image_tangent(pencil.b, pencil_dot.b, vectors)
    if of_a is None and of_b is None:
        return None
    zeros = jax.tree.map(jnp.zeros_like, vectors)
    of_a = zeros if of_a is None else of_a
    block, stretch, images, t = tree.gram(vectors, of_a), 0.0, of_a, matrix_t(pairs)
    if of_b is not None:
        mass = tree.gram(vectors, of_b)
        block, stretch = block - (matmul(mass, t) + matmul(t, mass)) / 2, mass / 2
        images = jax.tree.map(jnp.subtract, of_a, tree.combine(t, of_b))
    outside = solve_complement(pairs, images, **_options(method, saved))
    moved = _with_outside(tree.combine(divided_by_gaps(pairs, block) - stretch, vectors), outside)
    return {"eigenvalues": jnp.diagonal(block).real.astype(pairs.eigenvalues.dtype), "eigenvectors": moved}


def _options(method: Method, saved: Saved) -> dict[str, Any]:
    definite = saved.pairs.pencil.inverse is not None or method.chosen in OUTERMOST
    return {"max_iter": method.adjoint_max_iter, "adjoint_tol": saved.adjoint_tol, "definite": definite}


def _with_outside(inside: PyTree, outside: PyTree | None) -> PyTree:
    return inside if outside is None else jax.tree.map(jnp.add, inside, outside)


def _sizes(vectors: PyTree, vectors_bar: PyTree) -> jax.Array:
    """Return (k,) the sizes that the rounding of X^H Xbar is relative to."""
    return jnp.max(tree.norms(jax.lax.stop_gradient(vectors))) * tree.norms(vectors_bar)


def _no_cotangent(x: jax.Array) -> Any:
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else np.zeros(x.shape, jax.dtypes.float0)


def _finish(method: Method, pencil: Pencil, traced: dict[str, Any], result: EigenResult) -> EigenResult:
    if are_complex(result.eigenvectors):
        result = _at_fixed_phases(method, pencil, traced, result)
    return unpacked_pairs(pencil.a, result)


@functools.partial(jax.jit, static_argnums=0)
def _at_fixed_phases(method: Method, pencil: Pencil, traced: dict[str, Any], result: EigenResult) -> EigenResult:
    del method
    references = start_rows(pencil.a, traced["v0"])
    return result._replace(eigenvectors=at_fixed_phase(result.eigenvectors, references=references))


RULE = Rule(_take, _pack, _save, _cotangent, _tangent, _finish)
