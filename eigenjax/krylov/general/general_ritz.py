"""Ritz pairs of a general operator: the projected problem, the order of `which`, and conjugate pairs.

    H Q = Q T,    T x = theta x,    v = V Q x,    ||A v - theta v|| = |b^H Q x|

The eigenvalues of a real H are real or in exactly conjugate pairs; `conjugates` computes them. Near a shift, the
harmonic Ritz vectors take the place of the Ritz vectors, with their Rayleigh quotients (`harmonic`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import arguments
from eigenjax.krylov.decomposition import KrylovDecomposition, combined_defects
from eigenjax.krylov.general.conjugates import conjugate_pairs, eigenpairs
from eigenjax.krylov.general.harmonic import (
    Harmonic,
    Shift,
    harmonic_basis,
    harmonic_conditions,
    harmonic_problem,
    harmonic_values,
    ritz_vectors,
)
from eigenjax.krylov.general.real_schur import block_eigenvalues, real_schur, reorder_blocks
from eigenjax.krylov.general.schur import Schur, complex_dtype, reorder, schur
from eigenjax.krylov.general.triangular import conditions
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul

WHICH = ("LM", "LR", "SR", "LI", "SM")
# Number of points on the boundary of the region of more wanted eigenvalues.
NUM_BOUNDARY = 9
# Residuals of eigenvectors in the projected problem are rounding up to this times eps ||A||.
_COUPLING_ROUNDING = 64.0


class GeneralRitz(NamedTuple):
    """All Ritz pairs of a decomposition, the most wanted first."""

    values: jax.Array  # (m,) complex; for a real operator real, or in adjacent conjugate pairs
    coefficients: jax.Array  # (m, m) in columns: v = V c; those of a conjugate pair are conjugates
    residuals: jax.Array  # (m,) estimated ||A v - theta v||; inf if not valid
    keys: jax.Array  # (m,) real sort keys of the values: a smaller key is more wanted
    paired: jax.Array  # (m,) bool, whether the next pair is the conjugate
    form: Schur  # of H, or of N with a shift; the valid rows first
    ranks: jax.Array  # (m,) int32, position in this order of each eigenvalue of the form
    problem: Harmonic | None  # problem of the harmonic Ritz pairs, with a shift


class SchurBasis(NamedTuple):
    """Schur vectors: an orthonormal basis of the span of a decomposition, from the Schur form of H; real if H is."""

    coefficients: jax.Array  # (m, m) C in columns, the most wanted first; zero in columns that are not valid
    second: jax.Array  # (m,) bool, the vector and the one before it span the subspace of a conjugate pair


def check_which(which: str) -> None:
    """Raise an error unless `which` names pairs that a Krylov space of a general operator can compute."""
    arguments.check_choice("eigs", "which", which, WHICH, elsewhere="; eigsh has 'LA', 'SA' and 'BE'")


def wanted_keys(values: jax.Array, which: str, *, real: bool, sigma: jax.Array | None = None) -> jax.Array:
    """Compute real sort keys, (m,): a smaller key is more wanted.

    Args:
        values: (m,) complex.
        which: one of `WHICH`.
        real: whether the operator is real: then "LI" orders pairs by the magnitude of the imaginary part.
        sigma: () shift: the nearest are wanted, whatever `which` is; None without one.

    >>> print(wanted_keys(jnp.array([1.0 - 2.0j, -3.0 + 0.0j]), "LI", real=True))
    [-2. -0.]
    """
    if sigma is not None:
        return jnp.abs(values - sigma.astype(values.dtype))
    if which == "LI":
        return -jnp.abs(values.imag) if real else -values.imag
    return {"LM": -jnp.abs(values), "SM": jnp.abs(values), "LR": -values.real, "SR": values.real}[which]


def boundary(
    values: jax.Array,
    which: str,
    distance: jax.Array,
    norm_estimate: jax.Array,
    *,
    real: bool,
    sigma: jax.Array | None = None,
) -> jax.Array:
    """Return points on the boundary of the region of eigenvalues that are more wanted than the given ones.

    Args:
        values: (k,) complex, the most wanted first.
        which: one of `WHICH`.
        distance: () distance by which eigenvalues on the boundary are more wanted than the last value.
        norm_estimate: () norm estimate, up to which the boundary is sampled.
        real: whether the operator is real.
        sigma: () shift, whose distance orders the values; None without one.

    >>> print(boundary(jnp.array([2.0 + 0.0j]), "LR", jnp.float32(0.5), jnp.float32(3.0), real=True)[0])
    (2.5-3j)
    """
    last = values[-1]
    along = jnp.linspace(-1, 1, NUM_BOUNDARY, dtype=norm_estimate.dtype) * norm_estimate
    if which == "LM" or sigma is not None:
        angles = jnp.arange(NUM_BOUNDARY, dtype=norm_estimate.dtype) * (2 * jnp.pi / NUM_BOUNDARY)
        center = jnp.zeros_like(last) if sigma is None else sigma.astype(last.dtype)
        radius = jnp.abs(last) + distance if sigma is None else jnp.maximum(jnp.abs(last - center) - distance, 0)
        return center + jax.lax.complex(radius * jnp.cos(angles), radius * jnp.sin(angles))
    if which == "LI":
        across = jnp.abs(last.imag) + distance if real else last.imag + distance
        # Eigenvalues of a real operator come in pairs: the upper half plane suffices.
        return jax.lax.complex(along, jnp.full_like(along, across))
    across = last.real + distance if which == "LR" else last.real - distance
    return jax.lax.complex(jnp.full_like(along, across), along)


def general_ritz_pairs(
    state: KrylovDecomposition, which: str, *, real: bool, shift: Shift | None = None
) -> GeneralRitz:
    """Compute the Ritz pairs of a decomposition, or the harmonic ones with a shift, at the cost of one Schur form."""
    m = state.valid.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)
    valid = index < state.num_valid
    place = jnp.argsort(~state.valid, stable=True)
    compact = jnp.where(valid[:, None] & valid[None, :], state.matrix[place][:, place], 0)
    problem = None if shift is None else harmonic_problem(compact, state.coupling[0, place], valid, shift.target)
    form = schur(compact if problem is None else problem.matrix)
    values, vectors, partner = conjugate_pairs(form, valid) if real else (*eigenpairs(form, valid), index)
    if problem is not None and shift is not None:
        keys = harmonic_values(problem, values, shift)[1]
        quotients, vectors = ritz_vectors(problem, compact, vectors)
        exact = jnp.where(values.imag == 0, quotients.real.astype(quotients.dtype), quotients) if real else quotients
        values = jnp.where(valid, exact, 0)
    else:
        keys = wanted_keys(values, which, real=real)
    keys = jnp.where(valid, keys, jnp.inf)
    # Both of a pair have equal keys: they are first made adjacent, and the stable sort keeps them so.
    order = jnp.lexsort((-values.imag, jnp.minimum(partner, index), keys)).astype(jnp.int32)
    values, vectors, valid = values[order], vectors[:, order], valid[order]
    residuals = _residuals(state, compact, values, vectors, place)
    zeros = jnp.zeros_like(vectors)
    return GeneralRitz(
        values=values,
        coefficients=zeros.at[place].set(jnp.where(valid, vectors, 0)),
        residuals=jnp.where(valid, residuals, jnp.inf),
        keys=keys[order],
        paired=jnp.append(partner[order][:-1] == order[1:], False) & (values.imag != 0),
        form=form,
        ranks=jnp.argsort(order).astype(jnp.int32),
        problem=problem,
    )


def schur_basis(
    state: KrylovDecomposition, found: GeneralRitz, which: str, *, shift: Shift | None = None
) -> SchurBasis:
    """Compute the Schur vectors of a decomposition, whose leading ones span invariant subspaces of H to rounding.

    Args:
        state: the decomposition.
        found: its Ritz pairs.
        which: one of `WHICH`.
        shift: the shift of harmonic Ritz pairs, or None.

    Returns:
        The basis. H C - C (C^H H C) is rounding for the first p columns C if they divide no pair; for harmonic pairs it
        is x b^H C for one vector x. The order is that of the eigenvalues of this Schur form. It may differ from the
        order in `found` if rounding changes them.
    """
    place = jnp.argsort(~state.valid, stable=True)
    if jnp.iscomplexobj(state.matrix):
        vectors = reorder(found.form, found.ranks).unitary
        second = jnp.zeros_like(state.valid)
    else:
        valid = state.valid[place]
        compact = jnp.where(valid[:, None] & valid[None, :], state.matrix[place][:, place], 0)
        form = real_schur(compact if found.problem is None else found.problem.matrix)
        values = block_eigenvalues(form)
        if found.problem is not None and shift is not None:
            keys = harmonic_values(found.problem, values, shift)[1]
        else:
            keys = wanted_keys(values, which, real=True)
        form = reorder_blocks(form, jnp.where(valid, keys, jnp.inf))
        vectors, second = form.orthogonal, form.second
    # Hundreds of rotations lose orthogonality; one Newton step restores it.
    vectors = 1.5 * vectors - 0.5 * matmul(vectors, jnp.conj(vectors).T, vectors)
    if found.problem is not None:
        vectors = harmonic_basis(found.problem, vectors)
    leading = jnp.arange(vectors.shape[1], dtype=jnp.int32) < state.num_valid
    placed = jnp.zeros_like(vectors).at[place].set(jnp.where(leading, vectors, 0))
    return SchurBasis(jnp.where(state.valid[:, None], placed, 0), second)


def no_basis(m: int, dtype: Any) -> SchurBasis:
    """Return an empty basis, before the first convergence check."""
    return SchurBasis(jnp.zeros((m, m), dtype), jnp.zeros(m, bool))


def undivided(basis: SchurBasis, count: int, most: int) -> jax.Array:
    """Return `count`, () int32, or one more or one less, so that no conjugate pair is divided."""
    return count + jnp.where(basis.second[count], 1 if count < most else -1, 0).astype(jnp.int32)


def largest_condition(found: GeneralRitz, k: int, least_gap: jax.Array) -> jax.Array:
    """Compute the largest condition of the k wanted eigenvalues of the projected problem, ().

    Args:
        found: the Ritz pairs.
        k: number of wanted pairs.
        least_gap: () smaller differences of eigenvalues are replaced by it.
    """
    if found.problem is None:
        numbers = conditions(found.form.triangular, least_gap)
    else:
        # An error of nu = 1 / (theta - target) is one of it over nu^2 of theta.
        least_gap = least_gap * jnp.square(jnp.max(jnp.abs(jnp.diag(found.form.triangular)))) * found.problem.scale
        numbers = harmonic_conditions(found.problem, found.form.unitary, found.form.triangular, least_gap)
    return jnp.max(jnp.where(found.ranks < k, numbers, 1))


def converged_first(found: GeneralRitz, bound: jax.Array) -> GeneralRitz:
    """Move values, coefficients and residuals of pairs with residuals above the bound to the end."""
    fine = found.residuals <= bound
    before, after = jnp.roll(fine, 1), jnp.roll(fine, -1)
    fine = jnp.where(found.paired, fine & after, jnp.where(jnp.roll(found.paired, 1), fine & before, fine))
    order = jnp.argsort(~fine, stable=True)
    return found._replace(
        values=found.values[order], coefficients=found.coefficients[:, order], residuals=found.residuals[order]
    )


def no_pairs(m: int, dtype: Any, real_dtype: Any, *, interior: bool = False) -> GeneralRitz:
    """Return an empty set of Ritz pairs, or of harmonic ones if `interior`, before the first convergence check.

    Args:
        m: number of basis vectors.
        dtype: of the decomposition's matrix.
        real_dtype: of the residuals.
        interior: whether there is a shift.
    """
    dtype, own = complex_dtype(dtype), dtype
    zeros = jnp.zeros((m, m), dtype)
    square = jnp.zeros((m, m), own)
    return GeneralRitz(
        values=jnp.zeros(m, dtype),
        coefficients=zeros,
        residuals=jnp.full(m, jnp.inf, real_dtype),
        keys=jnp.full(m, jnp.inf, real_dtype),
        paired=jnp.zeros(m, bool),
        form=Schur(zeros, zeros, jnp.zeros((), bool)),
        ranks=jnp.arange(m, dtype=jnp.int32),
        problem=Harmonic(square, square, square, jnp.ones((), real_dtype)) if interior else None,
    )


def _residuals(
    state: KrylovDecomposition, compact: jax.Array, values: jax.Array, vectors: jax.Array, place: jax.Array
) -> jax.Array:
    matmul = lambda a, b: jnp.matmul(a.astype(b.dtype), b, precision=jax.lax.Precision.HIGHEST)
    outside = jnp.abs(matmul(state.coupling[0, place], vectors))
    inside = jax.vmap(tree.norm, in_axes=1)(matmul(compact, vectors) - vectors * values[None, :])
    inside = jnp.where(inside > _COUPLING_ROUNDING * jnp.finfo(inside.dtype).eps * state.operator_norm, inside, 0)
    defects = combined_defects(state._replace(defects=state.defects[place]), vectors)
    return jnp.hypot(jnp.hypot(outside, inside), defects)
