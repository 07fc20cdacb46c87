"""Derivative of the eigenpairs of a general operator.

Differentiate A v = lambda v for a simple eigenvalue, u^H A = lambda u^H:

    d lambda = u^H dA v / (u^H v),      (A - lambda) dv = -(dA - d lambda) v

which leaves dv undetermined along v. Unit norm and a real component v_j, the one of largest magnitude, determine it: dv
-> dv - v Re(v^H dv) - i v Im(dv_j) / v_j. For cotangents (lambdabar, vbar), with a = vbar^H v,

    xbar = vbar - Re(a) v + i Im(a) e_j / v_j,      v^H xbar = 0

is the cotangent of dv before normalization, and

    Re(conj(lambdabar) d lambda + vbar^H dv) = Re(w^H dA v),    (conj(lambda) - A^H) w = xbar,    v^H w = lambdabar

is one bordered system per pair (`solvers.linear.bordered`), for both cotangents at once. The cotangent of A is sum_i
w_i v_i^H. It is never formed: W is pulled back once through the map from the operator's leaves to A V. A matrix is not
assumed to be symmetric.

Tangents use the adjoint of the same bordered matrix: (lambda - A) dv + s mu v = dA v with v^H dv = 0, where s is an
estimate of ||A|| and s mu = d lambda. The phase is then fixed by the formula above.

With xbar = 0 and lambdabar = 1, w is the left eigenvector, and ||w|| = ||u|| ||v|| / |u^H v| the condition of lambda.

GMRES may stagnate far from normal or where eigenvalues nearly coalesce: the derivative is then finite, but wrong.
`adjoint_info` reports this. If eigenvalues coalesce within the residuals of their pairs, the undefined part is dropped:
never NaN.

The pencil A x = lambda B x is the operator B^-1 A, whose matvec is differentiable in A and in B.

Cost besides the forward solve: one system per pair for all its cotangents, solved by GMRES with A^H (two real matvecs
per step if A is real), and 3 k matvecs. GMRES holds 40 k complex vectors, or up to 256 k if they take at most 128 MiB.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.calls import explained
from eigenjax.implicit.differentiable import conjugated
from eigenjax.implicit.program import Method, Rule, pack_square, square
from eigenjax.implicit.systems.tangents import all_zero, is_zero, pull_back, tangent_along
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import ComplexifiedOperator, complex_matvec, is_real
from eigenjax.operators.convert import as_operator
from eigenjax.operators.packed import packed, packed_operator, packing_used, unpacked, unpacked_pairs
from eigenjax.result import EigenResult
from eigenjax.solvers.linear import bordered
from eigenjax.solvers.linear.bordered import Bordered, Solution, SolveInfo
from eigenjax.solvers.pencil.quotient import quotient
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import positive_or_one, safe_divide
from eigenjax.vectors.signs import at_largest
from eigenjax.vectors.tree import PyTree

# Tolerance of the adjoint solves relative to the residuals of the pairs: a safety margin, since they limit accuracy.
_ADJOINT_SHARE = 0.1
# Largest tolerance of the adjoint solves, however inaccurate the pairs are.
_LARGEST_TOLERANCE = 0.01
# A condition is reported if the error of its eigenvalue, to first order condition times the residuals of both vectors,
# is at most this times ||A||: beyond, the pair may belong to another eigenvalue. (Grcar matrices: at 0.04 a condition
# was wrong by a factor of five.)
_LARGEST_ERROR = 0.03
# Maximal number of matvecs for one adjoint system: without restarts n suffice.
_ADJOINT_MATVECS_PER_DIMENSION = 10
_ADJOINT_MATVECS = 10_000


class Solved(NamedTuple):
    """Forward results that the backward pass needs."""

    op: LinearOperator  # A
    eigenvalues: jax.Array  # (k,) complex
    vectors: PyTree  # (k, ...) unit vectors
    residuals: jax.Array  # (k,) residuals of the pairs
    adjoint_tol: jax.Array | None  # () relative residual of the linear systems; None derives it from the pairs


class LeftEigenvectors(NamedTuple):
    """Left eigenvectors, U^H A = Lambda U^H, and the condition numbers of their eigenvalues.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import eigs, left_eigenvectors
        >>> matrix = jnp.array([[2.0, 1.0], [0.0, 1.0]])
        >>> print(left_eigenvectors(matrix, eigs(matrix, 2)).conditions.round(3))  # 1 if the matrix is normal
        [1.414 1.414]
    """

    vectors: PyTree
    """(k, ...) unit vectors, <v_i, u_i> real and positive."""
    conditions: jax.Array
    """(k,) 1 / |u^H v|: a bound on the change of an eigenvalue for a small perturbation of A, per unit norm. It is inf
    if the residuals of u or v are too large to determine it; if they are small, it is then large."""
    residuals: jax.Array
    """(k,) ||A^H u - conj(lambda) u||; a large one means that eigenvalues coalesce, or that A is far from normal."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("conditions")


