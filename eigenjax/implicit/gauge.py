"""Gauge dependence: the functions of eigenvectors that have a derivative, and a test for the others.

An operator determines less than a solver returns. For a simple eigenvalue it determines the line spanned by x_i: the
vector up to its sign, or its phase if it is complex. For an m-fold eigenvalue it determines the m-dimensional subspace
and the projector sum_i x_i x_i^H; any m orthonormal vectors in it are eigenvectors. A quantity that depends on this
choice has no derivative:

    what                                      | distinct eigenvalues        | in a cluster of equal ones
    ------------------------------------------|-----------------------------|---------------------------
    sum of a cluster's eigenvalues            | has a derivative            | has a derivative
    one eigenvalue                            | has a derivative            | has a kink
    projector on a cluster, x x^H             | has a derivative            | has a derivative
    one vector, its sign (phase) held fixed   | has a derivative            | is not defined

The solvers fix signs and phases, so that nothing jumps between neighboring operators; a derivative is that at the sign
and the phase returned (`phases`). Within a cluster it is the derivative of vectors that do not rotate among themselves,
<x_i, dx_j> = 0. This is exact for every loss of the subspace alone, in first order, and in second order for losses of
the projectors. For other losses it is a convention. The second derivative of a smooth function of equal eigenvalues
includes only the diagonal of their first-order change. For diag(4, 1, 1), the vector of 4 and the projector on the
plane of the two others have derivatives. Each of these two vectors has none. `gauge_residual` detects such losses:

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
`gauge_residual` does not detect this; a `result.gap` of `eigsh` of the order of the residuals or less does.
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
    """Measure how much a loss depends on the choice of eigenvectors that the operator leaves open; 0 if not at all.

        max |a_ij|  over i, j in one cluster,    a = (G - G^H) / 2,    G_ij = <x_i, xbar_j>

    Rotating x_i and x_j towards each other by a small angle t changes the loss by at most 2 |a_ij| t: the residual has
    the units of the loss. For a loss of the subspace alone it is the rounding of the cotangent. The phase of a complex
    vector counts as fixed, as solvers fix it: its component of largest magnitude is real. Eigenvalues form one cluster
    if they are closer than four times the sum of their residuals. The derivative of the solvers drops exactly these
    a_ij.

    Args:
        result: result of a symmetric solver.
        cotangent: cotangent of result.eigenvectors, as returned by jax.grad, or of the whole result (an EigenResult).

    Returns:
        () real. A cluster that is cut between the last pair and the next is not detected: compare result.gap with
        result.residuals.

    Raises:
        ValueError: if the cotangent is not shaped like the eigenvectors.

    Cost: no matvecs; it reads the vectors once.

    Example:
        >>> from eigenjax import eigsh
        >>> result = eigsh(jnp.eye(3), k=3)
        >>> of_projector = jax.grad(lambda x: (x[:, 0] @ x[:, 0]) ** 2)(result.eigenvectors)
        >>> of_vector = jax.grad(lambda x: x[0, 1])(result.eigenvectors)
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
    """Compute `a` = (G - G^H) / 2 for G = X^H Xbar, (k, k)."""
    inner = tree.gram(vectors, vectors_bar)
    return (inner - jnp.conj(inner).T) / 2


def vectors_cotangent(result: EigenResult, cotangent: Any) -> PyTree:
    """Return Xbar in the usual complex convention, before phases are fixed, from a cotangent of jax.grad or jax.vjp."""
    given = cotangent.eigenvectors if isinstance(cotangent, EigenResult) else cotangent
    check_vector(given, tree.structure_of(result.eigenvectors), name="the cotangent of the eigenvectors")
    return before_phases(result.eigenvectors, given)


def before_phases(vectors: PyTree, cotangent: PyTree, along: PyTree | None = None) -> PyTree:
    """Return Xbar of the vectors before their phases were fixed, from JAX's cotangent of those returned.

    Args:
        vectors: the vectors with fixed phases.
        cotangent: cotangent of `at_fixed_phase(vectors, along=along)`.
        along: other vectors that take the same phases; with them a pair is returned.
    """
    primals = (vectors,) if along is None else (vectors, along)
    _, pull_back = jax.vjp(lambda x, y=None: at_fixed_phase(x, along=y), *primals)
    found = jax.tree.map(jnp.conj, pull_back(cotangent))
    return found[0] if along is None else found
