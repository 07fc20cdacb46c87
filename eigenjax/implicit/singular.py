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

Tangents use the same numbers and systems: du_i = sum_j u_j N_ji + x_i with
N = ((D + D^H) / (s_i - s_j) + (D - D^H) / (s_i + s_j)) / 2. For dv_i the second term has the opposite sign. The
right-hand sides are [P_U dA v_i; P_V dA^H u_i], where the adjoint is differentiated.

The first term is zero within clusters, the second where both values are zero, and x_i and y_i where s_i is zero. A loss
that does not depend on the choice of vectors there gets its exact gradient; no other gradient is defined. All pieces
are differentiable themselves, so that the rule holds to any order.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import named
from eigenjax.implicit.phases import are_complex, at_fixed_phase
from eigenjax.implicit.program import Method, bind, explain_forward_mode, signature
from eigenjax.implicit.systems.dilation import solve_dilation
from eigenjax.implicit.systems.pairs import without_rounding
from eigenjax.implicit.systems.tangents import is_zero, no_tangent, tangent_along
from eigenjax.implicit.systems.triplets import SolvedTriplets, antihermitian, reciprocal_gaps
from eigenjax.krylov.recycling import RecycledPairs
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.rectangular import adjoint_matvec, as_rectangular, matvec
from eigenjax.result import SingularResult
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

_Known = tuple[SingularResult, RecycledPairs | None]


def differentiable(
    solver: Callable[..., SingularResult], *, recycling: Callable[..., tuple[SingularResult, RecycledPairs]]
) -> Callable[..., SingularResult]:
    """Make a solver of singular triplets differentiable in its operator, to any order.

    The result takes three more options. `derivative`, static, is "reverse" for jax.grad to any order, or "forward" for
    jax.jvp, jacfwd, jax.hessian and jax.grad. `adjoint_tol` is the residual of the linear solve relative to its
    right-hand side; None derives it from the residual of the triplet. `adjoint_max_iter`, static, limits its steps for
    one triplet. It is compiled once per operator type, shape and static options.

    Args:
        solver: `solver(op, k, *, tol, v0, key, adjoint, **static) -> SingularResult`, a black box.
        recycling: the same solver, returning recycled triplets too, which save matvecs.

    Returns:
        The same function with this derivative. Cost besides the forward solve: one pull-back through k matvecs. If the
        loss depends on the vectors, add one through k more, and the conjugate gradient steps on the complement
        (`dilation`). Each step takes a matvec with A and one with A^H. v0 and key get zero cotangents.
    """

    @named
    @functools.wraps(solver)
    def solve(*args: Any, **options: Any) -> SingularResult:
        method, derivative, op, traced = bind(solver, args, options, recycling=recycling, take=_rectangular)
        try:
            result = {"reverse": _solve, "forward": _solve_forward}[derivative](method, False, op, traced)[0]
        except TypeError as error:
            explain_forward_mode(solver, (op, traced), error)
            raise
        return _with_phases(result) if are_complex(result.right) else result

    solve.__signature__ = signature(solver)  # type: ignore[attr-defined]
    return solve


@jax.jit
def _with_phases(result: SingularResult) -> SingularResult:
    # Each pair of vectors has one phase, which the solver fixes by the right one.
    right, left = at_fixed_phase(result.right, along=result.left)
    return result._replace(left=left, right=right)


def _rectangular(op: Any, options: dict[str, Any]) -> RectangularOperator:
    like = options.pop("like")
    return as_rectangular(op, like=options["v0"] if like is None else like, adjoint=options.pop("adjoint"))


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(method: Method, keep: bool, op: RectangularOperator, traced: dict[str, Any]) -> _Known:
    return method.solve_and_keep(op, traced) if keep else (method.solve(op, traced), None)


