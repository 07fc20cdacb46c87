"""The derivative of symmetric eigenpairs, the same for every solver.

Differentiate A x_i = lambda_i x_i and <x_i, x_j> = delta_ij, with X = [x_1 .. x_k] and P = I - X X^H:

    d lambda_i = <x_i, dA x_i>
    d x_i      = sum_{j != i} x_j <x_j, dA x_i> / (lambda_i - lambda_j)  +  (P (lambda_i - A) P)^+ P dA x_i

so that for cotangents (lambdabar, Xbar), with G = X^H Xbar, a = (G - G^H) / 2 and F_ji = 1 / (lambda_i - lambda_j),

    Re sum_i lambdabar_i d lambda_i + <xbar_i, d x_i>  =  Re sum_i <w_i, dA x_i>
    W = X (a * F + diag(lambdabar)) + Z,    P (lambda_i - A) P z_i = P xbar_i.

The cotangent of A is sum_i w_i x_i^H. It is never formed: W is pulled back through the map from the operator's
leaves to A X, once. Within a cluster F is zero: for a loss of the invariant subspace a vanishes there and the result
is exact; what another loss would ask for is not defined.

Nothing is differentiated through an iteration, and every piece below is itself differentiable: the forward pass saves
pairs that carry this same rule, and the linear solve knows its own derivative. So the rule holds to any order.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

from eigenjax import tree
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import MatrixOperator, as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.minres import minres
from eigenjax.solvers.warm_start import example_vector
from eigenjax.tree import PyTree

# Options that are arrays, and so arguments of the compiled program; all others are static.
_TRACED = ("tol", "momentum", "sigma", "v0", "key", "preconditioner", "adjoint_tol")
# Two eigenvalues closer than so many times the sum of their residuals are not told apart by the forward solve ...
_CLUSTER_RESIDUALS = 4.0
# ... nor two closer than so many units of rounding of the largest.
_CLUSTER_ROUNDING = 32.0
# The adjoint solve need not be better than the forward one, by this factor to be safe.
_ADJOINT_SHARE = 0.1
# A projected cotangent below so many units of rounding of the whole is zero.
_NEGLIGIBLE = 16.0
# Products that one adjoint system may take: in exact arithmetic n suffice.
_ADJOINT_PRODUCTS_PER_DIMENSION = 10
_ADJOINT_PRODUCTS = 10_000


class _Method(NamedTuple):
    """A solver and its static options: what a compiled program is specific to."""

    solver: Callable[..., EigenResult]
    options: tuple[tuple[str, Any], ...]
    kinds: tuple[type, ...]
    adjoint_max_iter: int | None


class _Solved(NamedTuple):
    """What the backward pass needs of the forward one."""

    op: LinearOperator
    eigenvalues: jax.Array
    vectors: PyTree
    residuals: jax.Array
    adjoint_tol: jax.Array | None


def differentiable(solver: Callable[..., EigenResult]) -> Callable[..., EigenResult]:
    """Makes a solver of symmetric eigenproblems differentiable in its operator, by reverse mode and to any order.

    The result takes two more options: adjoint_tol, the residual of the linear solve relative to the cotangent (None
    ties it to the residual of the pair), and adjoint_max_iter, the products it may take for one pair, static. It is
    compiled once per operator type, shape and static options.

    Args:
        solver: `solver(op, k, **options) -> EigenResult`; what it does inside is not looked at.

    Returns:
        The same function with the derivative above. Its cost beyond the forward solve: one pull-back through k
        products and, where the loss depends on the eigenvectors, about as many products per pair as MINRES needs
        for the complement; none where it depends on the eigenvalues alone. v0 and key get zero cotangents.

    Example:
        >>> from eigenjax import lanczos  # which is differentiable(eigenjax.solvers.lanczos.lanczos)
        >>> loss = lambda a: 6 * lanczos(a, k=1).eigenvectors[0, 1]
        >>> print(jnp.abs(jax.grad(loss)(jnp.diag(jnp.array([4.0, 1.0, 1.0])))).round(4))
        [[0. 1. 0.]
         [1. 0. 0.]
         [0. 0. 0.]]
    """

    @functools.wraps(solver)
    def solve(op: Any, *args: Any, adjoint_tol: Any = None, adjoint_max_iter: int | None = None, **options: Any):
        arguments = inspect.signature(solver).bind(op, *args, **options)
        # Defaults filled in, so that an option left out and the same one given are one program.
        arguments.apply_defaults()
        bound = arguments.arguments
        bound.pop("op")
        traced = {name: bound.pop(name, None) for name in _TRACED if name in bound} | {"adjoint_tol": adjoint_tol}
        static = tuple((name, _static(name, value)) for name, value in sorted(bound.items()))
        # With their types: True is 1 to a cache of programs, and 2.0 is 2, but not to a solver's checks.
        kinds = tuple(type(value) for _, value in static)
        op = as_operator(op, like=example_vector(traced.get("v0")))
        if traced.get("preconditioner") is not None:
            traced["preconditioner"] = as_operator(traced["preconditioner"], like=op.structure)
        return _solve(_Method(solver, static, kinds, adjoint_max_iter), op, traced)

    parameters = list(inspect.signature(solver).parameters.values())
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _ADJOINT_OPTIONS]
    solve.__signature__ = inspect.signature(solver).replace(parameters=parameters + extra)  # type: ignore[attr-defined]
    return solve


_ADJOINT_OPTIONS = ("adjoint_tol", "adjoint_max_iter")


def _static(name: str, value: Any) -> Any:
    if isinstance(value, Tracer):
        raise TypeError(f"{name} is traced, and must be known when the program is compiled: give a Python value")
    return operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(method: _Method, op: LinearOperator, traced: dict[str, Any]) -> EigenResult:
    options = {name: value for name, value in traced.items() if name not in _ADJOINT_OPTIONS}
    return method.solver(op, **dict(method.options), **options)


def _forward(method: _Method, op: Any, traced: Any) -> tuple[EigenResult, _Solved]:
    op, traced = jax.tree.map(lambda leaf: leaf.value, (op, traced), is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    # Through the rule again, not past it: this is what makes the second derivative right.
    result = _solve(method, op, traced)
    return result, _Solved(op, result.eigenvalues, result.eigenvectors, result.residuals, traced["adjoint_tol"])


def _backward(method: _Method, solved: _Solved, cotangent: EigenResult) -> tuple[LinearOperator, None]:
    # JAX's cotangents are the conjugates of those above: conjugate on entry and on exit.
    dtype = solved.eigenvalues.dtype
    values_bar = jnp.zeros_like(solved.eigenvalues) if _is_zero(cotangent.eigenvalues) else cotangent.eigenvalues
    spread = lambda numbers, x: numbers.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
    weights = jax.tree.map(lambda x: spread(values_bar.astype(dtype), x) * x, solved.vectors)
    if not all(_is_zero(leaf) for leaf in jax.tree.leaves(cotangent.eigenvectors, is_leaf=_is_zero)):
        vectors_bar = jax.tree.map(_conjugate, cotangent.eigenvectors, solved.vectors, is_leaf=_is_zero)
        weights = jax.tree.map(jnp.add, weights, _vector_weights(method, solved, vectors_bar))
    return _pull_back(solved.op, solved.vectors, jax.tree.map(jnp.conj, weights)), None


_solve.__wrapped__.defvjp(_forward, _backward, symbolic_zeros=True)  # type: ignore[attr-defined]


def _vector_weights(method: _Method, solved: _Solved, vectors_bar: PyTree) -> PyTree:
    """X (a * F) + Z."""
    inner = tree.gram(solved.vectors, vectors_bar)
    antihermitian = (inner - jnp.conj(inner).T) / 2
    factors = _gap_reciprocals(solved.eigenvalues, solved.residuals).astype(inner.dtype)
    inside = tree.combine(antihermitian * factors, solved.vectors)
    if solved.eigenvalues.shape[0] == solved.op.size:
        return inside  # there is no complement
    return jax.tree.map(jnp.add, inside, _complement(method, solved, vectors_bar))


def _gap_reciprocals(eigenvalues: jax.Array, residuals: jax.Array) -> jax.Array:
    """F_ji = 1 / (lambda_i - lambda_j), zero on the diagonal and within clusters."""
    gaps = eigenvalues[None, :] - eigenvalues[:, None]
    unit = _CLUSTER_ROUNDING * jnp.finfo(eigenvalues.dtype).eps
    width = _CLUSTER_RESIDUALS * (residuals[None, :] + residuals[:, None]) + unit * jnp.max(jnp.abs(eigenvalues))
    apart = jnp.abs(gaps) > jax.lax.stop_gradient(width)
    return jnp.where(apart, 1 / jnp.where(apart, gaps, 1), 0)


def _complement(method: _Method, solved: _Solved, vectors_bar: PyTree) -> PyTree:
    """Z, all pairs together: P (lambda_i - A) P z_i = P xbar_i.

    The system is solved as  [P (lambda_i - A) P + s X X^H] z_i = P xbar_i  with a scale s of A. It has the same
    solution, is symmetric and not singular, and stays true to first order when A and X vary: a derivative of z_i may
    leave the range of P, which the singular system would not let it.
    """
    op, eigenvalues, vectors = solved.op, solved.eigenvalues, solved.vectors
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(eigenvalues)))
    scale = jnp.where(largest > 0, largest, 1)
    inside = lambda z: tree.combine(tree.project(vectors, z), vectors)
    outside = lambda z: tree.add_scaled(z, -1.0, inside(z))

    def shifted(value, z):
        z = outside(z)  # at every product: rounding would bring the eigenvectors back
        return outside(tree.add_scaled(tree.scale(value, z), -1.0, matvec(op, z)))

    # What the projection leaves of a cotangent within the span of X is rounding, and not to be solved for.
    floors = jax.lax.stop_gradient(_NEGLIGIBLE * jnp.finfo(scale.dtype).eps * jax.vmap(tree.norm)(vectors_bar))
    limit = method.adjoint_max_iter or min(_ADJOINT_PRODUCTS_PER_DIMENSION * op.size, _ADJOINT_PRODUCTS)

    def system(z):
        return jax.vmap(lambda value, z: tree.add_scaled(shifted(value, z), scale, inside(z)))(eigenvalues, z)

    def solve(_, rhs):
        def solve_one(value, rhs, tol, floor):
            target = jnp.maximum(tol * tree.norm(rhs), floor)
            found = minres(functools.partial(shifted, value), outside(rhs), target=target, max_iter=limit)
            return tree.add_scaled(outside(found.solution), 1 / scale, inside(rhs))

        return jax.vmap(solve_one)(eigenvalues, rhs, _adjoint_tol(solved, scale), floors)

    # The transpose of a Hermitian map is its conjugate.
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    is_complex = jnp.issubdtype(tree.accumulation_dtype(vectors), jnp.complexfloating)
    transposed = (lambda vecmat, rhs: conjugate(solve(vecmat, conjugate(rhs)))) if is_complex else None
    rhs = jax.vmap(outside)(vectors_bar)
    return jax.lax.custom_linear_solve(system, rhs, solve, transposed, symmetric=not is_complex)


def _adjoint_tol(solved: _Solved, scale: jax.Array) -> jax.Array:
    if solved.adjoint_tol is not None:
        return jnp.full_like(solved.residuals, solved.adjoint_tol)
    unit = float(jnp.finfo(scale.dtype).eps)
    return jax.lax.stop_gradient(jnp.clip(_ADJOINT_SHARE * solved.residuals / scale, 10 * unit, unit**0.5))


def _pull_back(op: LinearOperator, vectors: PyTree, weights: PyTree) -> LinearOperator:
    products = lambda op: jax.vmap(functools.partial(matvec, op))(vectors)
    (op_bar,) = jax.vjp(products, op)[1](weights)
    return jax.tree.map(_symmetrized, op_bar, is_leaf=lambda part: isinstance(part, MatrixOperator))


def _symmetrized(part: Any) -> Any:
    # A matrix stands for a symmetric operator: it varies in symmetric directions only, as in jnp.linalg.eigh.
    if isinstance(part, MatrixOperator) and isinstance(part.matrix, jax.Array):
        return MatrixOperator((part.matrix + jnp.conj(part.matrix).T) / 2)
    return part


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, SymbolicZero)


def _conjugate(leaf: Any, like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like) if _is_zero(leaf) else jnp.conj(leaf)
