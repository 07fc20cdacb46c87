"""How the linear solves of a reverse pass go: the same solves, for a given cotangent, with what is known of them.

    P (lambda_i - A) P z_i = P xbar_i,    i = 1 .. k

of symmetric pairs; those of general pairs and of triplets are in `adjoint_general` and `adjoint_singular`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.implicit.gauge import gauge_residual, vectors_cotangent
from eigenjax.implicit.info import adjoint_general, adjoint_singular
from eigenjax.implicit.info.adjoint_info import AdjointInfo, judged
from eigenjax.implicit.program import check_max_iter
from eigenjax.implicit.systems import complement
from eigenjax.implicit.systems.pairs import pairs_of
from eigenjax.operators.base import matvec
from eigenjax.operators.convert import as_operator
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.result import EigenResult, SingularResult
from eigenjax.vectors import tree


@functools.partial(jax.jit, static_argnames=("adjoint_max_iter", "which"))
def _adjoint_info(
    op: Any, result: EigenResult, cotangent: Any, adjoint_tol: Any, *, adjoint_max_iter: int | None, which: str | None
):
    pairs, vectors_bar = pairs_of(op, result, which), vectors_cotangent(result, cotangent)
    gauge = gauge_residual(result, cotangent)
    whole = jax.vmap(tree.norm)(vectors_bar)
    if pairs.eigenvalues.shape[0] == op.size:  # there is no complement
        nothing, none = jnp.zeros_like(whole), jnp.zeros(whole.shape, jnp.int32)
        return judged(nothing, whole=whole, targets=nothing, reach=nothing, steps=none, products=1, gauge=gauge)
    found = complement.iterate(
        pairs, vectors_bar, adjoint_tol=adjoint_tol, max_iter=adjoint_max_iter, definite=which in complement.OUTERMOST
    )

    solutions = complement.project_out(pairs.vectors, found.solution)
    rhs = complement.project_out(pairs.vectors, vectors_bar)
    misses = jax.tree.map(
        lambda b, z, image: b - _spread(pairs.eigenvalues, z) * z + image,
        rhs,
        solutions,
        jax.vmap(functools.partial(matvec, op))(solutions),
    )
    norms, lengths = jax.vmap(tree.norm)(solutions), jax.vmap(tree.norm)(rhs)
    floors = complement.negligible(vectors_bar)
    return judged(
        jax.vmap(tree.norm)(complement.project_out(pairs.vectors, misses)),
        whole=whole,
        targets=complement.asked(found, pairs, solutions, lengths, floors, adjoint_tol),
        reach=complement.scale_of(pairs) * norms,
        steps=found.num_matvecs,
        products=1,
        gauge=gauge,
    )


@explained
def adjoint_info(
    op: Any,
    result: EigenResult | SingularResult,
    cotangent: Any,
    *,
    adjoint_tol: Any = None,
    adjoint_max_iter: int | None = None,
    which: str | None = None,
    like: Any = None,
) -> AdjointInfo:
    """Solves the linear systems of a reverse pass as jax.grad does, and tells how it went.

    A gradient has no place for flags: where a solve fails, it is finite and wrong. Where one is in doubt, compute the
    cotangent of the vectors by itself and give it to this function, with the options that the solver was given. A
    gradient of `eigsh` takes fewer products yet: it makes use of the space that the solve ended with, which no result
    carries.

    Args:
        op: the operator, whatever the solver takes; of a bare callable the result's vectors are the example
            (not of `eigs`, whose vectors are complex and the operator may not be: give `like`).
        result: of `eigsh` and the other symmetric solvers, of `eigs` (whose eigenvalues are complex), or of `svds`.
        cotangent: of result.eigenvectors, as jax.grad of the loss in them gives it, or of the whole result, whose
            eigenvalues matter to `eigs` alone. Of triplets that of (result.left, result.right), or of the whole.
        adjoint_tol: as of the solvers: relative residual; None ties it to the residuals of the pairs.
        adjoint_max_iter: products (of `svds` steps) for one pair at most, static.
        which: how `eigsh` was told to choose, unless near a number; static. The reverse pass knows it, and makes
            use of each pair's own gap. None is what holds for any choice.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        An `AdjointInfo`. What would help where a system has not converged: a larger adjoint_max_iter; more pairs, if
        result.gap is small or eigenvalues coalesce; a smaller tol of the solver, if a pair itself is bad. GMRES, of
        `eigs`, may stagnate far from normal whatever is done: such a derivative is not to be used.

    Raises:
        TypeError: if `op` is nothing that the solver takes, or adjoint_max_iter is no int.
        ValueError: if the cotangent is not shaped like the vectors, or adjoint_max_iter is less than one.

    Cost: that of the solves, and k products to recompute the residuals.

    Example:
        >>> from eigenjax import eigsh
        >>> matrix = jnp.diag(jnp.arange(30.0)) + jnp.ones((30, 30))
        >>> result = eigsh(matrix, k=2)
        >>> info = adjoint_info(matrix, result, jax.grad(lambda x: jnp.sum(x[:, 3:] ** 3))(result.eigenvectors))
        >>> print(info.converged, info.gauge < 1e-5)
        [ True  True] True
    """
    check_max_iter(adjoint_max_iter)
    if isinstance(result, SingularResult):
        rectangular = as_rectangular(op, like=_one_of(result.right) if like is None else like)
        return adjoint_singular.information(rectangular, result, cotangent, adjoint_tol, max_iter=adjoint_max_iter)
    if jnp.issubdtype(result.eigenvalues.dtype, jnp.complexfloating):
        square = as_operator(op, like=like)
        return adjoint_general.information(square, result, cotangent, adjoint_tol, max_iter=adjoint_max_iter)
    square = as_operator(op, like=_one_of(result.eigenvectors) if like is None else like)
    static = {"adjoint_max_iter": adjoint_max_iter, "which": which}
    return _adjoint_info(square, result, cotangent, adjoint_tol, **static)


def _one_of(vectors: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), vectors)


def _spread(numbers: jax.Array, x: jax.Array) -> jax.Array:
    return numbers.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
