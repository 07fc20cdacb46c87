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

No iteration is differentiated, and every piece is itself differentiable: the forward pass saves pairs that carry this
same rule, and the linear solve has its own derivative. So the rule holds to any order. The compiled program has it in
two forms, for cotangents ("reverse") and for tangents ("forward").
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import named
from eigenjax.implicit.gauge import antihermitian_part
from eigenjax.implicit.phases import are_complex, at_fixed_phase, references_of
from eigenjax.implicit.program import Method, bind, explain_forward_mode, signature
from eigenjax.implicit.systems.complement import OUTERMOST, solve_complement
from eigenjax.implicit.systems.pairs import Pairs, divided_by_gaps, pairs_of, without_rounding
from eigenjax.implicit.systems.tangents import all_zero, image_tangent, is_zero, no_tangent, pull_back
from eigenjax.krylov.recycling import RecycledPairs
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.vectors import tree

_Solved = tuple[EigenResult, RecycledPairs | None]
_Saved = tuple[Pairs, RecycledPairs | None, jax.Array | None]


def differentiable(
    solver: Callable[..., EigenResult],
    *,
    recycling: Callable[..., tuple[EigenResult, RecycledPairs | None]] | None = None,
) -> Callable[..., EigenResult]:
    """Make a solver of symmetric eigenproblems differentiable in its operator, to any order.

    The result takes three more options. `derivative`, static, is "reverse" for jax.grad to any order, or "forward" for
    jax.jvp, jacfwd, jax.hessian and jax.grad, which transposes it. `adjoint_tol` is the residual of the linear solves
    relative to their right-hand sides; None derives it from the residuals of the pairs over the gap, below which
    accuracy is wasted. `adjoint_max_iter`, static, limits their matvecs for one pair. It is compiled once per operator
    type, shape and static options.

    The derivative is as accurate as the pairs: for one that is not `converged` it is that of another matrix, its
    residual away, with an error of C r / gap. `adjoint_info` reports the convergence of the linear solves,
    `gauge_residual` whether the loss has a derivative where eigenvalues are equal. v0, key, tol and the other options
    have zero derivatives.

    For a loss of the subspace of close eigenvalues the gradient is exact at any gap between them. Forward mode rotates
    the vectors within it and loses about eps ||A|| / gap, the second derivative (eps ||A|| / gap)^2 and more.
    `eigh(degeneracy_tol=...)` of the dense matrix loses neither.

    Args:
        solver: `solver(op, k, **options) -> EigenResult`, a black box.
        recycling: the same solver, returning recycled Ritz pairs too, which save matvecs.

    Returns:
        The same function with this derivative. Cost besides the forward solve: one pull-back through k matvecs. If the
        loss depends on the eigenvectors, add the matvecs of conjugate gradients on the complement, for each pair.
        Memory besides the saved pairs and, where it is used, the basis: 3 k + 8 vectors if k of them exceed 32 MiB,
        else 4 k + 11, or 8 k + 11 for interior eigenvalues.

    Example:
        >>> from eigenjax import lanczos  # which is differentiable(eigenjax.solvers.symmetric.lanczos.lanczos)
        >>> loss = lambda a: 6 * lanczos(a, k=1).eigenvectors[0, 1]
        >>> print(jnp.abs(jax.grad(loss)(jnp.diag(jnp.array([4.0, 1.0, 1.0])))).round(4))
        [[0. 1. 0.]
         [1. 0. 0.]
         [0. 0. 0.]]
    """

    @named
    @functools.wraps(solver)
    def solve(*args: Any, **options: Any) -> EigenResult:
        method, derivative, op, traced = bind(solver, args, options, recycling=recycling)
        try:
            rule = {"reverse": _solve_reverse, "forward": _solve_forward}[derivative]
            result = rule(method, False, op, traced)[0]
        except TypeError as error:
            explain_forward_mode(solver, (op, traced), error)
            raise
        return _with_phases(method, op, traced, result) if are_complex(result.eigenvectors) else result

    solve.__signature__ = signature(solver)  # type: ignore[attr-defined]
    return solve


