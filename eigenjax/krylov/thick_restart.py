"""Thick restart: the vectors to keep of a full decomposition, and the next residual block."""

import jax
import jax.numpy as jnp

from eigenjax.krylov import lanczos_polynomials
from eigenjax.krylov.decomposition import KrylovDecomposition, combined_defects, compress
from eigenjax.krylov.lanczos_polynomials import LanczosPolynomials
from eigenjax.krylov.rayleigh_ritz import EXTRA_INTERIOR, Extraction, harmonic_directions
from eigenjax.krylov.restart_size import max_keep, num_keep
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.vectors import storage, tree
from eigenjax.vectors.arithmetic import matmul, safe_divide
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import project_out_of_vector
from eigenjax.vectors.tree import PyTree

# A kept pair may perturb a pair that a search finds by less than this share of the bound on its residual.
_PERTURBATION_SHARE = 0.3


def kept_coefficients(
    state: KrylovDecomposition, found: Extraction, spec: SolveSpec, fresh: jax.Array, bound: jax.Array
) -> jax.Array:
    """Return (m, p) C, the coefficients of the vectors to keep, the most wanted first; unused columns are zero.

    Args:
        state: the decomposition.
        found: its approximate pairs.
        spec: options, with k, which and interior.
        fresh: () bool, a random direction follows.
        bound: () bound on the residuals of wanted pairs.
    """
    b, m = state.coupling.shape
    # Harmonic pairs that are mixed by a Rayleigh-Ritz step are kept together: a part has no common residual.
    wanted = spec.k + EXTRA_INTERIOR - 1 if spec.interior else spec.k
    most = max_keep(wanted, m, b)
    index = jnp.arange(most, dtype=jnp.int32)
    keep = index < num_keep(found.values, state.num_valid, wanted, most, state.num_keep)
    locked = index < spec.k
    if spec.floor is not None:
        locked = locked & (found.values[:most] > spec.floor)
    if not spec.interior:
        locked = locked | (keep & _stand_apart(found, spec, bound)[:most])
    return jnp.where(jnp.where(fresh, locked, keep), found.coefficients[:, :most], 0)


def _stand_apart(found: Extraction, spec: SolveSpec, bound: jax.Array) -> jax.Array:
    """Return which unwanted pairs may be kept beside a random direction, (m,) bool; they speed up the search.

    Their dropped residuals perturb a pair that the search finds. Their component along its eigenvector is at most
    residual / gap, with the gap to the wanted values. So the perturbation is at most residual^2 / gap.
    """
    values = jnp.abs(found.values) if spec.which == "LM" else found.values
    wanted = values[: spec.k]
    if spec.floor is not None:
        wanted = jnp.where(wanted > spec.floor, wanted, jnp.inf)
    gaps = jnp.min(jnp.abs(values[:, None] - wanted[None, :]), axis=1)
    return jnp.square(found.residuals) <= _PERTURBATION_SHARE * bound * gaps


def translate(state: KrylovDecomposition, coefficients: jax.Array, target: jax.Array) -> KrylovDecomposition:
    """Replace the residual block by the one that continues the kept harmonic Ritz vectors."""
    along_basis, along_directions, coupling = harmonic_directions(state, coefficients, target)
    residual_block = jax.tree.map(
        jnp.add, storage.combine(along_basis, state.basis), tree.combine(along_directions, state.residual_block)
    )
    polynomials = state.polynomials
    of_dtype = lambda x: x.astype(polynomials.rows.dtype)
    values = matmul(polynomials.rows, of_dtype(along_basis))
    values += matmul(polynomials.residual_block, of_dtype(along_directions))
    # For `restart`, which multiplies by C; the columns of C are orthonormal.
    return state._replace(
        residual_block=residual_block,
        coupling=matmul(coupling, jnp.conj(coefficients).T),
        polynomials=polynomials._replace(residual_block=values),
    )


def restart(
    state: KrylovDecomposition,
    coefficients: jax.Array,
    found: Extraction,
    fresh: jax.Array,
    levels: jax.Array,
    *,
    translated: bool,
) -> KrylovDecomposition:
    """Replace V by V C, and continue with the residual block or with random directions.

    Args:
        state: the decomposition.
        coefficients: C, from `kept_coefficients`.
        found: the approximate pairs, whose residuals are dropped before a random direction.
        fresh: () bool, continue with random directions.
        levels: (L,) numbers at which the polynomials of a random direction are evaluated.
        translated: whether the residual block comes from `translate`, orthonormal up to rounding; static.
    """
    coupling = matmul(state.coupling, coefficients)
    # Random directions replace pending zeros.
    residual_block = tree.where(fresh, jax.tree.map(jnp.zeros_like, state.residual_block), state.residual_block)
    if state.block_size == 1 and not translated:
        # All residuals are along the one direction, which becomes w. Only the norms of the terms along the previous w
        # are kept.
        dropped_norms = jnp.abs(matmul(state.dropped_couplings, coefficients))
        state = state._replace(
            dropped=tree.where(fresh, tree.row(state.residual_block, 0), state.dropped),
            dropped_couplings=jnp.where(fresh, state.coupling[0], state.dropped_couplings),
        )
    else:
        # The residuals contain the earlier defects, which `compress` adds again.
        residuals = jnp.where(jnp.any(coefficients != 0, axis=0), found.residuals[: coefficients.shape[1]], 0)
        dropped_norms = _without(residuals, combined_defects(state, coefficients))
    new = compress(state, coefficients, jnp.where(fresh, 0, coupling), jnp.where(fresh, dropped_norms, 0))
    values = begin_search(new, levels)
    polynomials = jax.tree.map(lambda x, y: jnp.where(fresh, x, y), values, new.polynomials)
    return new._replace(residual_block=residual_block, pending=fresh | translated, polynomials=polynomials)


def outside_of_basis(state: KrylovDecomposition, needed: jax.Array) -> PyTree:
    """Return w without its part in V if `needed`, () bool; H contains that part, and a restart would lose it from V."""
    # Once: what remains in V is rounding of a unit vector, and counts only times the couplings. In a loop, because
    # elsewhere XLA would hold a second copy of the basis.
    remove = lambda dropped: project_out_of_vector(state.basis, dropped)
    return apply_when(needed & jnp.any(state.dropped_couplings != 0), remove, state.dropped)


def begin_search(state: KrylovDecomposition, levels: jax.Array) -> LanczosPolynomials:
    """Return polynomials of a missed-pair search: the residual block is its start, and the basis is locked."""
    b, m = state.coupling.shape
    return lanczos_polynomials.start(levels, m, b, state.polynomials.rows.dtype)


def _without(hypotenuse: jax.Array, part: jax.Array) -> jax.Array:
    """Compute (a^2 - b^2)^(1/2) of numbers that are not negative, and 0 if b is larger."""
    share = jnp.minimum(safe_divide(part, hypotenuse), 1)
    return hypotenuse * jnp.sqrt((1 - share) * (1 + share))