@explained
def left_eigenvectors(op: Any, result: EigenResult, *, like: PyTree = None) -> LeftEigenvectors:
    """Compute the left eigenvectors of pairs found by `eigs`, and the condition numbers of their eigenvalues.

    Args:
        op: the operator, anything that `as_operator` takes; a bare callable needs `like`.
        result: a result of `eigs`.
        like: structure of the vectors of a bare callable: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The unit vectors u_i, 1 / |u_i^H v_i|, and the residuals of the u_i. The residual of a pair times its condition
        is the error of its eigenvalue, to first order. Where that error is comparable to ||A||, the condition is inf:
        for a Grcar matrix of size 100, solved to 1e-8, wherever the true one is 1e6 or more.

    Cost: one system with A^H per pair, like a derivative.

    Example:
        >>> from eigenjax import eigs
        >>> matrix = jnp.array([[2.0, 100.0], [0.0, 1.0]])
        >>> print(left_eigenvectors(matrix, eigs(matrix, k=1)).conditions.round())
        [100.]
    """
    op = as_operator(op, like=like)
    packed_op = packed_operator(op, result)
    vectors = packed(result.eigenvectors, packing_used(packed_op))
    found = _left_eigenvectors(packed_op, result._replace(eigenvectors=vectors))
    return found._replace(vectors=unpacked(found.vectors, packing_used(packed_op)))


@jax.jit
def _left_eigenvectors(op: LinearOperator, result: EigenResult) -> LeftEigenvectors:
    solved = Solved(op, result.eigenvalues, result.eigenvectors, result.residuals, None)
    zeros = jax.tree.map(jnp.zeros_like, result.eigenvectors)
    weights = _weights(None, solved, zeros, jnp.ones_like(result.eigenvalues))
    conditions = jax.vmap(tree.norm)(weights)
    vectors = jax.vmap(lambda x, length: tree.scale(safe_divide(1, length), x))(weights, conditions)

    def residual(pair):
        value, vector = pair
        return tree.norm(tree.add_scaled(bordered.adjoint_matvec(op, vector), -jnp.conj(value), vector))

    residuals = jax.lax.map(residual, (result.eigenvalues, vectors))
    determined = (residuals + result.residuals) * conditions <= _LARGEST_ERROR * general_norm_estimate(solved)
    return LeftEigenvectors(vectors, jnp.where(determined, conditions, jnp.inf), residuals)


def _save(method: Method, op: LinearOperator, solved: WithRecycled[EigenResult], adjoint_tol: Any) -> Solved:
    del method
    result = solved.result
    return Solved(op, result.eigenvalues, result.eigenvectors, result.residuals, adjoint_tol)


def _cotangent(method: Method, solved: Solved, cotangent: EigenResult) -> LinearOperator:
    values_bar = conjugated(cotangent.eigenvalues, solved.eigenvalues)
    vectors_bar = jax.tree.map(conjugated, cotangent.eigenvectors, solved.vectors, is_leaf=is_zero)
    if not all_zero(cotangent.eigenvectors):
        vectors_bar = jax.vmap(before_normalization)(solved.vectors, vectors_bar)
    weights = _weights(method.adjoint_max_iter, solved, vectors_bar, values_bar)
    return pull_back(complex_matvec, solved.op, solved.vectors, jax.tree.map(jnp.conj, weights))


def _tangent(method: Method, solved: Solved, op_dot: Any) -> dict[str, Any] | None:
    images = tangent_along(functools.partial(_images, vectors=solved.vectors), solved.op, op_dot)
    if images is None:
        return None
    # A zero that is linear in the tangent: JAX transposes the solve only if all right-hand sides are linear.
    zeros = 0 * jax.vmap(tree.inner)(solved.vectors, images)
    along = _bordered(method.adjoint_max_iter, solved, Solution(images, zeros), adjoint=True)
    values = general_norm_estimate(solved).astype(solved.eigenvalues.dtype) * along.multipliers
    return {"eigenvalues": values, "eigenvectors": jax.vmap(_at_fixed_phase)(solved.vectors, along.vectors)}


