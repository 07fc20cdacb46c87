"""Restart of an Arnoldi decomposition, of a general operator.

    A V = V H + d b^H + E,    H = V^H A V,    d a unit vector orthogonal to V

The state is a `KrylovDecomposition` with a residual block of one vector d (Arnoldi 1951). A restart keeps an invariant
subspace of H, V C with H C = C S (Krylov-Schur, Stewart 2001). For a real operator all arrays are real: C consists of
columns of a real Schur form of H, and no conjugate pair is divided. A restart then drops only rounding errors, even if
the operator is far from normal. A subspace of harmonic Ritz vectors couples to d + V x in place of d (`harmonic`).
"""

import jax
import jax.numpy as jnp

from eigenjax.krylov.decomposition import KrylovDecomposition, compress
from eigenjax.krylov.general.general_ritz import SchurBasis
from eigenjax.krylov.general.harmonic import continuation
from eigenjax.krylov.thick_restart import begin_search
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul

# Terms that a restart drops are rounding if they are below this times eps ||A||.
_DROPPED = 64.0


def restart(
    state: KrylovDecomposition,
    vectors: SchurBasis,
    num_keep: jax.Array,
    most: int,
    fresh: jax.Array,
    levels: jax.Array,
    *,
    interior: bool = False,
) -> KrylovDecomposition:
    """Keep the invariant subspace of the most wanted Ritz values, and continue with d or a random direction.

    Args:
        state: the decomposition.
        vectors: its Schur vectors.
        num_keep: () int32, dimension of the subspace; it divides no pair of a real operator.
        most: maximum of `num_keep`, static.
        fresh: () bool: the coupling to d is dropped, a random d is drawn, and a missed-pair search begins.
        levels: (L,) numbers at which the polynomials of a random direction are evaluated.
        interior: whether these are harmonic Ritz vectors, static.
    """
    coefficients = jnp.where(jnp.arange(most, dtype=jnp.int32) < num_keep, vectors.coefficients[:, :most], 0)
    images = matmul(state.matrix, coefficients)
    outside = images - matmul(coefficients, jnp.conj(coefficients).T, images)
    coupling = matmul(state.coupling, coefficients)
    if interior:
        along = continuation(outside, coupling[0], state.operator_norm)
        outside = outside - along[:, None] * coupling
        length = jnp.hypot(1, tree.norm(along))
        state, coupling = _translated(state, along, length), coupling * length.astype(coupling.dtype)
    dropped = jax.vmap(tree.norm, in_axes=1)((outside, jnp.where(fresh, coupling, 0)))
    unit = jnp.finfo(dropped.dtype).eps * state.operator_norm
    dropped = jnp.where(dropped > _DROPPED * unit, dropped, 0)
    new = compress(state, coefficients, jnp.where(fresh, 0, coupling), dropped)
    # A random direction replaces pending zeros.
    residual_block = tree.where(fresh, jax.tree.map(jnp.zeros_like, state.residual_block), state.residual_block)
    polynomials = tree.where(fresh, begin_search(new, levels), new.polynomials)
    return new._replace(residual_block=residual_block, pending=fresh | interior, polynomials=polynomials)


def _translated(state: KrylovDecomposition, along: jax.Array, length: jax.Array) -> KrylovDecomposition:
    """Replace d by (d + V x) / length."""
    row = lambda block: tree.row(block, 0)
    moved = tree.scale(1 / length, jax.tree.map(jnp.add, row(state.residual_block), tree.combine(along, state.basis)))
    polynomials = state.polynomials
    values = polynomials.residual_block + matmul(polynomials.rows, along.astype(polynomials.rows.dtype))[:, :, None]
    return state._replace(
        residual_block=jax.tree.map(lambda x: x[None], moved),
        polynomials=polynomials._replace(residual_block=values / length.astype(values.dtype)),
    )