def _forward(method: Method, keep: bool, op: Any, traced: Any) -> tuple[_Known, SolvedTriplets]:
    op, traced = jax.tree.map(lambda leaf: leaf.value, (op, traced), is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    # Call the rule, not the solver: this makes the second derivative right.
    result, known = _solve(method, True, op, traced)
    return (result, known if keep else None), _solved(op, result, known, traced)


def _solved(
    op: RectangularOperator, result: SingularResult, known: RecycledPairs | None, traced: dict[str, Any]
) -> SolvedTriplets:
    return SolvedTriplets(op, result.left, result.values, result.right, result.residuals, traced["adjoint_tol"], known)


def _backward(method: Method, keep: bool, solved: SolvedTriplets, cotangents: Any) -> tuple[RectangularOperator, None]:
    # The recycled triplets only accelerate the solve: their cotangent is zero, returned or not.
    del keep
    cotangent: SingularResult = cotangents[0]
    # JAX's cotangents are the conjugates of those in the module docstring: conjugate on entry and on exit.
    values_bar = jnp.zeros_like(solved.values) if is_zero(cotangent.values) else cotangent.values
    vectors, weights = solved.right, jax.vmap(tree.scale)(values_bar, solved.left)
    bars, pair = (cotangent.left, cotangent.right), (solved.left, solved.right)
    if not all(is_zero(leaf) for leaf in jax.tree.leaves(bars, is_leaf=is_zero)):
        bars = jax.tree.map(_conjugate, bars, pair, is_leaf=is_zero)
        weights = jax.tree.map(jnp.add, weights, tree.combine(_within(solved, *bars), solved.left))
        if solved.values.shape[0] < max(solved.op.shape):  # else there is no complement
            x, y = solve_dilation(solved, bars, method.adjoint_max_iter)
            weights = jax.tree.map(jnp.add, weights, x)
            stacked = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a, b]))
            vectors, weights = stacked(solved.right, y), stacked(weights, solved.left)
    products = lambda op: jax.vmap(functools.partial(matvec, op))(vectors)
    return jax.vjp(products, solved.op)[1](jax.tree.map(jnp.conj, weights))[0], None


_solve.__wrapped__.defvjp(_forward, _backward, symbolic_zeros=True)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solve_forward(method: Method, keep: bool, op: RectangularOperator, traced: dict[str, Any]) -> _Known:
    return method.solve_and_keep(op, traced) if keep else (method.solve(op, traced), None)


def _tangent(method: Method, keep: bool, primals: Any, tangents: Any) -> tuple[_Known, _Known]:
    op, traced = primals
    # Call the rule, not the solver: this makes the second derivative right.
    result, known = _solve_forward(method, True, op, traced)
    primal = (result, known if keep else None)
    solved, (still, nothing) = _solved(op, result, known, traced), jax.tree.map(no_tangent, primal)
    images = tangent_along(functools.partial(_both_images, left=result.left, right=result.right), op, tangents[0])
    if images is None:
        return primal, (still, nothing)
    inner = tree.gram(result.left, images[0])
    between, across = reciprocal_gaps(solved, inner.dtype)
    conjugate = jnp.conj(inner).T
    apart, together = (inner - conjugate) * across, (inner + conjugate) * between
    left = tree.combine((together + apart) / 2, result.left)
    right = tree.combine((together - apart) / 2, result.right)
    if result.values.shape[0] < max(op.shape):  # else there is no complement
        outside = solve_dilation(solved, images, method.adjoint_max_iter)
        left, right = jax.tree.map(jnp.add, (left, right), outside)
    values = jnp.diagonal(inner).real.astype(result.values.dtype)
    return primal, (still._replace(left=left, values=values, right=right), nothing)


_solve_forward.__wrapped__.defjvp(_tangent, symbolic_zeros=True)  # type: ignore[attr-defined]


def _both_images(op: RectangularOperator, *, left: PyTree, right: PyTree) -> PyTree:
    """Compute A V and A^H U."""
    return jax.vmap(functools.partial(matvec, op))(right), jax.vmap(functools.partial(adjoint_matvec, op))(left)


def _within(solved: SolvedTriplets, left_bar: PyTree, right_bar: PyTree) -> jax.Array:
    """Compute (k, k) M without the term of the singular values."""
    aU, aV = (antihermitian(tree.gram(*x)) for x in ((solved.left, left_bar), (solved.right, right_bar)))
    between, across = reciprocal_gaps(solved, aU.dtype)
    sizes = jnp.hypot(tree.norms(left_bar), tree.norms(right_bar))
    return without_rounding(aU + aV, sizes) * between + without_rounding(aU - aV, sizes) * across


def _conjugate(leaf: Any, like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like) if is_zero(leaf) else jnp.conj(leaf)
