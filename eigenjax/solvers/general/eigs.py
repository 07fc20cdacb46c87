"""Eigensolver for operators without symmetry: `eigs` checks its options and runs `krylov_schur`."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import TRACED, check_int
from eigenjax.krylov import ritz
from eigenjax.krylov.general import general_ritz
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.complexified import is_real
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.budget import checked_budget
from eigenjax.solvers.convergence.status import default_tolerance, with_absolute
from eigenjax.solvers.general import krylov_schur
from eigenjax.solvers.general.finalize import finalize
from eigenjax.solvers.general.transforms import has_b, inverse_product, of_inverse, with_true_residuals
from eigenjax.solvers.warm_start import example_vector, start_rows, starting_block
from eigenjax.vectors.pseudorandom import fold_in, seed_of
from eigenjax.vectors.tree import PyTree

# Basis vectors by default: 2 k + 10, and at least this number; twice as many near a shift without an inverse.
_LEAST_DIM = 20
# Room for the k pairs, the conjugate of the last one, and two matvecs.
_ROOM = 3


def eigs(
    op: Any,
    k: int = 6,
    *,
    which: str = "LM",
    tol: Annotated[Any, TRACED] = None,
    krylov_dim: int | None = None,
    max_matvecs: int | None = None,
    v0: Annotated[Any, TRACED] = None,
    key: Annotated[jax.Array | None, TRACED] = None,
    verify: bool = True,
    dense: bool | None = None,
    atol: Annotated[Any, TRACED] = None,
    sigma: Annotated[Any, TRACED] = None,
    inverse: Annotated[Any, TRACED] = None,
    b: Annotated[Any, TRACED] = None,
) -> EigenResult:
    """Compute k eigenpairs of an operator that need not be symmetric, by the Krylov-Schur method, in bounded memory.

        A V = V H + d b^H,    H Q = Q T,    T x = theta x,    v = V Q x,    ||A v - theta v|| = |b^H Q x|

    The restarted Arnoldi method in Krylov-Schur form: a convergence check follows every few matvecs, and the first
    check at which all k pairs have converged ends the solve. For a real operator all matvecs and the basis are real.
    Conjugate pairs stay together; only the last of the k pairs returned may lack its conjugate.

    A pair (lambda, v) with residual r is an exact pair of A + E with ||E|| = r. The error of lambda as an eigenvalue of
    A is r times the condition 1 / |u^H v|, to first order, with u the left eigenvector. The condition is one if A is
    normal and unbounded where eigenvalues coalesce: E moves the eigenvalues of a Jordan block of size n by ||E||^(1/n).
    `eigenjax.left_eigenvectors` computes it, or returns inf. (For a Grcar matrix of size 100, pairs that have converged
    to 1e-4 ||A|| are 0.6 from any eigenvalue.)

    Residuals do not show that no pair was missed: a Krylov space holds one copy of a repeated eigenvalue. Therefore the
    k converged pairs are locked, and a missed-pair search grows a Krylov space from a random vector. The search ends
    when a further copy is excluded, with an error probability of 1e-6; it is repeated if it finds one. For a small
    operator (n <= krylov_dim) nothing can be missed.

    Args:
        op: operator with real or complex leaves, not both; anything that `as_operator` takes. A bare callable needs
            `v0` or `like`.
        k: number of pairs; static.
        which: "LM" largest magnitude, "LR" largest real part, "SR" smallest real part, "LI" largest imaginary part (in
            magnitude for a real operator, where these come in pairs), "SM" smallest magnitude, as sigma=0; static.
        tol: a pair is converged when its residual is at most tol times a norm estimate, the largest ||A v|| seen for a
            unit vector v. (The largest |Ritz value| is no norm estimate: it vanishes for a nilpotent operator.) None is
            sqrt(eps) of the accumulation dtype, or 4 eps for 16-bit leaves.
        krylov_dim: m, the number of basis vectors, at most n; static. None is max(2 k + 10, 20), and twice that with a
            sigma but no inverse. A larger m takes fewer matvecs.
        max_matvecs: maximal number of matvecs; static. None is 100 m, or 10 min(n, 1000) if that is more.
        v0: start: one vector, several with a leading axis, or an `EigenResult`; several are summed. An eigenvector
            accurate to tol counts as one of the wanted.
        key: typed key of the start vector and of random directions; None is `jax.random.key(0)`.
        verify: make the missed-pair search once k pairs have converged; static. Each search excludes, with an error
            probability of 1e-6, copies of the eigenvalues found. It also excludes eigenvalues more wanted by sqrt(tol)
            ||A|| or more, at nine points of the boundary of that region. A search takes about as many matvecs as one
            pair alone. Pairs first converge to a fifth of tol, and if A is not normal to that over the condition of
            their eigenvalues, or to rounding. The status is UNVERIFIED if max_matvecs ends the search, or if each
            search finds other values. In the latter case rounding moves eigenvalues by about sqrt(tol) ||A||, and
            `eigenjax.left_eigenvectors` gives conditions of sqrt(tol) / (16 eps) or more. False saves the search.
        dense: use one dense decomposition, `eigenjax.eig` of all n columns, instead of a Krylov space; static. None
            does so for a dense or sparse matrix of n <= 500, and for any operator of n <= the default krylov_dim. It
            does not if krylov_dim or max_matvecs is given, on several devices, or on a TPU, which has no such
            decomposition: pass False in a program that is exported for a TPU from elsewhere.
        atol: absolute tolerance, in units of the eigenvalues: a pair is converged too if its residual is at most this.
        sigma: shift, a real or complex number: the eigenvalues nearest to it are computed, nearest first, from harmonic
            Ritz vectors. Inside the spectrum these take many matvecs, and no restarted method converges where the other
            eigenvalues surround sigma in the complex plane: give an inverse there. With a complex sigma the vectors of
            a real operator are complex, and each of their matvecs (two real ones) counts as one.
        inverse: F, for shift-invert: v -> (A - sigma B)^-1 v, an operator or a callable, such as `shift_inverse`
            returns; sigma=None is then 0. The eigenvalues nearest to sigma take few products with F, which `num_solves`
            counts. Each is accurate to tol relative to its distance from sigma. Gradients need no derivative of F.
        b: B, for A x = lambda B x: symmetric or Hermitian and positive definite, as an operator, a matrix or a
            callable. Each matvec solves a system with B, by Cholesky factors of a dense matrix, else by conjugate
            gradients. With an inverse, B may be semidefinite, except for gradients. Residuals are ||A x - lambda B x||
            for unit vectors x; tol refers to those of B^-1 A.
        like: structure of the vectors of a bare callable if v0 is None: a pytree of arrays or `jax.ShapeDtypeStruct`.
        derivative: "reverse" for `jax.grad` to any order, "forward" for `jax.jvp`, `jax.jacfwd`, `jax.hessian` and
            `jax.grad`; static.
        adjoint_tol: tolerance on the residuals of the derivative's linear systems, relative to their right-hand sides.
            None chooses it from the residuals of the pairs.
        adjoint_max_iter: maximal number of GMRES matvecs per pair for these systems; static. None is min(10 n, 10,000).

    Returns:
        The pairs in the order of `which`, complex; of two conjugates the one of positive imaginary part first. The
        vectors have unit norm, and their component of largest magnitude is real and positive. They are orthogonal only
        if A is normal.

    Raises:
        ValueError: if k, krylov_dim or max_matvecs is out of range, `which` is unknown, or v0, b or inverse has the
            wrong shape.
        TypeError: if `as_operator` does not accept `op`, `b` or `inverse`, one acts on real and complex leaves at once,
            or a static option is not an int.

    Cost: the number of matvecs depends on the spectrum. One more verifies the residuals; 2 k + 1 (k + 1 if A is
    complex) do after a search, or if the verification contradicts the recurrence. Each matvec is followed by four reads
    of the basis, each restart by eight. Each convergence check and each restart computes a Schur form of size m.
    Memory: m + 2 k + m / 4 + 6 vectors besides that of a matvec.

    Example:
        >>> rotation = jnp.array([[0.0, -2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> result = eigs(rotation, k=2)
        >>> print(jnp.abs(result.eigenvalues - jnp.array([2j, -2j])) < 1e-5, result.converged)
        [ True  True] [ True  True]

    Source: Stewart (2001), A Krylov-Schur algorithm for large eigenproblems; Arnoldi (1951); Morgan and Zeng (2006), A
    harmonic restarted Arnoldi algorithm for calculating eigenvalues and determining multiplicity.
    """
    del dense, b  # `implicit` has decided, and has built B^-1 A
    op = as_operator(op, like=example_vector(v0))
    tol = with_absolute(default_tolerance(op) if tol is None else tol, atol)
    ritz.check_count(k, op.size, "eigs")
    real = is_real(op.structure)
    general_ritz.check_which(which)
    if inverse is not None and which not in ("LM", "SM"):
        raise ValueError(f"which={which!r}: inverse gives the eigenvalues nearest to sigma, so leave which out")
    sigma = 0.0 if sigma is None and (which == "SM" or inverse is not None) else sigma
    interior = inverse is None and sigma is not None
    krylov_dim = _checked_dim(krylov_dim, k, op.size, interior=interior)
    spec = SolveSpec(
        k=k,
        which=which,
        interior=interior,
        verify=bool(verify),
        max_matvecs=checked_budget(max_matvecs, krylov_dim, op.size),
        random_start=v0 is None,
        relative=inverse is not None,
    )
    multiplied = op if inverse is None else inverse_product(op, inverse)
    seed = seed_of(key)
    if isinstance(v0, EigenResult) and real:
        v0 = _real_rows(v0)
    starts = starting_block(op, start_rows(op, v0), 1, fold_in(seed, 0))
    state = krylov_schur.init(starts, spec, krylov_dim=krylov_dim, seed=fold_in(seed, 1))
    advance = lambda state: krylov_schur.step(multiplied, state, spec, tol=tol, sigma=sigma)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    result = finalize(multiplied, state, spec, tol=tol)
    if inverse is not None:
        result = of_inverse(result, sigma, tol)
    return with_true_residuals(op, result, tol, fold_in(seed, 2)) if inverse is not None or has_b(op) else result


def default_dim(k: int, *, interior: bool = False) -> int:
    """Return the default number of basis vectors for k pairs; `interior` ones are near a shift, without an inverse."""
    return max(2 * k + 10, _LEAST_DIM) * (2 if interior else 1)


def _real_rows(result: EigenResult) -> PyTree:
    """Return k real vectors with the span of the complex ones: the real and the imaginary part of each conjugate pair.

    Both parts of every vector would occur twice, and could cancel in a sum with random signs.
    """
    upper = jnp.imag(result.eigenvalues) >= 0
    part = lambda x: jnp.where(upper.reshape(-1, *[1] * (x.ndim - 1)), x.real, x.imag)
    return jax.tree.map(part, result.eigenvectors)


def _checked_dim(krylov_dim: Any, k: int, size: int, *, interior: bool) -> int:
    if krylov_dim is None:
        return min(default_dim(k, interior=interior), size)
    least = min(k + _ROOM, size)
    why = f": k={k} pairs need krylov_dim >= {least}"
    return min(check_int("eigs", "krylov_dim", krylov_dim, least=least, why=why), size)
