"""Arnoldi: the decomposition of a general operator, grown by one product and shrunk by a restart.

    A V = V H + d b^H + E,    H = V^H A V,    d a unit vector orthogonal to V

as in `krylov`, whose state this is, with a block of one; without symmetry H is full, and each image is orthogonalised
against the whole basis (Arnoldi 1951). A restart keeps an invariant subspace of H, V C with H C = C S (Krylov-Schur,
Stewart 2001). Of a real operator everything is real: where no conjugate pair is divided, the projector C C^H on the
subspace is real to rounding, and its real eigenvectors span it.
"""

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.solvers.general_ritz import GeneralRitz
from eigenjax.solvers.krylov import KrylovDecomposition, compress
from eigenjax.solvers.orthogonalize import orthogonalize, unless_broken_down
from eigenjax.solvers.schur import reorder

# What is left of an image below so many units of rounding of ||A|| is rounding: an invariant subspace is found.
_BREAKDOWN = 10.0
# What a restart drops below so many units of rounding of ||A|| is rounding.
_DROPPED = 64.0


def expand(op: LinearOperator, state: KrylovDecomposition) -> KrylovDecomposition:
    """Moves d into V, at one product; there must be room for a row."""
    fresh_key, key = jax.random.split(state.key)
    row = jnp.argmin(state.filled).astype(jnp.int32)  # the first one free
    vector = tree.row(state.directions, 0)
    basis = tree.set_row(state.basis, row, vector)
    rest = orthogonalize(basis, matvec(op, vector))
    # ||A v||^2 is what was taken and what is left.
    norm = jnp.maximum(state.operator_norm, tree.norm((rest.coefficients, rest.norm)))
    limits = jnp.finfo(norm.dtype)
    # A direction that has lost digits to underflow would not be of unit norm when normalised.
    underflow = float(limits.tiny) / float(limits.eps)
    broken_down = rest.norm <= jnp.maximum(_BREAKDOWN * limits.eps * norm, underflow)
    direction = unless_broken_down(fresh_key, basis, rest.vector, rest.norm, broken_down)
    length = jnp.where(broken_down, 0, rest.norm).astype(state.couplings.dtype)
    return state._replace(
        basis=basis,
        filled=state.filled.at[row].set(True),
        directions=jax.tree.map(lambda x: x[None], direction),
        matrix=state.matrix.at[row].set(state.couplings[0]).at[:, row].set(rest.coefficients),
        couplings=jnp.zeros_like(state.couplings).at[0, row].set(length),
        operator_norm=norm,
        broken_down=state.broken_down | broken_down,
        key=key,
        num_matvecs=state.num_matvecs + 1,
    )


def restart(state: KrylovDecomposition, found: GeneralRitz, kept: jax.Array, most: int) -> KrylovDecomposition:
    """Keeps the invariant subspace of the most wanted Ritz values.

    Args:
        state: of m rows, all filled.
        found: its pairs.
        kept: () int32, how many; no pair of a real operator is divided.
        most: the upper limit of it, static.
    """
    unitary = reorder(found.form, found.ranks).unitary
    first = jnp.arange(unitary.shape[0], dtype=jnp.int32) < kept
    vectors = jnp.where(first, unitary, 0)
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    if not jnp.iscomplexobj(state.matrix):
        projector = product(vectors, jnp.conj(vectors).T).real
        _, ascending = jnp.linalg.eigh((projector + projector.T) / 2, symmetrize_input=False)
        vectors = jnp.where(first, ascending[:, ::-1], 0)
    coefficients = vectors[:, :most]
    images = product(state.matrix, coefficients)
    outside = images - product(coefficients, product(jnp.conj(coefficients).T, images))
    dropped = jax.vmap(tree.norm, in_axes=1)(outside)
    unit = jnp.finfo(dropped.dtype).eps * state.operator_norm
    dropped = jnp.where(dropped > _DROPPED * unit, dropped, 0)
    broken_down = state.broken_down
    new = compress(state, coefficients, product(state.couplings, coefficients), dropped)
    return new._replace(broken_down=broken_down)