@functools.partial(jax.jit, static_argnums=0)
def _with_phases(method: Method, op: LinearOperator, traced: dict[str, Any], result: EigenResult) -> EigenResult:
    references = references_of(op, {**dict(method.options), **traced})
    return result._replace(eigenvectors=at_fixed_phase(result.eigenvectors, **references))


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve_reverse(method: Method, keep: bool, op: LinearOperator, traced: dict[str, Any]) -> _Solved:
    return method.solve_and_keep(op, traced) if keep else (method.solve(op, traced), None)


def _save(method: Method, keep: bool, op: Any, traced: Any) -> tuple[_Solved, _Saved]:
    op, traced = jax.tree.map(lambda leaf: leaf.value, (op, traced), is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    # Call the rule, not the solver: this makes the second derivative right.
    result, known = _solve_reverse(method, True, op, traced)
    return (result, known if keep else None), (pairs_of(op, result, method.chosen), known, traced["adjoint_tol"])


def _cotangent(method: Method, keep: bool, saved: _Saved, cotangents: Any) -> tuple[Any, None]:
    # The recycled Ritz pairs only accelerate the solve: their cotangent is zero, returned or not.
    del keep
    cotangent, (pairs, known, adjoint_tol) = cotangents[0], saved
    # JAX's cotangents are the conjugates of those in the module docstring: conjugate on entry and on exit.
    values_bar = jnp.zeros_like(pairs.eigenvalues) if is_zero(cotangent.eigenvalues) else cotangent.eigenvalues
    if all_zero(cotangent.eigenvectors):
        weights = jax.vmap(tree.scale)(values_bar, pairs.vectors)
    else:
        conjugate = lambda leaf, like: jnp.zeros_like(like) if is_zero(leaf) else jnp.conj(leaf)
        vectors_bar = jax.tree.map(conjugate, cotangent.eigenvectors, pairs.vectors, is_leaf=is_zero)
        numerators = antihermitian_part(pairs.vectors, vectors_bar)
        turning = divided_by_gaps(pairs, without_rounding(numerators, tree.norms(vectors_bar)))
        inside = turning + jnp.diag(values_bar).astype(turning.dtype)
        weights = solve_complement(pairs, inside, vectors_bar, **_options(method, known, adjoint_tol))
    return pull_back(pairs.op, pairs.vectors, jax.tree.map(jnp.conj, weights)), None


_solve_reverse.__wrapped__.defvjp(_save, _cotangent, symbolic_zeros=True)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solve_forward(method: Method, keep: bool, op: LinearOperator, traced: dict[str, Any]) -> _Solved:
    return method.solve_and_keep(op, traced) if keep else (method.solve(op, traced), None)


def _tangent(method: Method, keep: bool, primals: Any, tangents: Any) -> tuple[_Solved, _Solved]:
    op, traced = primals
    # Call the rule, not the solver: this makes the second derivative right.
    result, known = _solve_forward(method, True, op, traced)
    primal = (result, known if keep else None)
    still, nothing = jax.tree.map(no_tangent, primal)
    pairs = pairs_of(op, result, method.chosen)
    images = image_tangent(op, tangents[0], pairs.vectors)
    if images is None:
        return primal, (still, nothing)
    inner = tree.gram(pairs.vectors, images)
    moved = still._replace(
        eigenvalues=jnp.diagonal(inner).real.astype(pairs.eigenvalues.dtype),
        eigenvectors=solve_complement(
            pairs, divided_by_gaps(pairs, inner), images, **_options(method, known, traced["adjoint_tol"])
        ),
    )
    return primal, (moved, nothing)


_solve_forward.__wrapped__.defjvp(_tangent, symbolic_zeros=True)  # type: ignore[attr-defined]


def _options(method: Method, known: RecycledPairs | None, adjoint_tol: Any) -> dict[str, Any]:
    """Collect the options of the linear systems."""
    options = {"adjoint_tol": adjoint_tol, "max_iter": method.adjoint_max_iter, "definite": method.chosen in OUTERMOST}
    return options | {"recycled": jax.lax.stop_gradient(known)}
