"""Convergence information of the reverse pass of `eigs`: the complements of its bordered systems.

    P (conj(lambda_i) - A^H) P y_i = P (f_i + A^H Z a_i)

The gauge is the part of the small systems within the span that is dropped because eigenvalues coalesce.
"""

import functools

import jax
import jax.numpy as jnp

from eigenjax.implicit.gauge import vectors_cotangent
from eigenjax.implicit.general import Solved, adjoint_rhs, before_normalization, solve_bordered, system_of
from eigenjax.implicit.info.adjoint_info import AdjointInfo, solve_info
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import is_real
from eigenjax.result import EigenResult
from eigenjax.solvers.linear import bordered
from eigenjax.vectors import tree


@functools.partial(jax.jit, static_argnames="max_iter")
def information(
    op: LinearOperator, result: EigenResult, cotangent, adjoint_tol, *, max_iter: int | None
) -> AdjointInfo:
    """Compute the `AdjointInfo` of general pairs."""
    if adjoint_tol is not None:
        adjoint_tol = jnp.asarray(adjoint_tol).astype(result.residuals.dtype)
    solved = Solved(op, result.eigenvalues, result.eigenvectors, result.residuals, adjoint_tol)
    values_bar = jnp.zeros_like(result.eigenvalues)
    if isinstance(cotangent, EigenResult) and cotangent.eigenvalues is not None:
        values_bar = jnp.conj(jnp.asarray(cotangent.eigenvalues)).astype(values_bar.dtype)
    vectors_bar = jax.vmap(before_normalization)(solved.vectors, vectors_cotangent(result, cotangent))
    rhs = adjoint_rhs(solved, vectors_bar, values_bar)
    found, info = solve_bordered(max_iter, solved, rhs, transposed=False)
    system = system_of(solved)
    return solve_info(
        bordered.residuals(system, rhs, found),
        whole=info.whole,
        targets=info.target,
        reach=system.scale * jax.vmap(tree.norm)(found.vectors),
        steps=info.num_matvecs,
        matvecs_per_step=2 if is_real(op.structure) else 1,
        gauge=jnp.max(info.left_out),
    )
