"""Convergence information of the linear solves of a reverse pass, from the same solves for a given cotangent.

    P (lambda_i - A) P z_i = P xbar_i,    i = 1 .. k

for symmetric pairs; those for general pairs and for triplets are in `adjoint_general` and `adjoint_singular`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.implicit.gauge import gauge_residual, vectors_cotangent
from eigenjax.implicit.info import adjoint_general, adjoint_singular
from eigenjax.implicit.info.adjoint_info import AdjointInfo, solve_info
from eigenjax.implicit.program import check_max_iter
from eigenjax.implicit.systems import complement
from eigenjax.implicit.systems.pairs import pairs_of
from eigenjax.operators.base import matvec
from eigenjax.operators.convert import as_operator
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.result import EigenResult, SingularResult
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import project_out


@functools.partial(jax.jit, static_argnames=("adjoint_max_iter", "which"))
def _adjoint_info(
    op: Any, result: EigenResult, cotangent: Any, adjoint_tol: Any, *, adjoint_max_iter: int | None, which: str | None
):
    pairs, vectors_bar = pairs_of(op, result, which), vectors_cotangent(result, cotangent)
    gauge = gauge_residual(result, cotangent)
    whole = jax.vmap(tree.norm)(vectors_bar)
    if pairs.eigenvalues.shape[0] == op.size:  # there is no complement
        zeros, none = jnp.zeros_like(whole), jnp.zeros(whole.shape, jnp.int32)
        return solve_info(zeros, whole=whole, targets=zeros, reach=zeros, steps=none, matvecs_per_step=1, gauge=gauge)
    found = complement.iterate(
        pairs, vectors_bar, adjoint_tol=adjoint_tol, max_iter=adjoint_max_iter, definite=which in complement.OUTERMOST
    )

    solutions = project_out(pairs.vectors, found.solution)
    rhs = project_out(pairs.vectors, vectors_bar)
    residuals = jax.tree.map(
        lambda b, z, image: b - _spread(pairs.eigenvalues, z) * z + image,
        rhs,
        solutions,
        jax.vmap(functools.partial(matvec, op))(solutions),
    )
    norms, lengths = jax.vmap(tree.norm)(solutions), jax.vmap(tree.norm)(rhs)
    floors = complement.negligible(vectors_bar)
    return solve_info(
        jax.vmap(tree.norm)(project_out(pairs.vectors, residuals)),
        whole=whole,
        targets=complement.asked(found, pairs, solutions, lengths, floors, adjoint_tol),
        reach=complement.norm_estimate_of(pairs) * norms,
        steps=found.num_matvecs,
        matvecs_per_step=1,
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
    """Solve the linear systems of a reverse pass as jax.grad does, and return their convergence information.

    A gradient carries no flags: if a linear solve fails, the gradient is finite but wrong. To test a gradient, compute
    the cotangent of the vectors and pass it to this function, with the options given to the solver. The gradient of
    `eigsh` itself takes fewer matvecs, because it uses recycled Ritz pairs, which a result does not contain.

    Args:
        op: the operator, anything that the solver takes. For a bare callable the vectors of the result give the
            structure, except for `eigs`: its vectors are complex and the operator may be real, so give `like`.
        result: result of `eigsh` or another symmetric solver, of `eigs` (with complex eigenvalues), or of `svds`.
        cotangent: cotangent of result.eigenvectors, as jax.grad of the loss returns it, or of the whole result, whose
            eigenvalues are used for `eigs` alone. For triplets that of (result.left, result.right), or of the whole.
        adjoint_tol: residual of the linear systems relative to their right-hand sides; None derives it from the pairs.
        adjoint_max_iter: maximal number of matvecs (steps for `svds`) for one pair; static.
        which: the `which` given to `eigsh` unless sigma was; static. The reverse pass uses it to compute the gap of
            each pair. None makes no assumption. Give "SM" for the smallest triplets of `svds`; None is the largest.
        like: structure of the vectors of a bare callable: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        An `AdjointInfo`. If a system has not converged, increase adjoint_max_iter; compute more pairs if result.gap is
        small or eigenvalues coalesce; decrease tol of the solver if a pair is inaccurate. GMRES, used for `eigs`, may
        stagnate far from normal in spite of all this: then do not use the derivative. Nor where the residual of a pair
        times its condition (`left_eigenvectors`) is large: it is then the derivative of another matrix.

    Raises:
        TypeError: if the solver does not accept `op`, or adjoint_max_iter is not an int.
        ValueError: if the cotangent is not shaped like the vectors, or adjoint_max_iter is less than one.

    Cost: that of the solves, and k matvecs to recompute the residuals.

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
        options = {"max_iter": adjoint_max_iter, "which": which}
        return adjoint_singular.information(rectangular, result, cotangent, adjoint_tol, **options)
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