def _finish(method: Method, op: LinearOperator, traced: dict[str, Any], result: EigenResult) -> EigenResult:
    # The rule includes the phase.
    del method, traced
    return unpacked_pairs(op, result)


def _take(op: Any, options: dict[str, Any]) -> LinearOperator:
    """Return A, or B^-1 A if there is a b; real operators act on complex vectors if the shift is complex."""
    op, b = square(op, options), options.pop("b")
    complexify = options["sigma"] is not None and bool(jnp.iscomplexobj(options["sigma"])) and is_real(op.structure)
    if b is not None:
        return quotient(op, b, complexify=complexify)
    return ComplexifiedOperator(op) if complexify else op


RULE = Rule(_take, pack_square, _save, _cotangent, _tangent, _finish)


def _images(op: LinearOperator, *, vectors: PyTree) -> PyTree:
    return jax.vmap(functools.partial(complex_matvec, op))(vectors)


def _weights(max_iter: int | None, solved: Solved, vectors_bar: PyTree, values_bar: jax.Array) -> PyTree:
    """Compute W for all pairs together."""
    return _bordered(max_iter, solved, adjoint_rhs(solved, vectors_bar, values_bar), adjoint=False).vectors


def adjoint_rhs(solved: Solved, vectors_bar: PyTree, values_bar: jax.Array) -> Solution:
    """Build the right-hand sides of the bordered systems from cotangents that `before_normalization` returned."""
    return Solution(vectors_bar, general_norm_estimate(solved).astype(values_bar.dtype) * values_bar)


def system_of(solved: Solved) -> Bordered:
    """Build the bordered systems of the pairs."""
    return Bordered(solved.op, solved.eigenvalues, solved.vectors, solved.residuals, general_norm_estimate(solved))


def solve_bordered(
    max_iter: int | None, solved: Solved, rhs: Solution, *, transposed: bool
) -> tuple[Solution, SolveInfo]:
    """Solve the systems once, without derivatives; return the convergence information too."""
    system = jax.lax.stop_gradient(system_of(solved))
    limit = max_iter or min(_ADJOINT_MATVECS_PER_DIMENSION * solved.op.size, _ADJOINT_MATVECS)
    return bordered.solve(system, rhs, tol=_adjoint_tol(solved, system.scale), max_iter=limit, transposed=transposed)


def _bordered(max_iter: int | None, solved: Solved, rhs: Solution, *, adjoint: bool) -> Solution:
    """Solve the bordered systems, or their adjoints; differentiable."""
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    run = lambda rhs, transposed: solve_bordered(max_iter, solved, rhs, transposed=transposed)[0]
    solve = lambda _, rhs: run(rhs, adjoint)
    # The transpose is the conjugate of the adjoint.
    solve_transpose = lambda _, rhs: conjugate(run(conjugate(rhs), not adjoint))
    apply = functools.partial(bordered.apply_adjoint if adjoint else bordered.apply, system_of(solved))
    return jax.lax.custom_linear_solve(apply, rhs, solve, solve_transpose)


def general_norm_estimate(solved: Solved) -> jax.Array:
    """Compute () the norm estimate s: the largest |lambda|, or one if that is zero."""
    return positive_or_one(jnp.max(jnp.abs(jax.lax.stop_gradient(solved.eigenvalues))))


def _adjoint_tol(solved: Solved, scale: jax.Array) -> jax.Array:
    if solved.adjoint_tol is not None:
        return jnp.full_like(solved.residuals, solved.adjoint_tol)
    eps = float(jnp.finfo(scale.dtype).eps)
    return jax.lax.stop_gradient(jnp.clip(_ADJOINT_SHARE * solved.residuals / scale, 10 * eps, _LARGEST_TOLERANCE))


def before_normalization(vector: PyTree, vector_bar: PyTree) -> PyTree:
    """Compute xbar, the cotangent of one vector before its normalization."""
    along = tree.inner(vector_bar, vector)
    tangential = tree.add_scaled(vector_bar, -along.real, vector)
    unit = at_largest(vector)
    component = tree.inner(unit, vector).real
    phase = safe_divide(along.imag, component)
    return tree.add_scaled(tangential, jax.lax.complex(jnp.zeros_like(phase), phase), unit)


def _at_fixed_phase(vector: PyTree, tangent: PyTree) -> PyTree:
    """Rotate a tangent orthogonal to its vector so that the largest component stays real."""
    unit = at_largest(vector)
    component = tree.inner(unit, vector).real
    phase = safe_divide(tree.inner(unit, tangent).imag, component)
    return tree.add_scaled(tangent, jax.lax.complex(jnp.zeros_like(phase), -phase), vector)
