"""Eigensolver for symmetric operators: `eigsh` checks its options and chooses the method.

The methods are `restarted_lanczos` (thick-restart Lanczos, for an end of the spectrum or interior eigenvalues),
`two_pass` where no basis is stored, and `lobpcg` where there is a preconditioner.
"""

from typing import Annotated, Any

import jax

from eigenjax.arguments import TRACED, check_int, refuse
from eigenjax.krylov import ritz
from eigenjax.krylov.recycling import WithRecycled, recycled_pairs
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import is_real
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.status import default_tolerance, with_absolute
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.finalize import finalize
from eigenjax.solvers.symmetric.host_loop import is_outside_programs, solve_on_host
from eigenjax.solvers.symmetric.lobpcg import lobpcg
from eigenjax.solvers.symmetric.plan import (
    Plan,
    checked_storage,
    fitting_dim,
    initialize_solve,
    least_dim,
    planned,
)
from eigenjax.solvers.symmetric.two_pass import two_pass_lanczos
from eigenjax.solvers.warm_start import example_vector
from eigenjax.vectors import storage
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.storage import Storage

_BASES = ("device", "offload", "recompute")


def eigsh(
    op: Any,
    k: int = 6,
    *,
    which: str = "LA",
    tol: Annotated[Any, TRACED] = None,
    krylov_dim: int | None = None,
    max_matvecs: int | None = None,
    block_size: int = 1,
    sigma: Annotated[Any, TRACED] = None,
    v0: Annotated[Any, TRACED] = None,
    key: Annotated[jax.Array | None, TRACED] = None,
    verify: bool = True,
    preconditioner: Annotated[Any, TRACED] = None,
    basis: str = "device",
    basis_dtype: Any = None,
    max_basis_bytes: int | None = None,
    dense: bool | None = None,
    atol: Annotated[Any, TRACED] = None,
    b: Annotated[Any, TRACED] = None,
    inverse: Annotated[Any, TRACED] = None,
    interval: Annotated[Any, TRACED] = None,
) -> WithRecycled[EigenResult]:
    """Compute k eigenpairs of a symmetric operator by thick-restart Lanczos, in bounded memory.

        A V = V H + D^T B,    H c = theta c,    v = V c,    ||A v - theta v|| = ||B c||

    Lanczos with thick restarts: a convergence check follows every few matvecs, and the first check at which all k pairs
    have converged ends the solve. With sigma the pairs are harmonic Ritz pairs of the same Krylov spaces, which need no
    inverse. (Five interior pairs, spectrum of 2000, tol 1e-4 / 1e-8: 1007 / 1271 matvecs. The folded operator
    (A - sigma)^2 in the same memory takes 7040 / 10272.)

    A small residual shows that a returned pair is an eigenpair, not that no pair was missed: a Krylov space holds one
    copy of a repeated eigenvalue until it is exhausted. Therefore the k converged pairs are locked, and a missed-pair
    search grows a Krylov space from a random vector. The search ends when a further copy is excluded, with an error
    probability of 1e-6; it is repeated if it finds one. For a small operator (n <= krylov_dim) nothing can be missed.

    Under jit the solve is one program. Outside of it, on one device, it is a loop on the host: the matvec is a program,
    and the rest is shared by all operators of this size, dtype and options. So a second operator compiles its matvec
    and nothing else. Each matvec then takes about 0.3 ms more.

    Args:
        op: symmetric or Hermitian operator, anything that `as_operator` takes. A bare callable needs `v0` or `like`.
        k: number of pairs; static.
        which: "LA" largest, "SA" smallest, "LM" largest magnitude, "BE" alternately from both ends, "SM" smallest
            magnitude (the same as sigma=0); static.
        tol: relative tolerance. A pair is converged when its residual is at most tol times the largest |Ritz value|.
            None is sqrt(eps) of the accumulation dtype, or 4 eps for leaves or matrix products of 16 bits. Eigenvalues
            have errors of r^2 / gap: working precision if the gap is about ||A||. Set a smaller tol for eigenvalues
            that are much smaller than ||A||, or close to others.
        krylov_dim: m, the number of basis vectors; static. None is max(2 k + 10, 20), or max(4 k + 20, 60) for interior
            eigenvalues, and more for blocks. A larger m takes fewer matvecs and more memory. The minimum is
            k + block_size, plus 2 for interior eigenvalues.
        max_matvecs: maximal number of matvecs, without those that verify the residuals; static. None is 100 m, or 10
            min(n, 1000) if that is more.
        block_size: b, the number of vectors multiplied at once (by vmap: one pass over the data for b matvecs); static.
            Set it if b matvecs at once cost less than b single ones, or for multiple eigenvalues.
        sigma: shift. Compute the eigenvalues nearest to this number, nearest first, instead of those named by `which`.
        v0: start: one vector, several with a leading axis, or an `EigenResult`. If it holds k or more eigenvectors
            accurate to tol, k + 1 matvecs verify them, and with verify=False the solve ends there. The missed-pair
            search starts at a random vector in any case. The signs of the result follow v0.
        key: typed key of the start vector and of random directions; None is `jax.random.key(0)`.
        verify: make the missed-pair search once k pairs have converged; static. Each search excludes, with an error
            probability of 1e-6, copies of the pairs found and other eigenvalues more wanted by sqrt(tol) ||A|| or more.
            Closer eigenvalues are excluded with less certainty, down to a distance of tol ||A||, the accuracy of the
            eigenvalues. The status is UNVERIFIED if max_matvecs ends the search. `num_probes` and `num_recovered` of
            the result count the searches and the pairs they found. Pairs first converge to a fifth of tol. False saves
            the search: set it if no eigenvalue is repeated, or if one copy suffices.
        preconditioner: T, anything that `as_operator` takes, positive definite. For "SA" it approximates the inverse of
            A - s I with s below the spectrum, for "LA" that of s I - A with s above it. It selects `lobpcg`, which
            excludes krylov_dim, block_size and sigma and makes no search; its block of k vectors finds k copies.
        basis: "device" stores the Krylov basis on the device. "offload" stores it in host memory (`pinned_host`) and
            transfers a few rows at a time; it does not work under vmap. "recompute" stores three vectors and the k
            results and runs the recurrence twice (`two_pass`), for more than twice the matvecs. Use it when m vectors
            do not fit in memory. It computes pairs at one or both ends, from one start vector and without a search, so
            it finds one copy of a repeated eigenvalue. Static.
        basis_dtype: "bfloat16", "float16" or "float32" stores the basis in fewer bits; arithmetic stays in the working
            precision; static. A final Rayleigh-Ritz step at k matvecs gives the eigenvalues, with errors of about the
            square of the residuals. The residuals do not fall below the rounding of the storage. With tol=None the
            tolerance is at least the machine epsilon of this dtype.
        max_basis_bytes: memory for the basis. It sets krylov_dim to the number of vectors that fit, at most
            max(8 k, 200); static.
        dense: use one dense decomposition, `eigenjax.eigh` of all n columns, instead of a Krylov space; static. None
            does so for a dense or sparse matrix of n <= 300 (256 on a TPU), and for any operator of n <= the default
            krylov_dim. It does not if krylov_dim, max_matvecs, block_size, preconditioner, basis, basis_dtype or
            max_basis_bytes is given, or on several devices.
        atol: absolute tolerance, in units of the eigenvalues: a pair is converged too if its residual is at most this.
            With tol=0 the relative tolerance has no effect.
        b: B, symmetric positive definite, anything that `as_operator` takes, for the problem A x = lambda B x; the
            eigenvectors are B-orthonormal, x_i^H B x_j = 1 if i = j, else 0. Each matvec then needs a solution of
            B x = y: by a Cholesky factor of a dense matrix, else by conjugate gradients, which suit mass matrices. In
            float32 they fail from a condition of about 1e6 on. With a preconditioner or an inverse no such system is
            solved. Excludes basis_dtype and basis="recompute".
        inverse: F, for shift-invert: v -> (A - sigma B)^-1 v with the sigma given here (None is 0), an operator or a
            callable, such as `shift_inverse` returns. Computes the eigenvalues nearest to sigma in few products with F,
            which `num_solves` counts and max_matvecs limits. Each is accurate to tol relative to its distance from
            sigma. B may then be semidefinite. Gradients need no derivative of F. Excludes which, preconditioner,
            basis_dtype and basis="recompute".
        interval: (low, high), traced, infinite ends allowed: compute all eigenvalues inside, with k the most there is
            room for. They are ascending, followed by NaN, zero vectors and converged=False; `num_found` counts them.
            If there are more than k, those nearest to the middle are returned, and the status is MORE_INSIDE. The
            solver finds the eigenvectors of a polynomial in A of high degree. Copies and missed eigenvalues are
            excluded as by `verify`, with an error probability of 1e-6. krylov_dim must exceed k + k / 8 + 2. Empty
            places have zero derivatives, and so have the ends. Excludes which, sigma, b, inverse, preconditioner,
            basis_dtype and basis="recompute".
        like: structure of the vectors of a bare callable if v0 is None: a pytree of arrays or `jax.ShapeDtypeStruct`.
        derivative: "reverse" for `jax.grad` to any order, "forward" for `jax.jvp`, `jax.jacfwd`, `jax.hessian` and
            `jax.grad`; static.
        adjoint_tol: tolerance on the residuals of the derivative's linear systems, relative to their right-hand sides.
            None chooses it from the residuals and gaps of the pairs.
        adjoint_max_iter: maximal number of matvecs per pair for these systems; static. None is min(10 n, 10,000).

    Returns:
        The pairs in the order of `which`, or nearest to sigma first. `error_bounds` bounds the error of each eigenvalue
        by its residual r, and `error_estimates` estimates it by min(r, r^2 / gap), or by r if matvecs are in 16 bits.
        `gap` is the distance to the nearest unwanted Ritz value. With b or inverse, `residuals` are ||A x - lambda B
        x||. A pair is converged by its residual in the norm of B^-1, with an inverse by that of F B x = x / (lambda -
        sigma). If the residuals are above 100 tol (||A|| + |lambda| ||B||) ||x||, or the eigenvalues not those of F,
        the status is INCONSISTENT. `error_bounds` hold for exact inverses.

    Raises:
        ValueError: if k, krylov_dim, block_size, max_matvecs or max_basis_bytes is out of range, `which` or `basis` is
            unknown, v0 or the preconditioner has the wrong shape, or two options exclude each other.
        TypeError: if `as_operator` does not accept `op`, or a static option is not an int.

    Cost: about 2 k matvecs for a network's Hessian, hundreds for a Laplacian. Each missed-pair search takes about as
    many as one pair alone. One more matvec verifies the residuals; k + 1 do after a search that found a pair, or if the
    recurrence contradicts the operator. Each matvec is followed by two or four reads of the basis, each restart by
    eight. Memory besides that of a matvec: m + max(k, m / 5) + 5 vectors, and 2 k more if v0 holds k eigenvectors. With
    basis_dtype of half the bits it is 0.9 m + 2 k + 6 vectors, all of them on the host except max(2 m / 5 + 7, k + 9).
    An interval inside takes about (6 / w) (c + 10) matvecs for c eigenvalues and w, its share of the width of the
    spectrum. With b each vector is held together with B v, in twice this memory, and k + 1 more matvecs verify the
    result.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import eigsh
        >>> laplacian = lambda v: 2 * v - jnp.roll(v, 1) - jnp.roll(v, -1)  # a ring: all but two eigenvalues are double
        >>> result = eigsh(laplacian, k=3, which="SA", v0=jnp.zeros(64))
        >>> print(jnp.abs(result.eigenvalues - 4 * jnp.sin(jnp.pi / 64 * jnp.array([0, 1, 1])) ** 2) < 1e-4)
        [ True  True  True]
        >>> inside = eigsh(jnp.diag(jnp.arange(100.0)), k=3, sigma=41.8)
        >>> print(jnp.abs(inside.eigenvalues - jnp.array([42.0, 41.0, 43.0])) < 1e-4)
        [ True  True  True]
        >>> result = eigsh(jnp.diag(jnp.arange(100.0)), k=6, interval=(40.5, 44.5))
        >>> print(result.num_found, result.eigenvalues.round(2))
        4 [41. 42. 43. 44. nan nan]

    Source: Wu and Simon (2000), Thick-restart Lanczos; Morgan and Zeng (2006), A harmonic restarted Arnoldi algorithm;
    Li, Xi, Erlandson and Saad (2019), The eigenvalues slicing library (EVSL), for intervals.
    """
    del dense, b, inverse, interval  # `implicit` has decided
    op = as_operator(op, like=example_vector(v0))
    ritz.check_count(k, op.size)
    is_real(op.structure)  # refuses real and complex leaves at once
    interior = sigma is not None or which == "SM"
    given = {"krylov_dim": krylov_dim, "max_basis_bytes": max_basis_bytes, "sigma": sigma} | _unusual(block_size)
    if preconditioner is not None:
        given |= {"basis": None if basis == "device" else basis, "basis_dtype": basis_dtype}
        refuse(given, "preconditioner")
        start = v0.eigenvectors if isinstance(v0, EigenResult) else v0
        budget = {"max_matvecs": max_matvecs, "preconditioner": preconditioner}
        tol = with_absolute(default_tolerance(op) if tol is None else tol, atol)
        return WithRecycled(lobpcg(op, k, which=which, tol=tol, v0=start, key=key, **budget), None)
    _check_basis(basis)
    if basis == "recompute":
        given |= {"basis_dtype": basis_dtype}
        refuse({name: value for name, value in given.items() if name != "krylov_dim"}, 'basis="recompute"')
        budget = {"max_matvecs": max_matvecs, "krylov_dim": krylov_dim}
        tol = with_absolute(default_tolerance(op) if tol is None else tol, atol)
        result = two_pass_lanczos(op, k, which=which, tol=tol, v0=example_vector(v0), key=key, **budget)
        return WithRecycled(result, None)
    block_size = check_int(None, "block_size", block_size)
    stored_as = checked_storage(basis, basis_dtype, op)
    if max_basis_bytes is not None:
        least = min(least_dim(k, block_size, interior), op.size)
        krylov_dim = fitting_dim(max_basis_bytes, krylov_dim, storage.vector_bytes(op.structure, stored_as), k, least)
    plan = planned(
        op,
        k,
        which=which,
        tol=tol,
        krylov_dim=krylov_dim,
        max_matvecs=max_matvecs,
        block_size=block_size,
        interior=interior,
        verify=verify,
        storage=stored_as,
        random_start=v0 is None,
        atol=atol,
    )
    sigma = 0.0 if sigma is None else sigma
    if plan.spec.storage == Storage() and is_outside_programs(op, v0, sigma, tol, atol, key):
        return WithRecycled(solve_on_host(op, plan, v0, sigma, key), None)
    return _restarted(op, plan, v0, sigma, key)


