"""The derivative of eigenpairs of a general operator.

Differentiate A v = lambda v for a simple eigenvalue, u^H A = lambda u^H:

    d lambda = u^H dA v / (u^H v),      (A - lambda) dv = -(dA - d lambda) v

which leaves dv free along v. Unit norm and a real component v_j, the one of largest magnitude, take that freedom:
dv -> dv - v Re(v^H dv) - i v Im(dv_j) / v_j. For cotangents (lambdabar, vbar), with a = vbar^H v,

    xbar = vbar - Re(a) v + i Im(a) e_j / v_j,      v^H xbar = 0

is what they ask of dv before it was normalised, and

    Re(conj(lambdabar) d lambda + vbar^H dv) = Re(w^H dA v),    (conj(lambda) - A^H) w = xbar,    v^H w = lambdabar

one bordered system a pair (`solvers.linear.bordered`), for both cotangents at once. The cotangent of A is
sum_i w_i v_i^H: never formed; W is pulled back through the map from the operator's leaves to A V, once. A matrix is not
taken for symmetric.

For tangents, the adjoint of the same matrix: (lambda - A) dv + s mu v = dA v with v^H dv = 0 and s mu = d lambda, and
then the phase, as above.

With xbar = 0 and lambdabar = 1, w is the left eigenvector, and ||w|| = ||u|| ||v|| / |u^H v| the condition of lambda.

Nothing is differentiated through an iteration, and every piece is itself differentiable, to any order.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.calls import explained, named
from eigenjax.implicit.program import Method, bind, explain_forward_mode, signature
from eigenjax.implicit.systems.tangents import is_zero, no_tangent, tangent_along
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import complex_matvec
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.linear import bordered
from eigenjax.solvers.linear.bordered import Bordered, Solution, Told
from eigenjax.vectors import tree
from eigenjax.vectors.signs import at_largest
from eigenjax.vectors.tree import PyTree

# The adjoint solve need not be better than the forward one, by this factor to be safe.
_ADJOINT_SHARE = 0.1
# Of pairs that are hardly known, their derivatives are solved for to a hundredth all the same.
_LOOSEST = 0.01
# To first order an eigenvalue is wrong by its residual times its condition: a condition is believed if that is no more
# than this share of ||A||.
_KNOWN = 0.1
# Products that one adjoint system may take: without restarts n suffice.
_ADJOINT_PRODUCTS_PER_DIMENSION = 10
_ADJOINT_PRODUCTS = 10_000


class Solved(NamedTuple):
    """What the backward pass needs of the forward one."""

    op: LinearOperator
    eigenvalues: jax.Array
    vectors: PyTree
    residuals: jax.Array
    adjoint_tol: jax.Array | None


class LeftEigenvectors(NamedTuple):
    """U^H A = Lambda U^H, and what it says of the eigenvalues."""

    vectors: PyTree
    """(k, ...) unit vectors, <v_i, u_i> real and positive."""
    conditions: jax.Array
    """(k,) 1 / |u^H v|: how far an eigenvalue moves, at most, for a small perturbation of A of norm one; inf where u is
    not known well enough to say, which of a pair with a small residual means that it is large."""
    residuals: jax.Array
    """(k,) ||A^H u - conj(lambda) u||; where it is large, eigenvalues coalesce, or all of A is far from normal."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("conditions")


def differentiable(solver: Callable[..., EigenResult]) -> Callable[..., EigenResult]:
    """Makes a solver of general eigenproblems differentiable in its operator, to any order.

    The result takes three more options: `derivative`, static, "reverse" for jax.grad to any order or "forward" for
    jax.jvp, jacfwd and jax.hessian, and for jax.grad too; adjoint_tol, the residual of the linear solve relative to its
    right-hand side (None ties it to the residual of the pair), and adjoint_max_iter, the products it may take for one
    pair, static. It is compiled once per operator type, shape and static options.

    Far from normal, or where eigenvalues nearly coalesce, GMRES may stagnate: the derivative is finite then, and not
    right. `adjoint_info` says so.

    Args:
        solver: `solver(op, k, **options) -> EigenResult`, its vectors of unit norm, their largest component real and
            positive; what it does inside is not looked at.

    Returns:
        The same function with the derivative above. Its cost beyond the forward solve: one system a pair, whichever
        cotangents there are: of A^H, products by GMRES for the complement (two real ones a step where A is real),
        and 40 k complex vectors; 3 k products besides. Where eigenvalues coalesce, within the residuals of
        their pairs, what is not defined is left out: never NaN. v0 and key get zero cotangents.

    Example:
        >>> from eigenjax import eigs  # which is differentiable(eigenjax.solvers.general.eigs.eigs)
        >>> loss = lambda a: eigs(a, k=1).eigenvalues[0].real
        >>> print(abs(jax.grad(loss)(jnp.array([[2.0, 1.0], [0.0, 1.0]])).round(4)))  # u v^T / (u^T v)
        [[1. 0.]
         [1. 0.]]
    """

    @named
    @functools.wraps(solver)
    def solve(*args: Any, **options: Any):
        method, derivative, op, traced = bind(solver, args, options)
        try:
            return {"reverse": _solve, "forward": _solve_forward}[derivative](method, op, traced)
        except TypeError as error:
            explain_forward_mode(solver, (op, traced), error)
            raise

    solve.__signature__ = signature(solver)  # type: ignore[attr-defined]
    return solve


