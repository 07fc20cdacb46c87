"""How the linear solves of a reverse pass go: the same solves, for a given cotangent, with what is known of them.

P (lambda_i - A) P z_i = P xbar_i,    i = 1 .. k
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.implicit import complement
from eigenjax.implicit.gauge import gauge_residual, vectors_cotangent
from eigenjax.implicit.pairs import pairs_of
from eigenjax.implicit.program import check_max_iter
from eigenjax.operators.base import matvec
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult

# What a recurrence says of its residual and the true one differ by a few units of rounding.
_ROUNDING = 100.0


class AdjointInfo(NamedTuple):
    """What is known of the linear solves of one reverse pass."""

    converged: jax.Array
    """(k,) bool: the system was solved as well as asked. Whether the pair is good is result.converged."""
    residuals: jax.Array
    """(k,) ||P xbar_i - P (lambda_i - A) P z_i||, recomputed, over ||xbar_i||; 0 where xbar_i is zero."""
    targets: jax.Array
    """(k,) what they were asked to be."""
    num_matvecs: jax.Array
    """() int32, products of the solves, of the systems that had not converged by then."""
    num_steps: jax.Array
    """() int32, how many times k products were made at once."""
    gauge: jax.Array
    """() `gauge_residual`: how much of the cotangent was dropped because no derivative exists."""


@functools.partial(jax.jit, static_argnames=("adjoint_max_iter", "which"))
def _adjoint_info(
    op: Any, result: EigenResult, cotangent: Any, adjoint_tol: Any, *, adjoint_max_iter: int | None, which: str | None
):
    pairs, vectors_bar = pairs_of(op, result, which), vectors_cotangent(result, cotangent)
    gauge = gauge_residual(result, cotangent)
    lengths = jax.vmap(tree.norm)(vectors_bar)
    if pairs.eigenvalues.shape[0] == op.size:
        nothing, none = jnp.zeros_like(lengths), jnp.zeros((), jnp.int32)
        return AdjointInfo(jnp.ones(lengths.shape, bool), nothing, nothing, none, none, gauge)
    definite = which in complement.ENDS
    found = complement.iterate(
        pairs, vectors_bar, adjoint_tol=adjoint_tol, max_iter=adjoint_max_iter, definite=definite
    )

    solutions = complement.project_out(pairs.vectors, found.solution)
    rhs = complement.project_out(pairs.vectors, vectors_bar)
    misses = jax.tree.map(
        lambda b, z, image: b - _spread(pairs.eigenvalues, z) * z + image,
        rhs,
        solutions,
        jax.vmap(functools.partial(matvec, op))(solutions),
    )
    residuals = jax.vmap(tree.norm)(complement.project_out(pairs.vectors, misses))
    norms = jax.vmap(tree.norm)(solutions)
    asked = complement.targets(pairs, jax.vmap(tree.norm)(rhs), complement.negligible(vectors_bar), adjoint_tol)(norms)
    unit = jnp.finfo(lengths.dtype).eps
    attainable = _ROUNDING * unit * (lengths + complement.scale_of(pairs) * norms)
    relative = lambda x: jnp.where(lengths > 0, x / jnp.where(lengths > 0, lengths, 1), 0)
    return AdjointInfo(
        converged=residuals <= jnp.maximum(asked, attainable),
        residuals=relative(residuals),
        targets=relative(asked),
        num_matvecs=jnp.sum(found.num_matvecs, dtype=jnp.int32),
        num_steps=jnp.max(found.num_matvecs),
        gauge=gauge,
    )


def adjoint_info(
    op: Any,
    result: EigenResult,
    cotangent: Any,
    *,
    adjoint_tol: Any = None,
    adjoint_max_iter: int | None = None,
    which: str | None = None,
) -> AdjointInfo:
    """Solves the linear systems of a reverse pass as jax.grad does, and tells how it went.

    A gradient has no place for flags. Where one is in doubt, compute the cotangent of the eigenvectors by itself and
    give it to this function, with the options that the solver was given. A gradient of `eigsh` takes fewer products
    yet: it makes use of the space that the solve ended with, which no result carries.

    Args:
        op: the operator, whatever `as_operator` takes; of a bare callable the result's eigenvectors are the example.
        result: its eigenpairs.
        cotangent: of result.eigenvectors, as jax.grad of the loss in them gives it, or of the whole result.
        adjoint_tol: as of the solvers: relative residual; None ties it to the residuals of the pairs over the gap.
        adjoint_max_iter: products for one pair at most, static.
        which: how the solver was told to choose, unless near a number; static. The reverse pass knows it, and makes
            use of each pair's own gap. None is what holds for any choice.

    Returns:
        An `AdjointInfo`. What would help where a system has not converged: a larger adjoint_max_iter; more pairs,
        if result.gap is small; a smaller tol of the solver, if a pair itself is bad.

    Raises:
        TypeError: if `op` is nothing that `as_operator` takes, or adjoint_max_iter is no int.
        ValueError: if the cotangent is not shaped like the eigenvectors, or adjoint_max_iter is less than one.

    Cost: that of the solves, and k products to recompute the residuals.

    Example:
        >>> from eigenjax import eigsh
        >>> matrix = jnp.diag(jnp.arange(30.0))
        >>> result = eigsh(matrix, k=2)
        >>> info = adjoint_info(matrix, result, jax.grad(lambda x: jnp.sum(x[:, 3:] ** 3))(result.eigenvectors))
        >>> print(info.converged, info.gauge < 1e-5)
        [ True  True] True
    """
    check_max_iter(adjoint_max_iter)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), result.eigenvectors)
    static = {"adjoint_max_iter": adjoint_max_iter, "which": which}
    return _adjoint_info(as_operator(op, like=like), result, cotangent, adjoint_tol, **static)


def _spread(numbers: jax.Array, x: jax.Array) -> jax.Array:
    return numbers.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