def _restarted(op: LinearOperator, plan: Plan, v0: Any, sigma: Any, key: jax.Array | None) -> WithRecycled[EigenResult]:
    """Run the thick-restart Lanczos method."""
    spec = plan.spec
    state, given, references = initialize_solve(op, plan, v0, seed_of(key))
    advance = lambda state: restarted_lanczos.step(op, state, spec, tol=plan.tol, sigma=sigma, given=given)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    result = finalize(op, state, spec, tol=plan.tol, sigma=sigma, references=references)
    # Harmonic extraction leaves no Ritz pairs, and a basis in fewer bits obeys no recurrence to working precision.
    is_exact = spec.storage == Storage() and not spec.interior
    return WithRecycled(result, recycled_pairs(state.krylov, state.found, spec.k) if is_exact else None)


def shares_programs(op: LinearOperator, options: dict[str, Any]) -> bool:
    """Return whether a call with these options runs in a loop on the host (`host_loop`).

    Args:
        op: the operator.
        options: all options of the call.
    """
    plain = options["basis"] == "device" and options["basis_dtype"] is None and options["preconditioner"] is None
    return plain and is_outside_programs(op, *(options[name] for name in ("v0", "sigma", "tol", "atol", "key")))


def _unusual(block_size: Any) -> dict[str, Any]:
    """Map the block size to None where it has its default, as `refuse` expects."""
    return {"block_size": None if block_size == 1 else block_size}


def _check_basis(basis: Any) -> None:
    if basis not in _BASES:
        raise ValueError(f"basis={basis!r}: choose one of {', '.join(map(repr, _BASES))}")
