"""Svds: the largest singular triplets of a rectangular operator. It checks what it is given; the solve is elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.krylov.golub_kahan.recycled_triplets import remainder_of_triplets
from eigenjax.krylov.recycling import Remainder
from eigenjax.krylov.solve_spec import Goal
from eigenjax.operators.base import check_vector
from eigenjax.operators.maps import AdjointMap, RectangularOperator
from eigenjax.operators.rectangular import Dilation, as_rectangular, matvec
from eigenjax.result import SingularResult
from eigenjax.solvers.budget import checked_budget
from eigenjax.solvers.convergence.judgement import default_tolerance
from eigenjax.solvers.singular import restarted_golub_kahan
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_vector, seed_of, successor
from eigenjax.vectors.tree import PyTree

# Vectors held on each side by default: 2 k + 10, and 20 at least.
_LEAST_DIM = 20


def svds(
    op: Any,
    k: int = 6,
    *,
    tol: Any = None,
    krylov_dim: int | None = None,
    max_matvecs: int | None = None,
    v0: PyTree = None,
    key: jax.Array | None = None,
    verify: bool = True,
    adjoint: Any = None,
) -> SingularResult:
    """The k largest singular triplets of a rectangular operator, in bounded memory.

        A V = U B,    A^H U = V B^H + d g,    B = P S Q^H,    u = U p,  v = V q,    ||A^H u - s v|| = |g p|

    Golub-Kahan-Lanczos with thick restarts: two orthonormal bases, both reorthogonalised in full, looked at every few
    products and ended by the first look that finds all k triplets converged. Every step is one product with A and one
    with A^H. Small singular values are as accurate as large ones, to eps ||A||, which `eigsh` on A^H A does not give.

    A residual says that each triplet returned is one of A to within it, not that none was missed: a Krylov space shows
    one copy of a repeated singular value until it is exhausted. So once k triplets have converged, they are locked and
    a space is grown from a random vector, until it excludes that a copy of them is left, with a probability of
    oversight of 1e-6; if it finds one, again. Of a small operator (min(p, n) <= krylov_dim) nothing can be missed.

    Args:
        op: a (p, n) array, a sparse matrix of `jax.experimental.sparse`, a `LinearOperator`, or a callable v -> A v
            of pytrees, whose argument is shaped like v0. Batches by `jax.vmap`.
        k: number of triplets, static; min(p, n) at most.
        tol: a triplet is converged when its residual is at most tol times the largest singular value; None is
            sqrt(eps) of the accumulation dtype, which gives singular values to working precision, or 4 eps of 16-bit
            leaves.
        krylov_dim: m, the vectors held on each side, static; None is max(2 k + 10, 20). More is fewer products, fewer
            is less memory; k + 1 is the least.
        max_matvecs: products with A and A^H together at most, static, but for those that audit the residuals; None is
            200 m, or 20 min(p, n) if that is more, up to min(p, n) = 1000.
        v0: a vector that A takes, where to start; of a callable also the structure. Zero or not finite: a random one.
        key: typed key of the start vector and of fresh directions; None is `jax.random.key(0)`.
        verify: search for missed triplets once k have converged; static. Each search excludes, with a probability of
            oversight of 1e-6, copies of the values found and other values larger by sqrt(tol) ||A|| or more than the
            last; it costs about as many products as one triplet alone. The status is UNVERIFIED where max_matvecs
            ends it. Triplets converge to a tenth of tol first. False saves the search.
        adjoint: of a callable, u -> A^H u; None derives it by `jax.linear_transpose`. For functions that JAX cannot
            transpose, or whose adjoint is known to be cheaper.
        like: what a bare callable acts on where there is no v0: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The triplets, the largest first: A right_i = values_i left_i and A^H left_i = values_i right_i, where left has
        the structure of A's results and right that of its arguments, with a leading axis k on every leaf. The
        component of right_i of largest magnitude is positive. Where A has rank below k the values after it are zero,
        to rounding, and their vectors are orthonormal to the others.

    Raises:
        ValueError: if k, krylov_dim or max_matvecs does not fit, or v0 or a result of `adjoint` is misshapen.
        TypeError: if `op` is nothing of the above, a callable comes without v0 or cannot be transposed, or a static
            option is not an int.

    Cost: two products a step, and two more at the end audit the residuals (2 k + 2 where they find fault with the
    recurrence); where A is wide and v0 given, one at the start. Each product is followed by reading one of the bases
    twice or four times. Memory: m + k + 3 vectors of either side, beside a product's.

    Example:
        >>> differences = lambda v: {"inside": v[1:] - v[:-1], "ends": v[::11]}
        >>> result = svds(differences, k=2, v0=jnp.zeros(12))
        >>> print(jnp.abs(result.values - 2 * jnp.cos(jnp.pi / 26 * jnp.array([1, 2]))) < 1e-5)
        [ True  True]
        >>> print(jax.tree.map(jnp.shape, result.left), result.right.shape)
        {'ends': (2, 2), 'inside': (2, 11)} (2, 12)

    Source: Golub and Kahan (1965), Calculating the singular values and pseudo-inverse of a matrix; Baglama and
    Reichel (2005), Augmented implicitly restarted Lanczos bidiagonalization methods.
    """
    op = as_rectangular(op, like=v0, adjoint=adjoint)
    options = {"krylov_dim": krylov_dim, "max_matvecs": max_matvecs, "v0": v0, "key": key, "verify": verify}
    return svds_and_remainder(op, k, tol=tol, **options)[0]


def svds_and_remainder(
    op: RectangularOperator,
    k: int,
    *,
    tol: Any,
    krylov_dim: int | None,
    max_matvecs: int | None,
    v0: PyTree,
    key: jax.Array | None,
    verify: bool,
) -> tuple[SingularResult, Remainder]:
    """What `svds` returns, and what the space that it comes from knows besides: of A, or of A^H where A is wide."""
    tol = default_tolerance(Dilation(op)) if tol is None else tol
    p, n = op.shape
    _check_count(k, p, n)
    krylov_dim = _checked_dim(krylov_dim, k, min(p, n))
    max_matvecs = checked_budget(max_matvecs, krylov_dim, min(p, n), products_per_step=2)
    seed = seed_of(key)
    start_seed = successor(seed, 0)
    start = _start_vector(op, v0, start_seed)
    # Of the two spaces the bases can fill the smaller one.
    is_wide = p < n
    tall = AdjointMap(op) if is_wide else op
    to_start = v0 is not None and is_wide
    if to_start:
        start = matvec(op, start)
    elif is_wide:
        start = arbitrary_vector(start_seed, tree.working_structure(op.codomain))
    goal = Goal(
        k=k, which="LA", near=False, verify=bool(verify), max_matvecs=max_matvecs - to_start, random_start=v0 is None
    )
    state = restarted_golub_kahan.init(tall, start, goal, krylov_dim=krylov_dim, seed=successor(seed, 1))
    advance = lambda state: restarted_golub_kahan.step(tall, state, goal, tol=tol)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    found = restarted_golub_kahan.finalize(tall, state, goal, tol=tol, sign_by_left=is_wide)
    left, right = found.eigenvectors[::-1] if is_wide else found.eigenvectors
    num_matvecs = found.num_matvecs + jnp.int32(to_start)
    result = SingularResult(left, found.eigenvalues, right, found.residuals, found.converged, found.status, num_matvecs)
    return result, remainder_of_triplets(state.space, state.found, k)


def _start_vector(op: RectangularOperator, v0: PyTree, seed: jax.Array) -> PyTree:
    """The vector v0 in working dtypes, or an arbitrary one."""
    structure = tree.working_structure(op.domain)
    if v0 is None:
        return arbitrary_vector(seed, structure)
    widen = lambda x, like: x.astype(like.dtype) if jnp.iscomplexobj(like) or not jnp.iscomplexobj(x) else x
    v0 = jax.tree.map(jnp.asarray, v0)
    if jax.tree.structure(v0) == jax.tree.structure(structure):
        v0 = jax.tree.map(widen, v0, structure)
    check_vector(v0, structure, name="v0")
    return v0


def _check_count(k: Any, p: int, n: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k={k!r}: give an int, the number of triplets wanted; it is static under jit")
    if not 1 <= k <= min(p, n):
        raise ValueError(f"k={k}: the operator is {p} x {n}, so choose 1 <= k <= {min(p, n)}")


def _checked_dim(krylov_dim: Any, k: int, size: int) -> int:
    """The room in each basis: m, or all of the smaller space."""
    if krylov_dim is None:
        krylov_dim = max(2 * k + 10, _LEAST_DIM)
    elif not isinstance(krylov_dim, int) or isinstance(krylov_dim, bool):
        raise TypeError(f"krylov_dim={krylov_dim!r}: give an int, or None; it is static under jit")
    elif krylov_dim < min(k + 1, size):
        raise ValueError(f"krylov_dim={krylov_dim}: k={k} triplets need krylov_dim >= {min(k + 1, size)}")
    return min(krylov_dim, size)
