"""Solver of generalized and shift-inverted symmetric problems.

Thick-restart Lanczos, or LOBPCG with a preconditioner, runs on an operator with the eigenvectors of the pencil
(`transforms`); its residuals are

    ||B^-1 (A x - lambda B x)||_B,    or    ||(A - s B)^-1 B x - theta x||_B  <=  tol |theta|  with an inverse.

The result of the pencil is assembled from its vectors (`assembly`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.krylov.rayleigh_ritz import Extraction
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.krylov.thick_restart import outside_of_basis
from eigenjax.result import EigenResult, Status
from eigenjax.solvers.convergence.status import tolerance
from eigenjax.solvers.pencil.assembly import Solved, assembled
from eigenjax.solvers.pencil.mass import cheap_solver, is_indefinite
from eigenjax.solvers.pencil.pencil import Pencil
from eigenjax.solvers.pencil.transforms import (
    MassInverseOperator,
    OnImages,
    in_metric,
    inverted,
    plain,
    transformed,
)
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.finalize import finalize
from eigenjax.solvers.symmetric.lobpcg import lobpcg
from eigenjax.solvers.symmetric.plan import Plan, initialize_solve
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.solvers.warm_start import start_rows
from eigenjax.vectors import storage, tree
from eigenjax.vectors.arithmetic import matmul, safe_divide
from eigenjax.vectors.pseudorandom import fold_in, seed_of

# The seed of the random vector of the assembly, derived from that of the solve.
_ASSEMBLY = 7


def solve_pencil(pencil: Pencil, plan: Plan, v0: Any, sigma: Any, key: jax.Array | None) -> WithRecycled[EigenResult]:
    """Compute k eigenpairs of a pencil by thick-restart Lanczos on the transformed operator.

    Args:
        pencil: the pencil.
        plan: checked options; `which` and `relative` are those of the transformed problem.
        v0: start of the solve, vectors of A.
        sigma: () the shift; of the inverse, if there is one, else of the harmonic Ritz pairs, or unused.
        key: typed key, or None.
    """
    op, spec, seed = transformed(pencil), plan.spec, seed_of(key)
    rows = start_rows(pencil.a, v0)
    start = None if rows is None else in_metric(pencil, rows)
    state, given, _ = initialize_solve(op, plan, start, seed)
    advance = lambda state: restarted_lanczos.step(op, state, spec, tol=plan.tol, sigma=sigma, given=given)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    result = finalize(op, state, spec, tol=plan.tol, sigma=sigma)
    shifted = pencil.inverse is not None
    sigma = pencil.shift if shifted else sigma
    result = _judged_relative(result, plan.tol) if spec.relative else result
    result = result._replace(eigenvectors=_multiplied(state, spec.k)) if shifted else result
    solved = _solved(result, jnp.isfinite(state.found.residuals[: spec.k]), shifted)
    if shifted:
        solved = solved._replace(values=inverted(sigma, result.eigenvalues))
    if isinstance(op, MassInverseOperator):
        solved = solved._replace(indefinite=is_indefinite(op.b, op.solve))
    nearest = sigma if shifted or spec.interior else None
    options = {"which": spec.which, "sigma": nearest, "tol": plan.tol, "seed": fold_in(seed, _ASSEMBLY)}
    assembly, rounding = assembled(pencil, solved, **options, references=rows)
    if shifted:
        assembly = _with_shifted_bounds(assembly, result, state.found, sigma)
    else:
        bounds = {"error_bounds": result.error_bounds, "error_estimates": result.error_estimates}
        assembly = assembly._replace(**bounds, gap=result.gap)
    errors, estimates = assembly.error_bounds, assembly.error_estimates
    assert errors is not None
    assert estimates is not None
    # With the inverse of another shift the values of the solver say nothing.
    unknown = jnp.where(assembly.status == Status.INCONSISTENT, jnp.inf, jnp.zeros_like(errors))
    assembly = assembly._replace(
        error_bounds=errors + rounding + unknown, error_estimates=jnp.maximum(estimates, rounding) + unknown
    )
    # The derivative distinguishes eigenvalues by the errors of the solver alone.
    return WithRecycled(assembly, errors)


def solve_preconditioned(
    pencil: Pencil, k: int, *, which: str, tol: Any, max_matvecs: int | None, preconditioner: Any, v0: Any, key: Any
) -> EigenResult:
    """Compute k eigenpairs of a pencil by LOBPCG with a preconditioner T of A - s B."""
    assert pencil.b is not None
    op = MassInverseOperator(pencil.a, pencil.b, cheap_solver(pencil.b))
    rows = start_rows(pencil.a, v0)
    start = None if rows is None else in_metric(pencil, rows)
    if rows is not None and jax.tree.leaves(rows)[0].shape[0] != k:
        start = tree.row(start, 0)
    options = {"which": which, "tol": tol, "max_matvecs": max_matvecs, "v0": start, "key": key}
    result = lobpcg(op, k, preconditioner=OnImages(preconditioner, pencil.b), **options)
    solved = _solved(result, jnp.ones(k, bool), False)
    seed = fold_in(seed_of(key), _ASSEMBLY)
    return assembled(pencil, solved, which=which, sigma=None, tol=tol, seed=seed, references=rows)[0]


def _solved(result: EigenResult, valid: jax.Array, shifted: bool) -> Solved:
    zero = jnp.zeros_like(result.num_matvecs)
    return Solved(
        vectors=plain(result.eigenvectors),
        values=None,
        indefinite=jnp.zeros((), bool),
        valid=valid,
        converged=result.converged,
        status=result.status,
        num_matvecs=zero if shifted else result.num_matvecs,
        num_solves=result.num_matvecs if shifted else None,
        num_probes=result.num_probes,
        num_recovered=result.num_recovered,
    )


def _multiplied(state: RestartedState, k: int) -> Any:
    """Compute F B x_i / theta_i from the recurrence, at no product.

    Multiplication by the inverse damps the errors along the far end of the spectrum, which dominate A x - lambda B x
    (purification, Nour-Omid, Parlett, Ericsson and Jensen 1987).
    """
    part = state.krylov
    scales = safe_divide(1, state.found.values[:k], where=state.found.values[:k] != 0, otherwise=0)
    coefficients = state.found.coefficients[:, :k] * scales.astype(part.matrix.dtype)[None, :]
    images = storage.combine(matmul(part.matrix, coefficients), part.basis)
    images = jax.tree.map(jnp.add, images, tree.combine(matmul(part.coupling, coefficients), part.residual_block))
    outside = outside_of_basis(part, jnp.ones((), bool))
    dropped = jax.tree.map(lambda x: x[None], outside)
    return jax.tree.map(jnp.add, images, tree.combine(matmul(part.dropped_couplings, coefficients)[None, :], dropped))


def _judged_relative(result: EigenResult, tol: Any) -> EigenResult:
    """Return the result with pairs converged relative to their own eigenvalue."""
    sizes = jnp.abs(result.eigenvalues)
    allowed = tolerance(tol, sizes.dtype, safe_divide(1, sizes)) * sizes
    converged = result.converged & (result.residuals <= allowed)
    missed = jnp.all(result.converged) & ~jnp.all(converged)
    # The solve goes on until its bounds hold, or rounding ends it.
    status = jnp.where(missed, jnp.int32(Status.STAGNATED), result.status)
    return result._replace(converged=converged, status=status)


def _with_shifted_bounds(assembly: EigenResult, result: EigenResult, found: Extraction, sigma: Any) -> EigenResult:
    """Return the result of a pencil with the bounds and the gap of the inverse's eigenvalues, as those of lambda.

    |theta - theta'| <= e gives |lambda - lambda'| <= e / (|theta| (|theta| - e)), the values being s + 1 / theta.
    """
    values = result.eigenvalues
    widened = lambda error: jnp.where(
        error < jnp.abs(values), safe_divide(error, jnp.abs(values) * (jnp.abs(values) - error)), jnp.inf
    )
    k = values.shape[0]
    gap = jnp.full((), jnp.inf, values.dtype)
    if found.values.shape[0] > k:
        nearest = jnp.min(jnp.abs(assembly.eigenvalues - inverted(sigma, found.values[k])))
        gap = jnp.where(jnp.isfinite(found.residuals[k]), nearest, jnp.inf)
    bounds, estimates = map(widened, (result.error_bounds, result.error_estimates))
    return assembly._replace(error_bounds=bounds, error_estimates=estimates, gap=gap)
