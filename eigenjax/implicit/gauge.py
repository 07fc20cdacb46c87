"""What a loss of eigenvectors may depend on, and how far one is from that.

An operator determines less than a solver returns. Of an eigenvalue that stands apart it determines the line x_i spans,
so x_i up to its sign, or its phase where it is complex; of an m-fold one only the m-dimensional subspace, so the
projector sum_i x_i x_i^H, and any m orthonormal vectors in it will do. What depends on the choice has no derivative:

    what                                      | distinct eigenvalues        | in a cluster of equal ones
    ------------------------------------------|-----------------------------|---------------------------
    sum of a cluster's eigenvalues            | has a derivative            | has a derivative
    one eigenvalue                            | has a derivative            | has a kink
    projector on a cluster, x x^H             | has a derivative            | has a derivative
    one vector, its sign (phase) held fixed   | has a derivative            | is not defined

The solvers hold signs and phases fixed, so that nothing turns between neighbouring operators, and a derivative is that
at the sign returned, and at the phase returned (`phases`). Within a cluster the derivative is
that of vectors which do not turn among themselves, <x_i, dx_j> = 0: right for every loss of the subspace alone, in
first order, and in second order for losses of the projectors. It is a convention for every other loss; and of a smooth
function of equal eigenvalues the second derivative knows the diagonal of their first-order change only. With diag(4,
1, 1), the vector of 4 has a derivative, and so has the projector on the plane of the two others, but neither of these.
`gauge_residual` tells such losses apart:

>>> from eigenjax import eigsh
>>> matrix = jnp.diag(jnp.array([4.0, 1.0, 1.0]))
>>> weights = jnp.array([[1.0, 2.0, 0.0], [2.0, 0.0, 3.0], [0.0, 3.0, 1.0]])
>>> result = eigsh(matrix, k=3)
>>> top = lambda x: x[0] @ weights @ x[0]
>>> plane = lambda x: x[1] @ weights @ x[1] + x[2] @ weights @ x[2]
>>> one_of_them = lambda x: x[1] @ weights @ x[1]
>>> residual = lambda loss: float(gauge_residual(result, jax.grad(loss)(result.eigenvectors)))
>>> print(residual(top) < 1e-5, residual(plane) < 1e-5, residual(one_of_them) > 0.1)
True True True

A cluster may also be cut, between the pairs asked for and those left out: then the subspace itself is not determined.
`gauge_residual` cannot see that. `result.gap` of `eigsh`, of the order of the residuals or less, does.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.implicit.phases import at_fixed_phase
from eigenjax.implicit.systems.pairs import same_cluster
from eigenjax.operators.base import check_vector
from eigenjax.result import EigenResult
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@explained
def gauge_residual(result: EigenResult, cotangent: Any) -> jax.Array:
    """How much a loss depends on what the operator leaves open: 0 where it has a derivative.

        max |a_ij|  over i, j in one cluster,    a = (G - G^H) / 2,    G_ij = <x_i, xbar_j>

    To turn x_i and x_j towards each other by a small angle t changes the loss by 2 |a_ij| t at most: the residual is in
    units of the loss, and for a loss of the subspace alone it is the rounding of the cotangent. The phase of a complex
    vector is taken for fixed, as solvers fix it: its component of largest magnitude is real. Eigenvalues are one
    cluster where they are closer than four times the sum of their residuals. The derivative of the solvers drops
    exactly these a_ij.

    Args:
        result: of a symmetric solver.
        cotangent: of result.eigenvectors, as jax.grad gives it, or of the whole result (an EigenResult).

    Returns:
        () real. A cluster that is cut between the last pair and the next is not seen: compare result.gap with
        result.residuals.

    Raises:
        ValueError: if the cotangent is not shaped like the eigenvectors.

    Cost: no products; it reads the vectors once.

    Example:
        >>> from eigenjax import eigsh
        >>> result = eigsh(jnp.eye(3), k=3)
        >>> of_projector = jax.grad(lambda x: (x[:, 0] @ x[:, 0]) ** 2)(result.eigenvectors)
        >>> of_vector = jax.grad(lambda x: x[0, 0] - x[1, 1])(result.eigenvectors)
        >>> bool(gauge_residual(result, of_projector) < 1e-6), bool(gauge_residual(result, of_vector) < 1e-6)
        (True, False)
    """
    given = cotangent.eigenvectors if isinstance(cotangent, EigenResult) else cotangent
    return _gauge_residual(result, given)


@jax.jit
def _gauge_residual(result: EigenResult, cotangent: Any) -> jax.Array:
    antihermitian = antihermitian_part(result.eigenvectors, vectors_cotangent(result, cotangent))
    dropped = same_cluster(result.eigenvalues, result.residuals)
    return jnp.max(jnp.where(dropped, jnp.abs(antihermitian), 0))


def antihermitian_part(vectors: PyTree, vectors_bar: PyTree) -> jax.Array:
    """A = (G - G^H) / 2 for G = X^H Xbar, (k, k)."""
    inner = tree.gram(vectors, vectors_bar)
    return (inner - jnp.conj(inner).T) / 2


def vectors_cotangent(result: EigenResult, cotangent: Any) -> PyTree:
    """Return Xbar in the usual complex convention, before phases are fixed, from what jax.grad or jax.vjp holds."""
    given = cotangent.eigenvectors if isinstance(cotangent, EigenResult) else cotangent
    check_vector(given, tree.structure_of(result.eigenvectors), name="the cotangent of the eigenvectors")
    return before_phases(result.eigenvectors, given)


def before_phases(vectors: PyTree, cotangent: PyTree, along: PyTree | None = None) -> PyTree:
    """Return Xbar of the vectors before their phases were fixed, from JAX's cotangent of those returned.

    Args:
        vectors: as returned.
        cotangent: of `at_fixed_phase(vectors, along=along)`.
        along: the vectors that take the same phases; then the result is a pair.
    """
    primals = (vectors,) if along is None else (vectors, along)
    _, pull_back = jax.vjp(lambda x, y=None: at_fixed_phase(x, along=y), *primals)
    found = jax.tree.map(jnp.conj, pull_back(cotangent))
    return found[0] if along is None else found
