"""Eigs: the eigensolver to call for an operator without symmetry.

It checks what it is given, and runs `krylov_schur` to its end.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import arguments
from eigenjax.krylov import ritz
from eigenjax.krylov.general import general_ritz
from eigenjax.krylov.solve_spec import Goal
from eigenjax.operators.complexified import is_real
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.budget import checked_budget
from eigenjax.solvers.convergence.judgement import default_tolerance
from eigenjax.solvers.general import krylov_schur
from eigenjax.solvers.warm_start import example_vector, start_rows, starting_block
from eigenjax.vectors.pseudorandom import seed_of, successor
from eigenjax.vectors.tree import PyTree

# Vectors held by default: 2 k + 10, and no fewer than these.
_LEAST_DIM = 20
# Room for the k pairs, the other half of one that would be divided, and two products.
_ROOM = 3


def eigs(
    op: Any,
    k: int = 6,
    *,
    which: str = "LM",
    tol: Any = None,
    krylov_dim: int | None = None,
    max_matvecs: int | None = None,
    v0: Any = None,
    key: jax.Array | None = None,
    verify: bool = True,
) -> EigenResult:
    """K eigenpairs of an operator that need not be symmetric, restarted until they have converged, in bounded memory.

        A V = V H + d b^H,    H Q = Q T,    T x = theta x,    v = V Q x,    ||A v - theta v|| = |b^H Q x|

    The restarted Arnoldi method in the form of Krylov and Schur, looked at every few products and ended by the first
    look that finds all k pairs converged. Of a real operator all products, and the basis, are real, and no conjugate
    pair is divided but the last of the k pairs returned, by the count.

    What a residual says, and what it does not: (lambda, v) is an exact pair of A + E with ||E|| the residual, no more.
    How far lambda is from an eigenvalue of A itself is that times the eigenvalue's condition 1 / |u^H v|, u its left
    eigenvector, which is one where A is normal, and without bound where eigenvalues coalesce: of a Jordan block of n,
    E moves them by ||E||^(1/n). `eigenjax.left_eigenvectors` gives it, or inf. (Of a Grcar matrix of 100, pairs that
    have converged to 1e-4 ||A|| are 0.6 from any eigenvalue: each is one of a matrix that near.)
    That none was missed it does not say: a Krylov space shows one copy of a repeated eigenvalue. So once k pairs have
    converged, they are locked and a space is grown from a random vector, until it excludes that a copy of them is left,
    with a probability of oversight of 1e-6; if it finds one, again. Of a small operator (n <= krylov_dim) nothing can
    be missed.

    Args:
        op: whatever `as_operator` takes; a bare callable takes its structure from v0. Real or complex, not both.
        k: number of pairs, static.
        which: "LM" largest magnitude, "LR" largest, "SR" smallest real part, "LI" largest imaginary part (of a real
            operator in magnitude: these come in pairs); static.
        tol: a pair is converged when its residual is at most tol times ||A||, which is taken for the largest ||A v||
            seen of a unit vector v: that of a nilpotent operator is not zero, its largest |Ritz value| is. None is
            sqrt(eps) of the accumulation dtype, or 4 eps of 16-bit leaves.
        krylov_dim: m, the vectors held, static; None is max(2 k + 10, 20), at most n. More make fewer products.
        max_matvecs: products allowed, static; None is 100 for each vector held.
        v0: where to start: one vector, or several with a leading axis, or an `EigenResult`: of several the sum is
            followed. An eigenvector to within tol is believed to be among those wanted.
        key: typed key of the start vector and of fresh directions; None is `jax.random.key(0)`.
        verify: search for missed pairs once k have converged; static. Each search excludes, with a probability of
            oversight of 1e-6, copies of the eigenvalues found, and what is more wanted than they are by
            sqrt(tol) ||A|| or more at nine points of the boundary of that region. It costs about as many products as
            one pair alone. Pairs converge to a tenth of tol first. Where A is not normal they go on to that over the
            condition of their eigenvalues, or to rounding. The status is UNVERIFIED where max_matvecs ends the search,
            or where it finds other values each time: rounding then moves eigenvalues by sqrt(tol) ||A|| or so, and
            `eigenjax.left_eigenvectors` gives conditions of sqrt(tol) / (16 eps) or more. False saves the search.
        like: what a bare callable acts on where there is no v0: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The pairs in the order of `which`, complex; of two conjugates the one of positive imaginary part first. The
        vectors have unit norm, and their component of largest magnitude is real and positive. They are not orthogonal
        unless A is normal.

    Raises:
        ValueError: if k, krylov_dim or max_matvecs does not fit, `which` is unknown, or v0 does not fit.
        TypeError: if `op` is nothing that `as_operator` takes, acts on real and complex leaves at once, or a static
            option is not an int.

    Cost: products as the spectrum has it; one more audits the residuals (2 k + 1, or k + 1 of a complex operator, after
    a search and where it finds the recurrence at odds with the operator). Each product is followed by reading the basis
    four times, each restart by eight; each look and each restart by a Schur form of m numbers squared. Memory: m + 2 k
    + m / 4 + 6 vectors beside one product's.

    Example:
        >>> rotation = jnp.array([[0.0, -2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> result = eigs(rotation, k=2)
        >>> print(jnp.abs(result.eigenvalues - jnp.array([2j, -2j])) < 1e-5, result.converged)
        [ True  True] [ True  True]

    Source: Stewart (2001), A Krylov-Schur algorithm for large eigenproblems; Arnoldi (1951).
    """
    op = as_operator(op, like=example_vector(v0))
    tol = default_tolerance(op) if tol is None else tol
    ritz.check_count(k, op.size, "eigs")
    real = is_real(op.structure)
    general_ritz.check_which(which)
    krylov_dim = _checked_dim(krylov_dim, k, op.size)
    goal = Goal(
        k=k,
        which=which,
        near=False,
        verify=bool(verify),
        max_matvecs=checked_budget(max_matvecs, krylov_dim, op.size),
        random_start=v0 is None,
    )
    seed = seed_of(key)
    if isinstance(v0, EigenResult) and real:
        v0 = _real_rows(v0)
    starts = starting_block(op, start_rows(op, v0), 1, successor(seed, 0))
    state = krylov_schur.init(starts, goal, krylov_dim=krylov_dim, seed=successor(seed, 1))
    advance = lambda state: krylov_schur.step(op, state, goal, tol=tol)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    return krylov_schur.finalize(op, state, goal, tol=tol)


def _real_rows(result: EigenResult) -> PyTree:
    """K real vectors that span what the complex ones do: of a conjugate pair the real part and the imaginary one.

    (Each vector's both parts would be there twice, and could cancel in a sum with random signs.)
    """
    upper = jnp.imag(result.eigenvalues) >= 0
    part = lambda x: jnp.where(upper.reshape(-1, *[1] * (x.ndim - 1)), x.real, x.imag)
    return jax.tree.map(part, result.eigenvectors)


def _checked_dim(krylov_dim: Any, k: int, size: int) -> int:
    if krylov_dim is None:
        return min(max(2 * k + 10, _LEAST_DIM), size)
    least = min(k + _ROOM, size)
    arguments.check_int("eigs", "krylov_dim", krylov_dim, least=least, why=f": k={k} pairs need krylov_dim >= {least}")
    return min(krylov_dim, size)