@explained
def left_eigenvectors(op: Any, result: EigenResult, *, like: PyTree = None) -> LeftEigenvectors:
    """The left eigenvectors of pairs that `eigs` found, and the conditions of their eigenvalues.

    Args:
        op: the operator, whatever `as_operator` takes; a bare callable with `like`.
        result: of `eigs`.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The unit vectors u_i, 1 / |u_i^H v_i|, and the residuals of the u_i. A residual of a pair times its condition
        is the error of its eigenvalue, to first order. Far from normal, where the linear solves fail, the condition
        is inf: of a Grcar matrix of 100 it is so wherever the true one is 1e6 or more.

    Cost: one system of A^H a pair, as a derivative's.

    Example:
        >>> from eigenjax import eigs
        >>> matrix = jnp.array([[2.0, 100.0], [0.0, 1.0]])
        >>> print(left_eigenvectors(matrix, eigs(matrix, k=1)).conditions.round())
        [100.]
    """
    return _left_eigenvectors(as_operator(op, like=like), result)


@jax.jit
def _left_eigenvectors(op: LinearOperator, result: EigenResult) -> LeftEigenvectors:
    solved = Solved(op, result.eigenvalues, result.eigenvectors, result.residuals, None)
    nothing = jax.tree.map(jnp.zeros_like, result.eigenvectors)
    weights = _weights(None, solved, nothing, jnp.ones_like(result.eigenvalues))
    conditions = jax.vmap(tree.norm)(weights)
    vectors = jax.vmap(lambda x, length: tree.scale(1 / jnp.where(length > 0, length, 1), x))(weights, conditions)

    def residual(pair):
        value, vector = pair
        return tree.norm(tree.add_scaled(bordered.adjoint_matvec(op, vector), -jnp.conj(value), vector))

    residuals = jax.lax.map(residual, (result.eigenvalues, vectors))
    # A left vector whose own eigenvalue is not known to a part of ||A|| says nothing of another one's.
    known = residuals * conditions <= _KNOWN * scale_of(solved)
    return LeftEigenvectors(vectors, jnp.where(known, conditions, jnp.inf), residuals)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(method: Method, op: LinearOperator, traced: dict[str, Any]) -> EigenResult:
    return method.solve(op, traced)


