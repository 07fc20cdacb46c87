"""Functions of a small matrix without symmetry, and of the projection of an operator on a Krylov space.

    f(H) e_1 = X diag(f(theta)) X^-1 e_1

with eigenvalues theta and eigenvectors X of H, from its Schur form. Near a matrix without a basis of eigenvectors X is
ill-conditioned, and the error grows with its condition number.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.krylov_space import KrylovSpace
from eigenjax.krylov.general.schur import schur
from eigenjax.krylov.general.triangular import triangular_eigenvectors
from eigenjax.spectrum.probing.quadrature import checked_values


def general_column(matrix: jax.Array, f: Callable) -> tuple[jax.Array, jax.Array]:
    """Compute f(H) e_1 (m,), complex, and the largest |f| times the condition number of the eigenvectors.

    >>> column, _ = general_column(jnp.array([[0.0, -1.0], [1.0, 0.0]]), jnp.exp)
    >>> print(column.real.round(4))
    [0.5403 0.8415]
    """
    form = schur(matrix)
    values = jnp.diag(form.triangular)
    eps = jnp.finfo(values.real.dtype).eps
    # Closer eigenvalues are those of a nearby matrix, at the distance where both errors, of it and of X, are equal.
    vectors = triangular_eigenvectors(form.triangular, jnp.sqrt(eps) * jnp.max(jnp.abs(values)))
    inverse = jax.scipy.linalg.solve_triangular(vectors, jnp.eye(len(values), dtype=vectors.dtype))
    precise = jax.lax.Precision.HIGHEST
    weights = jnp.matmul(inverse, jnp.conj(form.unitary[0]), precision=precise)
    images = checked_values(f, values)
    column = jnp.matmul(form.unitary, jnp.matmul(vectors, images * weights, precision=precise), precision=precise)
    condition = jnp.linalg.norm(vectors) * jnp.linalg.norm(inverse)
    return column, jnp.max(jnp.abs(images)) * condition


def without_gaps(space: KrylovSpace) -> jax.Array:
    """Return H with h_11 on the diagonal after a breakdown: f is then evaluated inside of the field of values only."""
    is_zero = jnp.append(False, jnp.diagonal(space.matrix, -1) == 0)
    return space.matrix + jnp.diag(jnp.where(jnp.cumsum(is_zero) > 0, space.matrix[0, 0], 0))
