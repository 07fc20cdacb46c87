"""Eigsh: the symmetric eigensolver to call, whatever the spectrum.

It checks what it is given and chooses the method: `restarted` (thick-restart Lanczos, at an end of the spectrum or near
a number), `two_pass` where no basis is to be held, `lobpcg` where there is a preconditioner.
"""

from typing import Any

import jax

from eigenjax.krylov import ritz
from eigenjax.krylov.recycling import Remainder, remainder
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.finalize import finalize
from eigenjax.solvers.symmetric.lobpcg import lobpcg
from eigenjax.solvers.symmetric.plan import (
    begin,
    check_positive,
    checked_storage,
    fitting_dim,
    least_dim,
    planned,
    refuse,
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
    tol: Any = None,
    krylov_dim: int | None = None,
    max_matvecs: int | None = None,
    block_size: int = 1,
    sigma: Any = None,
    v0: Any = None,
    key: jax.Array | None = None,
    verify: bool = True,
    preconditioner: Any = None,
    basis: str = "device",
    basis_dtype: Any = None,
    max_basis_bytes: int | None = None,
) -> EigenResult:
    """K eigenpairs of a symmetric operator, restarted until they have converged, in bounded memory.

        A V = V H + D^T B,    H c = theta c,    v = V c,    ||A v - theta v|| = ||B c||

    Lanczos with thick restarts, looked at every few products and ended by the first look that finds all k pairs
    converged. Near a number the pairs are harmonic Ritz pairs of the same spaces: of what needs products only, the
    cheapest by far. (Five pairs inside a spectrum of 2000, products to 1e-4 / 1e-8: 1007 / 1271, where the folded
    operator (A - sigma)^2 in the same memory took 7040 / 10272.)

    A residual says that each pair returned is an eigenpair to within it, not that none was missed: a Krylov space shows
    one copy of a repeated eigenvalue until it is exhausted. So once k pairs have converged, they are locked and a
    Krylov space is grown from a random vector, until it excludes that a copy of them is left, with a probability of
    oversight of 1e-6; if it finds one, again. Of a small operator (n <= krylov_dim) nothing can be missed.

    Args:
        op: whatever `as_operator` takes; a bare callable takes its structure from v0. Symmetric or Hermitian.
        k: number of pairs, static.
        which: "LA" largest, "SA" smallest, "LM" largest magnitude, "BE" from both ends in turn; "SM" smallest
            magnitude is sigma=0; static.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|; None is
            sqrt(eps) of the accumulation dtype, which gives eigenvalues to working precision, or 4 eps of leaves of
            16 bits.
        krylov_dim: m, the vectors held, static; None is max(2 k + 10, 20), near a number max(4 k + 20, 60), with
            more for blocks. More is fewer products, fewer is less memory; k + block_size is the least, and 2 more
            near a number.
        max_matvecs: products at most, static, but for those that audit the residuals; None is 100 m, or 10 n if that
            is more, up to n = 1000.
        block_size: b, the vectors multiplied at once (by vmap: one pass over the data for b products), static. For
            operators whose products are cheaper so, and for multiple eigenvalues.
        sigma: the eigenvalues nearest to this number, nearest first, instead of `which`.
        v0: where to start: one vector; several, with a leading axis; or an `EigenResult`. If k or more are given and
            are eigenvectors to within tol, k + 1 products confirm them, and with verify=False the solve is over. The
            search for missed pairs starts at random whatever v0 is. The signs of the result follow v0.
        key: typed key of the start vector and of fresh directions; None is `jax.random.key(0)`.
        verify: search for missed pairs once k have converged; static. Each search excludes, with a probability of
            oversight of 1e-6, copies of the pairs found and other eigenvalues that are more wanted by
            sqrt(tol) ||A|| or more; nearer ones are excluded the less the nearer they are, down to tol ||A||, to
            which eigenvalues are determined at all. The status is UNVERIFIED where max_matvecs ends the search.
            `num_probes` and `num_recovered` of the result tell how many searches there were and what they found.
            Pairs converge to a tenth of tol first. False saves the search: for callers who know that no eigenvalue
            is repeated, or to whom one copy will do.
        preconditioner: T, whatever `as_operator` takes, positive definite and near the inverse of A - s I with s
            below the spectrum for "SA" (of s I - A with s above it for "LA"): `lobpcg` is used. It has no use for
            krylov_dim, block_size and sigma, and makes no search: its block of k vectors shows k copies.
        basis: "device" holds the Krylov basis; "offload" keeps it in the memory of the host (`pinned_host`) and brings
            a few rows at a time to the device, not under vmap; "recompute" holds three vectors and the k results and
            runs the recurrence twice, for more than twice the products (`two_pass`): for whoever has no room for m
            vectors. One end or both, from one start vector, and without a search: of a repeated eigenvalue it finds
            one copy. Static.
        basis_dtype: "bfloat16", "float16", "float32": keeps the basis in fewer bits, with all arithmetic in the
            working precision; static. The eigenvalues are those of a Rayleigh-Ritz step at the end, in working
            precision, at k products, and right to about the square of the residuals, which do not fall below what
            is lost in writing. tol=None is then the machine epsilon of this dtype, if that is more.
        max_basis_bytes: chooses krylov_dim, as many vectors as fit, at most 8 k or 200; static.
        like: what a bare callable acts on where there is no v0: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The pairs in the order of `which`, or nearest to sigma first. `error_bounds` bounds each eigenvalue's error
        by its residual r, `error_estimates` estimates it by min(r, r^2 / gap), and `gap` is the distance to the first
        Ritz value that was not wanted.

    Raises:
        ValueError: if k, krylov_dim, block_size, max_matvecs or max_basis_bytes does not fit, `which` or `basis` is
            unknown, v0 or the preconditioner does not fit, or two options exclude each other.
        TypeError: if `op` is nothing that `as_operator` takes, or a static option is not an int.

    Cost: a network's Hessian takes about 2 k products, a Laplacian hundreds; each search for missed pairs about as many
    as one pair alone. One more audits the residuals (k + 1 where a search has found something, or where the recurrence
    is at odds with the operator). Each product is followed by reading the basis twice or four times, each restart by
    eight. Memory beside a product's: m + max(k, m / 5) + 5 vectors; 2 k more where k eigenvectors are given. With
    basis_dtype of half the bits 0.9 m + 2 k + 6, on the host but for 2 m / 5 + 7 or k + 9 of them.

    Example:
        >>> import jax.numpy as jnp
        >>> laplacian = lambda v: 2 * v - jnp.roll(v, 1) - jnp.roll(v, -1)  # a ring: all but two eigenvalues are double
        >>> result = eigsh(laplacian, k=3, which="SA", v0=jnp.zeros(64))
        >>> print(jnp.abs(result.eigenvalues - 4 * jnp.sin(jnp.pi / 64 * jnp.array([0, 1, 1])) ** 2) < 1e-4)
        [ True  True  True]
        >>> inside = eigsh(jnp.diag(jnp.arange(100.0)), k=3, sigma=41.8)
        >>> print(jnp.abs(inside.eigenvalues - jnp.array([42.0, 41.0, 43.0])) < 1e-4)
        [ True  True  True]

    Source: Wu and Simon (2000), Thick-restart Lanczos; Morgan and Zeng (2006), A harmonic restarted Arnoldi algorithm.
    """
    return eigsh_and_remainder(
        op,
        k,
        which=which,
        tol=tol,
        krylov_dim=krylov_dim,
        max_matvecs=max_matvecs,
        block_size=block_size,
        sigma=sigma,
        v0=v0,
        key=key,
        verify=verify,
        preconditioner=preconditioner,
        basis=basis,
        basis_dtype=basis_dtype,
        max_basis_bytes=max_basis_bytes,
    )[0]


