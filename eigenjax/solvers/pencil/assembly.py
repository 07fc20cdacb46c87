"""Result of a pencil A x = lambda B x, from approximate eigenvectors.

A Rayleigh-Ritz step in their span, with the matrices X^H A X and X^H B X, gives B-orthonormal vectors and eigenvalues
whose errors are quadratic in those of the vectors. The residuals A x - lambda B x are true: all matvecs are made anew.
The solver's own test decides whether a pair has converged, in the norm of the solver. It is contradicted if

    ||A x - lambda B x||  >  100 tol (||A|| + |lambda| ||B||) ||x||

with lower bounds of the norms from the matvecs with the vectors and with a random one. So a poor inverse is noticed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.operators.base import matvec
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult, Status
from eigenjax.solvers.convergence.status import ROUNDING_FLOOR, tolerance
from eigenjax.solvers.pencil.pencil import Pencil, all_times_a, all_times_b, times_b
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.pseudorandom import arbitrary_vector
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree

# The rounding error of an eigenvalue is below this times eps (||A|| + |lambda| ||B||) ||x|| / ||B x||.
BOUND_ROUNDING = 4.0
# The norm of the solver and the Euclidean one differ by less than this for mass matrices of a condition below 10^4.
_NORMS_DIFFER = 100.0


class Solved(NamedTuple):
    """Vectors found by a solver of the transformed problem, and its judgment of them."""

    vectors: PyTree  # k vectors, without B v
    values: jax.Array | None  # (k,) their eigenvalues by the solver; None if the residuals say enough
    indefinite: jax.Array  # () bool, B is known not to be positive definite
    valid: jax.Array  # (k,) bool, the vector exists
    converged: jax.Array  # (k,) bool, by the solver's own test
    status: jax.Array  # () int32, the solver's status
    num_matvecs: jax.Array  # () int32, matvecs with A
    num_solves: jax.Array | None  # () int32, products with the inverse
    num_probes: jax.Array | None  # () int32, missed-pair searches
    num_recovered: jax.Array | None  # () int32, pairs that only a search found


class _Pairs(NamedTuple):
    values: jax.Array  # (k,)
    vectors: PyTree  # k vectors, B-orthonormal
    residuals: jax.Array  # (k,) ||A x - lambda B x||
    scales: jax.Array  # (k,) (||A|| + |lambda| ||B||) ||x||
    lengths: jax.Array  # (k,) ||B x||
    is_positive: jax.Array  # () bool, no x^H B x is negative


def assembled(
    pencil: Pencil,
    solved: Solved,
    *,
    which: str,
    sigma: Any,
    tol: Any,
    seed: jax.Array,
    references: PyTree | None,
) -> tuple[EigenResult, jax.Array]:
    """Return the result of a pencil, and the (k,) rounding errors of its eigenvalues.

    Args:
        pencil: the pencil.
        solved: approximate eigenvectors.
        which: order of the pairs, if there is no shift.
        sigma: () the shift whose distance orders the pairs, or None.
        tol: tolerance, as above, or `Tolerances`.
        seed: seed of the random vector.
        references: vectors that the signs follow, or None.
    """
    pairs = _rayleigh_ritz(pencil, solved, which, sigma, seed)
    finite = jnp.all(jnp.isfinite(pairs.residuals)) & (solved.status != Status.NONFINITE)
    share = _NORMS_DIFFER * tolerance(tol, pairs.values.dtype, pairs.scales)
    unit = rounding_unit(pencil.a)
    is_small = pairs.residuals <= jnp.maximum(share, ROUNDING_FLOOR * unit) * pairs.scales
    rounding = unit * safe_divide(pairs.scales, pairs.lengths)
    if solved.values is not None:
        # The inverse of another shift has the same vectors.
        allowed = share * jnp.abs(solved.values - sigma) + ROUNDING_FLOOR * rounding
        is_small &= jnp.abs(pairs.values - solved.values) <= allowed
    contradicted = jnp.any(solved.converged & ~is_small) | (solved.status == Status.INCONSISTENT)
    status = jnp.select(
        [solved.indefinite | ~pairs.is_positive, ~finite, contradicted],
        [jnp.int32(code) for code in (Status.INCONSISTENT, Status.NONFINITE, Status.INCONSISTENT)],
        solved.status,
    )
    converged = solved.converged & finite & (status != Status.INCONSISTENT)
    vectors, _ = fix_signs(pairs.vectors, references=references)
    or_nan = lambda x: jnp.where(finite, x, jnp.nan)
    result = EigenResult(
        eigenvalues=or_nan(pairs.values),
        eigenvectors=jax.tree.map(or_nan, vectors),
        residuals=or_nan(pairs.residuals),
        converged=converged,
        status=status,
        num_matvecs=(solved.num_matvecs + pairs.values.shape[0] + 1).astype(jnp.int32),
        num_probes=solved.num_probes,
        num_recovered=solved.num_recovered,
        num_solves=solved.num_solves,
    )
    return result, BOUND_ROUNDING * rounding


def _rayleigh_ritz(pencil: Pencil, solved: Solved, which: str, sigma: Any, seed: jax.Array) -> _Pairs:
    vectors = solved.vectors
    av, bv = all_times_a(pencil, vectors), all_times_b(pencil, vectors)
    stiffness, mass = tree.gram(vectors, av), tree.gram(vectors, bv)
    # Vectors that do not exist are zero: their rows are those of the identity.
    missing = jnp.diag(jnp.where(solved.valid, 0, 1).astype(mass.dtype))
    factor = jnp.linalg.cholesky(_hermitian(mass) + missing)
    solve = lambda rhs: jax.scipy.linalg.solve_triangular(factor, rhs, lower=True)
    reduced = solve(jnp.conj(solve(_hermitian(stiffness))).T)
    values, columns, valid = ritz.masked_eigh(_hermitian(reduced), solved.valid)
    columns = jax.scipy.linalg.solve_triangular(jnp.conj(factor).T, columns, lower=False)
    order = ritz.pair_order(values, which, sigma, valid)
    values, columns = values[order], columns[:, order]
    vectors, av, bv = (tree.combine(columns, block) for block in (vectors, av, bv))
    residuals = jax.vmap(lambda value, x, y: tree.norm(tree.add_scaled(x, -value, y)))(values, av, bv)
    norm_a, norm_b, length = (tree.norms(block) for block in (av, bv, vectors))
    drawn = arbitrary_vector(seed, tree.working_structure(pencil.structure))
    drawn_b = times_b(pencil, drawn)
    size = tree.norm(drawn)
    of_a = jnp.maximum(jnp.max(safe_divide(norm_a, length)), tree.norm(matvec(pencil.a, drawn)) / size)
    of_b = jnp.maximum(jnp.max(safe_divide(norm_b, length)), tree.norm(drawn_b) / size)
    forms = jnp.append(jnp.diagonal(mass).real, tree.inner(drawn, drawn_b).real)
    scales = (of_a + jnp.abs(values) * of_b) * length
    return _Pairs(values, vectors, residuals, scales, norm_b, jnp.all(~(forms < 0)))


def _hermitian(matrix: jax.Array) -> jax.Array:
    return (matrix + jnp.conj(matrix).T) / 2
