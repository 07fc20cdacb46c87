"""Solver for the largest or smallest singular triplets of an operator: `svds` checks its options and runs the solve."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import TRACED, check_choice, check_int
from eigenjax.krylov.golub_kahan.recycled_triplets import recycled_triplets
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.complexified import is_real
from eigenjax.operators.maps import AdjointMap, RectangularOperator
from eigenjax.operators.rectangular import Dilation, as_rectangular, matvec
from eigenjax.result import SingularResult
from eigenjax.solvers.budget import checked_budget
from eigenjax.solvers.convergence.status import default_tolerance
from eigenjax.solvers.singular import restarted_golub_kahan
from eigenjax.solvers.start import given_vector
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_vector, fold_in, seed_of
from eigenjax.vectors.tree import PyTree

# Basis vectors on each side by default: 2 k + 10, and at least this number.
_LEAST_DIM = 20
# Ends of the spectrum of A^H A, by `which`.
_ENDS = {"LM": "LA", "SM": "SA"}


def svds(
    op: Any,
    k: int = 6,
    *,
    which: str = "LM",
    tol: Annotated[Any, TRACED] = None,
    krylov_dim: int | None = None,
    max_matvecs: int | None = None,
    v0: Annotated[PyTree, TRACED] = None,
    key: Annotated[jax.Array | None, TRACED] = None,
    verify: bool = True,
    adjoint: Any = None,
    dense: bool | None = None,
) -> WithRecycled[SingularResult]:
    """Compute the k largest or smallest singular triplets of a rectangular operator, in bounded memory.

        A V = U B,    A^H U = V B^H + d g,    B = P S Q^H,    u = U p,  v = V q,    ||A^H u - s v|| = |g p|

    Golub-Kahan-Lanczos with thick restarts and two fully reorthogonalized bases. A convergence check follows every few
    matvecs, and the first check at which all k triplets have converged ends the solve. Each step takes one matvec with
    A and one with A^H. Small singular values are as accurate as large ones, to eps ||A||, unlike those of `eigsh` on
    A^H A. The smallest ones take as many matvecs as the distances of their squares need, relative to ||A||^2: many for
    an ill-conditioned A. Zeros of a rank-deficient A count as singular values.

    A small residual shows that a returned triplet is one of A, not that no triplet was missed: a Krylov space holds one
    copy of a repeated singular value until it is exhausted. Therefore the k converged triplets are locked, and a
    missed-pair search grows a Krylov space from a random vector. The search ends when a further copy is excluded, with
    an error probability of 1e-6; it is repeated if it finds one. For a small operator (min(p, n) <= krylov_dim) nothing
    can be missed.

    Args:
        op: A: a (p, n) array, a sparse matrix of `jax.experimental.sparse`, a `LinearOperator`, or a callable v -> A v
            on pytrees, which needs `v0` or `like`. Use `jax.vmap` for batches.
        k: number of triplets, at most min(p, n); static.
        which: "LM" for the largest of the min(p, n) singular values, or "SM" for the smallest; static.
        tol: relative tolerance. A triplet is converged when its residual is at most tol times the largest singular
            value, or times the largest Ritz value seen for "SM". None is sqrt(eps) of the accumulation dtype, or 4 eps
            for 16-bit leaves. The error of a value is at most (tol ||A||)^2 over its distance to the other values, and
            eps ||A|| by rounding: with None working precision relative to ||A||, for values further apart than tol
            ||A||. Closer ones, such as all values below tol ||A||, are not separated: decrease tol for them.
        krylov_dim: m, the number of basis vectors on each side, at least k + 1; static. None is max(2 k + 10, 20). A
            larger m takes fewer matvecs and more memory.
        max_matvecs: maximal number of matvecs with A and A^H together, without those that verify the residuals; static.
            None is 200 m, or 20 min(p, n, 1000) if that is more.
        v0: start vector in the domain of A, and the structure for a callable. If it is zero or not finite, a random
            vector is used.
        key: typed key of the start vector and of random directions; None is `jax.random.key(0)`.
        verify: make the missed-pair search once k triplets have converged; static. Each search excludes, with an error
            probability of 1e-6, copies of the values found and other values that are more wanted than the last one by
            sqrt(tol) ||A|| or more. It takes about as many matvecs as one triplet alone. The status is UNVERIFIED if
            max_matvecs ends the search. Triplets first converge to a fifth of tol. False saves the search.
        adjoint: u -> A^H u for a callable; None derives it by `jax.linear_transpose`. Give it if JAX cannot transpose
            the callable, or if a cheaper adjoint is known.
        dense: use one dense decomposition, `eigenjax.svd` of the whole matrix, instead of a Krylov space; static. None
            does so for a dense or sparse matrix of p n min(p, n) <= 300^3, and for any operator of min(p, n) <= the
            default krylov_dim. It does not if krylov_dim or max_matvecs is given, or on several devices.
        like: structure of the vectors of a bare callable if v0 is None: a pytree of arrays or `jax.ShapeDtypeStruct`.
        derivative: "reverse" for `jax.grad` to any order, "forward" for `jax.jvp`, `jax.jacfwd`, `jax.hessian` and
            `jax.grad`; static.
        adjoint_tol: tolerance on the residuals of the derivative's linear systems, relative to their right-hand sides.
            None chooses it from the residuals and gaps of the triplets.
        adjoint_max_iter: maximal number of steps per triplet for these systems, each with A and A^H; static. None is
            min(10 p, 10 n, 10,000).

    Returns:
        The triplets, the largest first, or for "SM" the smallest first: A right_i = values_i left_i and A^H left_i =
        values_i right_i. `left` has the structure of A's results and `right` that of its arguments, with a leading axis
        k on every leaf. The component of right_i of largest magnitude is positive. Values of zero are zero to rounding,
        with null vectors of A and A^H that are orthonormal to the other vectors.

    Raises:
        ValueError: if k, krylov_dim or max_matvecs is out of range, `which` is unknown, or v0 or a result of `adjoint`
            has the wrong shape.
        TypeError: if `op` is none of these types, a callable comes without v0 and `like` or cannot be transposed, or a
            static option is not an int.

    Cost: two matvecs per step, and two more verify the residuals (2 k + 2 if these contradict the recurrence). If A is
    wide and v0 is given, the start takes one. Each matvec is followed by two or four reads of one of the bases. Memory:
    m + k + 3 vectors on each side, besides that of a matvec.

    Example:
        >>> from eigenjax import svds
        >>> differences = lambda v: {"inside": v[1:] - v[:-1], "ends": v[::11]}
        >>> result = svds(differences, k=2, v0=jnp.zeros(12))
        >>> print(jnp.abs(result.values - 2 * jnp.cos(jnp.pi / 26 * jnp.array([1, 2]))) < 1e-5)
        [ True  True]
        >>> print(jax.tree.map(jnp.shape, result.left), result.right.shape)
        {'ends': (2, 2), 'inside': (2, 11)} (2, 12)
        >>> smallest = svds(lambda v: v[1:] - v[:-1], k=2, which="SM", like=jax.ShapeDtypeStruct((12,), jnp.float32))
        >>> print(jnp.abs(smallest.values - 2 * jnp.sin(jnp.pi / 24 * jnp.array([1, 2]))) < 1e-5)
        [ True  True]

    Source: Golub and Kahan (1965), Calculating the singular values and pseudo-inverse of a matrix; Baglama and
    Reichel (2005), Augmented implicitly restarted Lanczos bidiagonalization methods.
    """
    del dense  # `implicit.differentiable` has decided
    op = as_rectangular(op, like=v0, adjoint=adjoint)
    is_real((op.codomain, op.domain))  # refuses real and complex leaves at once
    tol = default_tolerance(Dilation(op)) if tol is None else tol
    p, n = op.shape
    k, which = checked_count(k, p, n), checked_which(which)
    krylov_dim = _checked_dim(krylov_dim, k, min(p, n))
    max_matvecs = checked_budget(max_matvecs, krylov_dim, min(p, n), matvecs_per_step=2)
    seed = seed_of(key)
    start_seed = fold_in(seed, 0)
    start = _start_vector(op, v0, start_seed)
    # The bases can span the smaller of the two spaces.
    is_wide = p < n
    tall = AdjointMap(op) if is_wide else op
    to_start = v0 is not None and is_wide
    if to_start:
        start = matvec(op, start)
    elif is_wide:
        start = arbitrary_vector(start_seed, tree.working_structure(op.codomain))
    spec = SolveSpec(
        k=k,
        which=_ENDS[which],
        interior=False,
        verify=bool(verify),
        max_matvecs=max_matvecs - to_start,
        random_start=v0 is None,
    )
    state = restarted_golub_kahan.init(tall, start, spec, krylov_dim=krylov_dim, seed=fold_in(seed, 1))
    advance = lambda state: restarted_golub_kahan.step(tall, state, spec, tol=tol)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    found = restarted_golub_kahan.finalize(tall, state, spec, tol=tol, sign_by_left=is_wide)
    left, right = found.eigenvectors[::-1] if is_wide else found.eigenvectors
    num_matvecs = found.num_matvecs + jnp.int32(to_start)
    result = SingularResult(left, found.eigenvalues, right, found.residuals, found.converged, found.status, num_matvecs)
    return WithRecycled(result, recycled_triplets(state.space, state.found, k))


def _start_vector(op: RectangularOperator, v0: PyTree, seed: jax.Array) -> PyTree:
    """Return the vector v0 in working dtypes, or a random one."""
    structure = tree.working_structure(op.domain)
    if v0 is None:
        return arbitrary_vector(seed, structure)
    return given_vector(v0, structure)


def default_dim(k: int) -> int:
    """Return the default number of basis vectors on each side for k triplets."""
    return max(2 * k + 10, _LEAST_DIM)


def checked_count(k: Any, p: int, n: int) -> int:
    """Return k as an int; raise an error unless 1 <= k <= min(p, n)."""
    k = check_int(None, "k", k, least=None, wanted="an int, the number of triplets wanted; it is static under jit")
    if not 1 <= k <= min(p, n):
        raise ValueError(f"k={k}: the operator is {p} x {n}, so choose 1 <= k <= {min(p, n)}")
    return k


def checked_which(which: Any) -> str:
    """Return `which`; raise an error unless it is "LM" or "SM"."""
    check_choice("svds", "which", which, tuple(_ENDS))
    return which


def _checked_dim(krylov_dim: Any, k: int, size: int) -> int:
    """Return the number of vectors in each basis: m, or the size of the smaller space."""
    if krylov_dim is None:
        return min(default_dim(k), size)
    wanted = "an int, or None; it is static under jit"
    krylov_dim = check_int(None, "krylov_dim", krylov_dim, least=None, wanted=wanted)
    if krylov_dim < min(k + 1, size):
        raise ValueError(f"krylov_dim={krylov_dim}: k={k} triplets need krylov_dim >= {min(k + 1, size)}")
    return min(krylov_dim, size)