def eigsh_and_remainder(
    op: Any,
    k: int,
    *,
    which: str,
    tol: Any,
    krylov_dim: int | None,
    max_matvecs: int | None,
    block_size: int,
    sigma: Any,
    v0: Any,
    key: jax.Array | None,
    verify: bool,
    preconditioner: Any,
    basis: str,
    basis_dtype: Any,
    max_basis_bytes: int | None,
) -> tuple[EigenResult, Remainder | None]:
    """What `eigsh` returns, and what the space that it comes from knows besides; None where that is not to be had."""
    op = as_operator(op, like=example_vector(v0))
    ritz.check_count(k, op.size)
    near = sigma is not None or which == "SM"
    own = {"krylov_dim": krylov_dim, "max_basis_bytes": max_basis_bytes, "sigma": sigma} | _unusual(block_size)
    if preconditioner is not None:
        own |= {"basis": None if basis == "device" else basis, "basis_dtype": basis_dtype}
        refuse(own, "preconditioner")
        start = v0.eigenvectors if isinstance(v0, EigenResult) else v0
        budget = {"max_matvecs": max_matvecs, "preconditioner": preconditioner}
        return lobpcg(op, k, which=which, tol=tol, v0=start, key=key, **budget), None
    _check_basis(basis)
    if basis == "recompute":
        own |= {"basis_dtype": basis_dtype}
        refuse({name: value for name, value in own.items() if name != "krylov_dim"}, 'basis="recompute"')
        budget = {"max_matvecs": max_matvecs, "krylov_dim": krylov_dim}
        return two_pass_lanczos(op, k, which=which, tol=tol, v0=example_vector(v0), key=key, **budget), None
    check_positive("block_size", block_size)
    kept = checked_storage(basis, basis_dtype, op)
    if max_basis_bytes is not None:
        least = min(least_dim(k, block_size, near), op.size)
        krylov_dim = fitting_dim(max_basis_bytes, krylov_dim, storage.vector_bytes(op.structure, kept), k, least)
    plan = planned(
        op,
        k,
        which=which,
        tol=tol,
        krylov_dim=krylov_dim,
        max_matvecs=max_matvecs,
        block_size=block_size,
        near=near,
        verify=verify,
        kept=kept,
        random_start=v0 is None,
    )
    state, known, references = begin(op, plan, v0, seed_of(key))
    number = 0.0 if sigma is None else sigma
    advance = lambda state: restarted_lanczos.step(op, state, plan.goal, tol=plan.tol, sigma=number, known=known)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    result = finalize(op, state, plan.goal, tol=plan.tol, sigma=number, references=references)
    # Harmonic pairs leave no Ritz pairs over, and a basis in fewer bits obeys no recurrence to working precision.
    is_exact = plan.goal.kept == Storage() and not near
    return result, remainder(state.krylov, state.found, k) if is_exact else None


def _unusual(block_size: Any) -> dict[str, Any]:
    """Options that are at their defaults are None."""
    return {"block_size": None if block_size == 1 else block_size}


def _check_basis(basis: Any) -> None:
    if basis not in _BASES:
        raise ValueError(f"basis={basis!r}: choose one of {', '.join(map(repr, _BASES))}")