def _forward(method: Method, op: Any, traced: Any) -> tuple[EigenResult, Solved]:
    op, traced = jax.tree.map(lambda leaf: leaf.value, (op, traced), is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    # Through the rule again, not past it: this is what makes the second derivative right.
    result = _solve(method, op, traced)
    return result, _solved(op, result, traced)


def _solved(op: LinearOperator, result: EigenResult, traced: dict[str, Any]) -> Solved:
    return Solved(op, result.eigenvalues, result.eigenvectors, result.residuals, traced["adjoint_tol"])


def _backward(method: Method, solved: Solved, cotangent: EigenResult) -> tuple[LinearOperator, None]:
    # JAX's cotangents are the conjugates of those above: conjugate on entry and on exit.
    values_bar = _conjugate(cotangent.eigenvalues, solved.eigenvalues)
    vectors_bar = jax.tree.map(_conjugate, cotangent.eigenvectors, solved.vectors, is_leaf=is_zero)
    if not all(is_zero(leaf) for leaf in jax.tree.leaves(cotangent.eigenvectors, is_leaf=is_zero)):
        vectors_bar = jax.vmap(before_normalization)(solved.vectors, vectors_bar)
    weights = _weights(method.adjoint_max_iter, solved, vectors_bar, values_bar)
    products = functools.partial(_images, vectors=solved.vectors)
    return jax.vjp(products, solved.op)[1](jax.tree.map(jnp.conj, weights))[0], None


_solve.__wrapped__.defvjp(_forward, _backward, symbolic_zeros=True)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve_forward(method: Method, op: LinearOperator, traced: dict[str, Any]) -> EigenResult:
    return method.solve(op, traced)


def _tangent(method: Method, primals: Any, tangents: Any) -> tuple[EigenResult, EigenResult]:
    op, traced = primals
    # Through the rule again, as above.
    result = _solve_forward(method, op, traced)
    still = jax.tree.map(no_tangent, result)
    images = tangent_along(functools.partial(_images, vectors=result.eigenvectors), op, tangents[0])
    if images is None:
        return result, still
    solved = _solved(op, result, traced)
    # Zero, and linear in the tangent, as all of a right-hand side must be where this is transposed.
    nothing = 0 * jax.vmap(tree.inner)(result.eigenvectors, images)
    along = _bordered(method.adjoint_max_iter, solved, Solution(images, nothing), adjoint=True)
    moved = jax.vmap(_at_fixed_phase)(result.eigenvectors, along.vectors)
    values = scale_of(solved).astype(result.eigenvalues.dtype) * along.multipliers
    return result, still._replace(eigenvalues=values, eigenvectors=moved)


_solve_forward.__wrapped__.defjvp(_tangent, symbolic_zeros=True)  # type: ignore[attr-defined]


def _images(op: LinearOperator, *, vectors: PyTree) -> PyTree:
    return jax.vmap(functools.partial(complex_matvec, op))(vectors)


def _weights(max_iter: int | None, solved: Solved, vectors_bar: PyTree, values_bar: jax.Array) -> PyTree:
    """W, all pairs together."""
    return _bordered(max_iter, solved, adjoint_rhs(solved, vectors_bar, values_bar), adjoint=False).vectors


def adjoint_rhs(solved: Solved, vectors_bar: PyTree, values_bar: jax.Array) -> Solution:
    """The right-hand sides of the bordered systems, of cotangents as `before_normalization` leaves them."""
    return Solution(vectors_bar, scale_of(solved).astype(values_bar.dtype) * values_bar)


def system_of(solved: Solved) -> Bordered:
    """The bordered systems of the pairs."""
    return Bordered(solved.op, solved.eigenvalues, solved.vectors, solved.residuals, scale_of(solved))


def solve_bordered(max_iter: int | None, solved: Solved, rhs: Solution, *, transposed: bool) -> tuple[Solution, Told]:
    """The systems solved, once, not differentiated, and how it went."""
    known = jax.lax.stop_gradient(system_of(solved))
    limit = max_iter or min(_ADJOINT_PRODUCTS_PER_DIMENSION * solved.op.size, _ADJOINT_PRODUCTS)
    return bordered.solve(known, rhs, tol=_adjoint_tol(solved, known.scale), max_iter=limit, transposed=transposed)


def _bordered(max_iter: int | None, solved: Solved, rhs: Solution, *, adjoint: bool) -> Solution:
    """The solutions of the bordered systems, or of their adjoints; differentiable."""
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    run = lambda rhs, transposed: solve_bordered(max_iter, solved, rhs, transposed=transposed)[0]
    # The transpose is the conjugate of the adjoint.
    transposed = lambda _, rhs: conjugate(run(conjugate(rhs), not adjoint))
    plain = lambda _, rhs: run(rhs, adjoint)
    apply = functools.partial(bordered.apply_adjoint if adjoint else bordered.apply, system_of(solved))
    return jax.lax.custom_linear_solve(apply, rhs, plain, transposed)


def scale_of(solved: Solved) -> jax.Array:
    """() the largest |lambda|, or one."""
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(solved.eigenvalues)))
    return jnp.where(largest > 0, largest, 1)


def _adjoint_tol(solved: Solved, scale: jax.Array) -> jax.Array:
    if solved.adjoint_tol is not None:
        return jnp.full_like(solved.residuals, solved.adjoint_tol)
    unit = float(jnp.finfo(scale.dtype).eps)
    return jax.lax.stop_gradient(jnp.clip(_ADJOINT_SHARE * solved.residuals / scale, 10 * unit, _LOOSEST))


def before_normalization(vector: PyTree, vector_bar: PyTree) -> PyTree:
    """Xbar of one pair."""
    along = tree.inner(vector_bar, vector)
    rest = tree.add_scaled(vector_bar, -along.real, vector)
    unit = at_largest(vector)
    component = tree.inner(unit, vector).real
    turn = along.imag / jnp.where(component > 0, component, 1)
    return tree.add_scaled(rest, jax.lax.complex(jnp.zeros_like(turn), turn), unit)


def _at_fixed_phase(vector: PyTree, tangent: PyTree) -> PyTree:
    """A tangent orthogonal to its vector, turned so that the largest component stays real."""
    unit = at_largest(vector)
    component = tree.inner(unit, vector).real
    turn = tree.inner(unit, tangent).imag / jnp.where(component > 0, component, 1)
    return tree.add_scaled(tangent, jax.lax.complex(jnp.zeros_like(turn), -turn), vector)


def _conjugate(leaf: Any, like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like) if is_zero(leaf) else jnp.conj(leaf)
