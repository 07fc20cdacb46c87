"""The derivative of singular triplets.

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

(with j = i in the second term of M, the phase between u and v, but not in the first, the phase that they share). The
cotangent of A is sum_i w_i v_i^H + u_i y_i^H. It is never formed: W and U are pulled back through the map from the
operator's leaves to A V and A Y. The adjoint of the operator is used, but not differentiated.

For tangents the same numbers and systems: du_i = sum_j u_j N_ji + x_i with N = ((D + D^H) / (s_i - s_j) +
(D - D^H) / (s_i + s_j)) / 2, the sign of the second term the other for dv_i, and [P_U dA v_i; P_V dA^H u_i] on the
right of the systems. The tangent of the adjoint is taken there.

The first term is zero within clusters, the second where both values are zero, and so are x_i and y_i where s_i is: a
loss that does not depend on the choice of vectors there gets its exact gradient, and no other is defined. All
pieces are differentiable themselves, so that the rule holds to any order.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.implicit.pairs import CLUSTER_RESIDUALS, CLUSTER_ROUNDING
from eigenjax.implicit.program import Method, bind, signature
from eigenjax.implicit.tangents import is_zero, no_tangent, tangent_along
from eigenjax.operators.base import matvec as symmetric_matvec
from eigenjax.operators.rectangular import Dilation, RectangularOperator, adjoint_matvec, as_rectangular, matvec
from eigenjax.result import SingularResult
from eigenjax.solvers.minres import LinearSolution, minres
from eigenjax.tree import PyTree

# The adjoint solve need not be better than the forward one, by this factor to be safe.
_ADJOINT_SHARE = 0.1
# A projected cotangent below so many units of rounding of the whole is zero.
_NEGLIGIBLE = 16.0
# Products that one adjoint system may take: in exact arithmetic p + n suffice.
_ADJOINT_PRODUCTS_PER_DIMENSION = 10
_ADJOINT_PRODUCTS = 10_000


class Solved(NamedTuple):
    """What the backward pass needs of the forward one."""

    op: RectangularOperator
    left: PyTree
    values: jax.Array
    right: PyTree
    residuals: jax.Array
    adjoint_tol: jax.Array | None


def differentiable(solver: Callable[..., SingularResult]) -> Callable[..., SingularResult]:
    """Makes a solver of singular triplets differentiable in its operator, to any order.

    The result takes three more options: `derivative`, static, "reverse" for jax.grad to any order or "forward" for
    jax.jvp, jacfwd and jax.hessian, and for jax.grad too; adjoint_tol, the residual of the linear solve relative to its
    right-hand side (None ties it to the residual of the triplet), and adjoint_max_iter, the steps it may take for one
    triplet, static. It is compiled once per operator type, shape and static options.

    Args:
        solver: `solver(op, k, *, tol, v0, key, adjoint, **static) -> SingularResult`; what it does inside is not
            looked at.

    Returns:
        The same function with the derivative above. Its cost beyond the forward solve: one pull-back through k
        products and, where the loss depends on the vectors, one through k more and about as many steps per triplet,
        of a product with A and one with A^H, as MINRES needs for the complement; none where it depends on the values
        alone. v0 and key get zero cotangents.
    """

    @functools.wraps(solver)
    def solve(op: Any, *args: Any, **options: Any) -> SingularResult:
        method, derivative, op, traced = bind(solver, op, args, options, take=_rectangular)
        return {"reverse": _solve, "forward": _solve_forward}[derivative](method, op, traced)

    solve.__signature__ = signature(solver)  # type: ignore[attr-defined]
    return solve


def _rectangular(op: Any, options: dict[str, Any]) -> RectangularOperator:
    return as_rectangular(op, like=options["v0"], adjoint=options.pop("adjoint"))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(method: Method, op: RectangularOperator, traced: dict[str, Any]) -> SingularResult:
    return method.solve(op, traced)


def _forward(method: Method, op: Any, traced: Any) -> tuple[SingularResult, Solved]:
    op, traced = jax.tree.map(lambda leaf: leaf.value, (op, traced), is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    # Through the rule again, not past it: this is what makes the second derivative right.
    result = _solve(method, op, traced)
    return result, _solved(op, result, traced)


def _solved(op: RectangularOperator, result: SingularResult, traced: dict[str, Any]) -> Solved:
    return Solved(op, result.left, result.values, result.right, result.residuals, traced["adjoint_tol"])


def _backward(method: Method, solved: Solved, cotangent: SingularResult) -> tuple[RectangularOperator, None]:
    # JAX's cotangents are the conjugates of those above: conjugate on entry and on exit.
    values_bar = jnp.zeros_like(solved.values) if is_zero(cotangent.values) else cotangent.values
    vectors, weights = solved.right, jax.vmap(tree.scale)(values_bar, solved.left)
    bars, pair = (cotangent.left, cotangent.right), (solved.left, solved.right)
    if not all(is_zero(leaf) for leaf in jax.tree.leaves(bars, is_leaf=is_zero)):
        bars = jax.tree.map(_conjugate, bars, pair, is_leaf=is_zero)
        weights = jax.tree.map(jnp.add, weights, tree.combine(_within(solved, *bars), solved.left))
        if solved.values.shape[0] < max(solved.op.shape):  # else there is no complement
            x, y = _complement(method, solved, bars)
            weights = jax.tree.map(jnp.add, weights, x)
            stacked = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a, b]))
            vectors, weights = stacked(solved.right, y), stacked(weights, solved.left)
    products = lambda op: jax.vmap(functools.partial(matvec, op))(vectors)
    return jax.vjp(products, solved.op)[1](jax.tree.map(jnp.conj, weights))[0], None


_solve.__wrapped__.defvjp(_forward, _backward, symbolic_zeros=True)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve_forward(method: Method, op: RectangularOperator, traced: dict[str, Any]) -> SingularResult:
    return method.solve(op, traced)


def _tangent(method: Method, primals: Any, tangents: Any) -> tuple[SingularResult, SingularResult]:
    op, traced = primals
    # Through the rule again, as above.
    result = _solve_forward(method, op, traced)
    solved, still = _solved(op, result, traced), jax.tree.map(no_tangent, result)
    images = tangent_along(functools.partial(_both_images, left=result.left, right=result.right), op, tangents[0])
    if images is None:
        return result, still
    inner = tree.gram(result.left, images[0])
    between, across = reciprocal_gaps(solved, inner.dtype)
    conjugate = jnp.conj(inner).T
    apart, together = (inner - conjugate) * across, (inner + conjugate) * between
    left = tree.combine((together + apart) / 2, result.left)
    right = tree.combine((together - apart) / 2, result.right)
    if result.values.shape[0] < max(op.shape):  # else there is no complement
        left, right = jax.tree.map(jnp.add, (left, right), _complement(method, solved, images))
    values = jnp.diagonal(inner).real.astype(result.values.dtype)
    return result, still._replace(left=left, values=values, right=right)


_solve_forward.__wrapped__.defjvp(_tangent, symbolic_zeros=True)  # type: ignore[attr-defined]


def _both_images(op: RectangularOperator, *, left: PyTree, right: PyTree) -> PyTree:
    """A V and A^H U."""
    return jax.vmap(functools.partial(matvec, op))(right), jax.vmap(functools.partial(adjoint_matvec, op))(left)


def _within(solved: Solved, left_bar: PyTree, right_bar: PyTree) -> jax.Array:
    """(k, k) M without the part of the values."""
    aU, aV = (antihermitian(tree.gram(*x)) for x in ((solved.left, left_bar), (solved.right, right_bar)))
    between, across = reciprocal_gaps(solved, aU.dtype)
    return (aU + aV) * between + (aU - aV) * across


def reciprocal_gaps(solved: Solved, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """(k, k) 1 / (s_i - s_j), zero within clusters, and 1 / (s_i + s_j), zero where both are."""
    values, width = solved.values, width_of(solved)
    widths = width[:, None] + width[None, :]
    between = _reciprocal(values[None, :] - values[:, None], widths)
    return between.astype(dtype), _reciprocal(values[None, :] + values[:, None], widths).astype(dtype)


def width_of(solved: Solved) -> jax.Array:
    """(k,) how far a value may be from where it was found, for all that the forward solve knows."""
    unit = CLUSTER_ROUNDING * jnp.finfo(solved.values.dtype).eps / 2
    return jax.lax.stop_gradient(CLUSTER_RESIDUALS * solved.residuals + unit * jnp.max(solved.values))


def _reciprocal(numbers: jax.Array, width: jax.Array) -> jax.Array:
    """1 / x, or zero where |x| may be nothing."""
    apart = jnp.abs(numbers) > width
    return jnp.where(apart, 1 / jnp.where(apart, numbers, 1), 0)


def antihermitian(inner: jax.Array) -> jax.Array:
    """(G - G^H) / 2."""
    return (inner - jnp.conj(inner).T) / 2


class Systems(NamedTuple):
    """(s_i - H) z_i = P zbar_i on the complement, for the dilation H = [[0, A], [A^H, 0]] and P = diag(P_U, P_V)."""

    solved: Solved

    def scale(self) -> jax.Array:
        """() the largest singular value, or one."""
        largest = jax.lax.stop_gradient(jnp.max(self.solved.values))
        return jnp.where(largest > 0, largest, 1)

    def inside(self, z: PyTree) -> PyTree:
        """What of a pair of vectors lies within the spans of U and V."""
        return _projected(self.solved.left, z[0]), _projected(self.solved.right, z[1])

    def outside(self, z: PyTree) -> PyTree:
        """P z."""
        return tree.add_scaled(z, -1.0, self.inside(z))

    def shifted(self, value: jax.Array, z: PyTree) -> PyTree:
        """P (s - H) P z."""
        z = self.outside(z)  # at every product: rounding would bring the vectors found back
        image = symmetric_matvec(Dilation(self.solved.op), z)
        return self.outside(tree.add_scaled(tree.scale(value, z), -1.0, image))

    def solve(self, bars: PyTree, max_iter: int | None) -> tuple[LinearSolution, jax.Array]:
        """The k solutions, with how each went, and the residuals to stop at."""
        size = sum(self.solved.op.shape)
        limit = max_iter or min(_ADJOINT_PRODUCTS_PER_DIMENSION * size, _ADJOINT_PRODUCTS)

        def one(value, bar, tol):
            projected = self.outside(bar)
            # What the projection leaves of a vector within the span of U and V is rounding, and not to be solved for.
            floor = _NEGLIGIBLE * jnp.finfo(tol.dtype).eps * tree.norm(bar)
            target = jnp.maximum(tol * tree.norm(projected), floor)
            found = minres(functools.partial(self.shifted, value), projected, target=target, max_iter=limit)
            return found._replace(solution=self.outside(found.solution)), target

        return jax.vmap(one)(self.solved.values, bars, _adjoint_tol(self.solved, self.scale()))


def positive(solved: Solved) -> jax.Array:
    """(k,) one, and zero for a value that may be zero: of that nothing is defined outside."""
    return (solved.values > 2 * width_of(solved)).astype(solved.values.dtype)


def _complement(method: Method, solved: Solved, bars: PyTree) -> PyTree:
    """(X, Y), all triplets together: the `Systems`, differentiable.

    With a scale c of A, what is solved is [P (s_i - H) P + c (I - P)] z_i = P zbar_i. It has the same solution, is
    symmetric and not singular, and stays true to first order when A, U and V vary: a derivative of z_i may leave the
    range of P, which the singular system would not let it.
    """
    systems = Systems(solved)
    scale = systems.scale()

    def apply(z):
        one = lambda value, z: tree.add_scaled(systems.shifted(value, z), scale, systems.inside(z))
        return jax.vmap(one)(solved.values, z)

    def solve(_, rhs):
        found = systems.solve(rhs, method.adjoint_max_iter)[0].solution
        return jax.tree.map(jnp.add, found, jax.vmap(lambda z: tree.scale(1 / scale, systems.inside(z)))(rhs))

    # The transpose of a Hermitian map is its conjugate.
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    is_complex = jnp.issubdtype(tree.accumulation_dtype((solved.left, solved.right)), jnp.complexfloating)
    transposed = (lambda vecmat, rhs: conjugate(solve(vecmat, conjugate(rhs)))) if is_complex else None
    # Before the solve and after it, for the derivatives.
    masked = lambda z: jax.vmap(tree.scale)(positive(solved), z)
    # What lies within the span goes through, for the solve to see how large the whole was, and is taken out.
    whole = jax.lax.custom_linear_solve(apply, masked(bars), solve, transposed, symmetric=not is_complex)
    return masked(jax.vmap(systems.outside)(whole))


def _projected(rows: PyTree, vector: PyTree) -> PyTree:
    """The part of a vector in the span of orthonormal rows."""
    return tree.combine(tree.project(rows, vector), rows)


def _adjoint_tol(solved: Solved, scale: jax.Array) -> jax.Array:
    if solved.adjoint_tol is not None:
        return jnp.full_like(solved.residuals, solved.adjoint_tol)
    unit = float(jnp.finfo(scale.dtype).eps)
    return jax.lax.stop_gradient(jnp.clip(_ADJOINT_SHARE * solved.residuals / scale, 10 * unit, unit**0.5))


def _conjugate(leaf: Any, like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like) if is_zero(leaf) else jnp.conj(leaf)
