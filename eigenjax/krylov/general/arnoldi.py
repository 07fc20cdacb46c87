"""Arnoldi decomposition of a general operator: expansion by one matvec, and restart.

    A V = V H + d b^H + E,    H = V^H A V,    d a unit vector orthogonal to V

The state is a `KrylovDecomposition` with a residual block of one vector d. Without symmetry H is full, and each matvec
is orthogonalized against the whole basis (Arnoldi 1951). A restart keeps an invariant subspace of H, V C with H C = C S
(Krylov-Schur, Stewart 2001). For a real operator all arrays are real: C consists of columns of a real Schur form of H,
and no conjugate pair is divided. A restart then drops only rounding errors, even if the operator is far from normal.
"""

import jax
import jax.numpy as jnp

from eigenjax.krylov import lanczos_polynomials
from eigenjax.krylov.decomposition import KrylovDecomposition, compress, fresh_seed
from eigenjax.krylov.general.general_ritz import SchurBasis
from eigenjax.krylov.thick_restart import begin_search, fresh_directions
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import breakdown_length, normalize, orthogonalize_or_replace

# Terms that a restart drops are rounding if they are below this times eps ||A||.
_DROPPED = 64.0


def expand(op: LinearOperator, state: KrylovDecomposition) -> KrylovDecomposition:
    """Move d into V with one matvec; this needs a free row."""
    row = jnp.argmin(state.valid).astype(jnp.int32)  # the first free row
    vector = tree.row(state.residual_block, 0)
    basis = tree.set_row(state.basis, row, vector)
    # ||A v||^2 is the sum of squares of the removed coefficients and of the remainder.
    norm_with = lambda coefficients, left: jnp.maximum(state.operator_norm, tree.norm((coefficients, left)))
    is_nothing = lambda coefficients, left: left <= breakdown_length(norm_with(coefficients, left))
    residual, replaced = orthogonalize_or_replace(fresh_seed(state), basis, matvec(op, vector), is_nothing=is_nothing)
    length = jnp.where(replaced, 0, residual.norm)
    return state._replace(
        basis=basis,
        valid=state.valid.at[row].set(True),
        residual_block=jax.tree.map(lambda x: x[None], normalize(residual.vector, residual.norm)),
        matrix=state.matrix.at[row].set(state.coupling[0]).at[:, row].set(residual.coefficients),
        coupling=jnp.zeros_like(state.coupling).at[0, row].set(length.astype(state.coupling.dtype)),
        operator_norm=norm_with(residual.coefficients, length),
        broken_down=state.broken_down | replaced,
        polynomials=lanczos_polynomials.extend(
            state.polynomials, row[None], residual.coefficients[None], length.astype(state.matrix.dtype)[None, None]
        ),
        num_matvecs=state.num_matvecs + 1,
    )


def restart(
    state: KrylovDecomposition, vectors: SchurBasis, num_keep: jax.Array, most: int, fresh: jax.Array, levels: jax.Array
) -> KrylovDecomposition:
    """Keep the invariant subspace of the most wanted Ritz values, and continue with d or a random direction.

    Args:
        state: the decomposition.
        vectors: its Schur vectors.
        num_keep: () int32, dimension of the subspace; it divides no pair of a real operator.
        most: maximum of `num_keep`, static.
        fresh: () bool: the coupling to d is dropped, a random d is drawn, and a missed-pair search begins.
        levels: (L,) numbers at which the polynomials of a random direction are evaluated.
    """
    coefficients = jnp.where(jnp.arange(most, dtype=jnp.int32) < num_keep, vectors.coefficients[:, :most], 0)
    images = matmul(state.matrix, coefficients)
    outside = images - matmul(coefficients, jnp.conj(coefficients).T, images)
    coupling = matmul(state.coupling, coefficients)
    dropped = jax.vmap(tree.norm, in_axes=1)((outside, jnp.where(fresh, coupling, 0)))
    unit = jnp.finfo(dropped.dtype).eps * state.operator_norm
    dropped = jnp.where(dropped > _DROPPED * unit, dropped, 0)
    new = compress(state, coefficients, jnp.where(fresh, 0, coupling), dropped)
    residual_block = apply_when(fresh, lambda rows: fresh_directions(new, rows), state.residual_block)
    searching = tree.where(fresh, begin_search(new, levels), new.polynomials)
    return new._replace(broken_down=state.broken_down, residual_block=residual_block, polynomials=searching)
