"""Eigsh: the symmetric eigensolver to call, whatever the spectrum.

It checks what it is given and chooses the method: `restarted` (thick-restart Lanczos, at an end of the spectrum or near
a number), `two_pass` where no basis is to be held, `lobpcg` where there is a preconditioner.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import storage, tree
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers import restarted, ritz
from eigenjax.solvers.budget import checked_budget
from eigenjax.solvers.extraction import EXTRA_NEAR
from eigenjax.solvers.goal import Goal
from eigenjax.solvers.judgement import default_tol
from eigenjax.solvers.lobpcg import lobpcg
from eigenjax.solvers.restarted import RestartedState
from eigenjax.solvers.start import seed_of, successor
from eigenjax.solvers.two_pass import two_pass_lanczos
from eigenjax.solvers.warm_start import (
    KnownVectors,
    example_vector,
    is_several,
    known_vectors,
    start_rows,
    starting_block,
)
from eigenjax.storage import Storage
from eigenjax.tree import PyTree

_BASES = ("device", "offload", "recompute")
_NARROW = ("bfloat16", "float16", "float32")
# Vectors held by default: 2 k + 10 at an end, more near a number, where a small space sees little.
_LEAST_DIM = 20
_LEAST_DIM_NEAR = 60
# What more memory than this would buy is not worth the reading of it.
_PER_PAIR = 8
_ENOUGH = 200


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
    verify: bool = False,
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

    What a residual says, and what it does not: each pair returned is an eigenpair to within its residual. That none
    was missed is certain only of a small operator (n <= krylov_dim). A single vector shows one copy of a multiple
    eigenvalue until its space is exhausted; a block of b shows b; `verify` goes and looks.

    Args:
        op: whatever `as_operator` takes; a bare callable takes its structure from v0. Symmetric or Hermitian.
        k: number of pairs, static.
        which: "LA" largest, "SA" smallest, "LM" largest magnitude, "BE" from both ends in turn; "SM" smallest
            magnitude is sigma=0; static.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|; None is
            sqrt(eps) of the accumulation dtype, which gives eigenvalues to working precision.
        krylov_dim: m, the vectors held, static; None is max(2 k + 10, 20), near a number max(4 k + 20, 60), with
            more for blocks. More is fewer products, fewer is less memory; k + block_size is the least, and 2 more
            near a number.
        max_matvecs: products at most, static, but for those that audit the residuals; None is 100 m, or 10 n if that
            is more, up to n = 1000.
        block_size: b, the vectors multiplied at once (by vmap: one pass over the data for b products), static. For
            operators whose products are cheaper so, and for multiple eigenvalues.
        sigma: the eigenvalues nearest to this number, nearest first, instead of `which`.
        v0: where to start: one vector; several, with a leading axis; or an `EigenResult`. If k or more are given and
            are eigenvectors to within tol, they are believed to be the ones wanted: k + 1 products and the solve is
            over. The signs of the result follow them.
        key: typed key of the start vector and of fresh directions; None is `jax.random.key(0)`.
        verify: once k pairs have converged, follow random directions orthogonal to them until one brings nothing new;
            static. `num_probes` and `num_recovered` of the result tell what came of it. It works to a tenth of tol,
            and each probe costs about as many products as one pair alone. Within clusters a few tol wide it may
            still take one eigenvalue for another.
        preconditioner: T, whatever `as_operator` takes, positive definite and near the inverse of A - s I with s
            below the spectrum for "SA" (of s I - A with s above it for "LA"): `lobpcg` is used. It has no use for
            krylov_dim, block_size, sigma and verify.
        basis: "device" holds the Krylov basis; "offload" keeps it in the memory of the host (`pinned_host`) and brings
            a few rows at a time to the device, not under vmap; "recompute" holds three vectors and the k results and
            runs the recurrence twice, for more than twice the products (`two_pass`): for whoever has no room for m
            vectors. One end or both, from one start vector; of a repeated eigenvalue it finds one copy. Static.
        basis_dtype: "bfloat16", "float16", "float32": keeps the basis in fewer bits, with all arithmetic in the
            working precision; static. The eigenvalues are those of a Rayleigh-Ritz step at the end, in working
            precision, at k products, and right to about the square of the residuals, which do not fall below what
            is lost in writing. tol=None is then the machine epsilon of this dtype, if that is more.
        max_basis_bytes: chooses krylov_dim, as many vectors as fit, at most 8 k or 200; static.

    Returns:
        The pairs in the order of `which`, or nearest to sigma first. `error_bounds` bounds each eigenvalue's error
        by min(r, r^2 / gap), `gap` is the distance to the first eigenvalue known that was not wanted.

    Raises:
        ValueError: if k, krylov_dim, block_size, max_matvecs or max_basis_bytes does not fit, `which` or `basis` is
            unknown, v0 or the preconditioner does not fit, or two options exclude each other.
        TypeError: if `op` is nothing that `as_operator` takes, or a static option is not an int.

    Cost: a network's Hessian takes about 2 k products, a Laplacian hundreds; one more audits the residuals (k + 1
    where it finds the recurrence at odds with the operator). Each product is followed by reading the basis twice or
    four times, each restart by eight. Memory beside a product's: m + max(k, m / 5) + 4
    vectors; 2 k more where k eigenvectors are given. With basis_dtype of half the bits 0.9 m + 2 k + 5, on the host
    but for 2 m / 5 + 6 or k + 8 of them.

    Example:
        >>> import jax.numpy as jnp
        >>> laplacian = lambda v: 2 * v - jnp.roll(v, 1) - jnp.roll(v, -1)  # a ring: all but two eigenvalues are double
        >>> result = eigsh(laplacian, k=3, which="SA", v0=jnp.zeros(64), verify=True)
        >>> print(jnp.abs(result.eigenvalues - 4 * jnp.sin(jnp.pi / 64 * jnp.array([0, 1, 1])) ** 2) < 1e-4)
        [ True  True  True]
        >>> inside = eigsh(jnp.diag(jnp.arange(100.0)), k=3, sigma=41.8)
        >>> print(jnp.abs(inside.eigenvalues - jnp.array([42.0, 41.0, 43.0])) < 1e-4)
        [ True  True  True]

    Source: Wu and Simon (2000), Thick-restart Lanczos; Morgan and Zeng (2006), A harmonic restarted Arnoldi algorithm.
    """
    op = as_operator(op, like=example_vector(v0))
    ritz.check_count(k, op.size)
    near = sigma is not None or which == "SM"
    own = {"krylov_dim": krylov_dim, "max_basis_bytes": max_basis_bytes, "sigma": sigma} | _unusual(block_size, verify)
    if preconditioner is not None:
        own |= {"basis": None if basis == "device" else basis, "basis_dtype": basis_dtype}
        _refuse(own, "preconditioner")
        start = v0.eigenvectors if isinstance(v0, EigenResult) else v0
        budget = {"max_matvecs": max_matvecs, "preconditioner": preconditioner}
        return lobpcg(op, k, which=which, tol=tol, v0=start, key=key, **budget)
    _check_basis(basis)
    if basis == "recompute":
        own |= {"basis_dtype": basis_dtype}
        _refuse({name: value for name, value in own.items() if name != "krylov_dim"}, 'basis="recompute"')
        budget = {"max_matvecs": max_matvecs, "krylov_dim": krylov_dim}
        return two_pass_lanczos(op, k, which=which, tol=tol, v0=example_vector(v0), key=key, **budget)
    _check_positive("block_size", block_size)
    kept = _storage(basis, basis_dtype, op)
    if max_basis_bytes is not None:
        least = min(_least_dim(k, block_size, near), op.size)
        krylov_dim = _fitting_dim(max_basis_bytes, krylov_dim, storage.vector_bytes(op.structure, kept), k, least)
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
    )
    state, known, references = begin(op, plan, v0, seed_of(key))
    number = 0.0 if sigma is None else sigma
    advance = lambda state: restarted.step(op, state, plan.goal, tol=plan.tol, sigma=number, known=known)
    state = jax.lax.while_loop(lambda state: ~state.done, advance, state)
    return restarted.finalize(op, state, plan.goal, tol=plan.tol, sigma=number, references=references)


class Plan(NamedTuple):
    """The arguments of a restarted solve, checked."""

    goal: Goal  # static
    tol: Any
    krylov_dim: int
    block_size: int


def planned(
    op: Any,
    k: int,
    *,
    which: str,
    tol: Any,
    krylov_dim: Any,
    max_matvecs: Any,
    block_size: Any,
    near: bool,
    verify: bool,
    kept: Storage,
) -> Plan:
    """Checks the arguments of `eigsh` and fills in what is None; of `op` only structure and size are looked at."""
    ritz.check_count(k, op.size)
    if not near:
        ritz.check_which(which)
    _check_positive("block_size", block_size)
    krylov_dim, block_size = _checked_dims(krylov_dim, block_size, k, op.size, near)
    max_matvecs = checked_budget(max_matvecs, krylov_dim, op.size)
    goal = Goal(k=k, which=which, near=near, verify=bool(verify), max_matvecs=max_matvecs, kept=kept)
    if tol is None:
        tol = max(default_tol(tree.accumulation_dtype(op.structure)), kept.unit)
    return Plan(goal, tol, krylov_dim, block_size)


def begin(op: Any, plan: Plan, v0: Any, seed: jax.Array) -> tuple[RestartedState, KnownVectors | None, PyTree | None]:
    """The state before the first product, the eigenvectors known, and the vectors that signs follow."""
    goal = plan.goal
    rows = start_rows(op, v0)
    known = None
    believable = is_several(op, v0) and not goal.verify and plan.block_size == 1 and goal.kept == Storage()
    if believable and jax.tree.leaves(rows)[0].shape[0] >= goal.k:
        known = known_vectors(rows)
    starts = starting_block(op, rows if known is None else known.rows, plan.block_size, successor(seed, 0))
    first_look = goal.k if known is None else 1
    state = restarted.init(starts, goal, krylov_dim=plan.krylov_dim, first_look=first_look, seed=successor(seed, 1))
    return state, known, rows


def _unusual(block_size: Any, verify: Any) -> dict[str, Any]:
    """Options that are at their defaults are None."""
    return {"block_size": None if block_size == 1 else block_size, "verify": verify or None}


def _refuse(options: dict[str, Any], other: str) -> None:
    """Raises an error if an option is given that another one excludes."""
    shown = lambda name, value: name if isinstance(value, jax.Array) else f"{name}={value!r}"
    given = [shown(name, value) for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: has no meaning with {other}; leave one of them out")


def _check_basis(basis: Any) -> None:
    if basis not in _BASES:
        raise ValueError(f"basis={basis!r}: choose one of {', '.join(map(repr, _BASES))}")


def _storage(basis: str, dtype: Any, op: LinearOperator) -> Storage:
    """How the basis is kept."""
    if dtype is None:
        return Storage(on_host=basis == "offload")
    try:
        name = str(jnp.dtype(dtype))
    except TypeError:
        name = str(dtype)
    if name not in _NARROW:
        raise ValueError(f"basis_dtype={dtype!r}: choose one of {', '.join(map(repr, _NARROW))}, or None")
    kept = Storage(name, on_host=basis == "offload")
    return kept if storage.loses(op.structure, kept) else kept._replace(dtype=None)


def _fitting_dim(max_basis_bytes: Any, krylov_dim: Any, vector_bytes: int, k: int, least: int) -> int:
    """As many vectors as fit into these bytes."""
    _check_positive("max_basis_bytes", max_basis_bytes)
    _refuse({"krylov_dim": krylov_dim}, "max_basis_bytes, which chooses it")
    fitting = max_basis_bytes // vector_bytes
    if fitting < least:
        raise ValueError(
            f"max_basis_bytes={max_basis_bytes} holds {fitting} vectors of {vector_bytes} bytes, and k={k} pairs need "
            f"{least} at least: give {least * vector_bytes} bytes or more, or basis='recompute'"
        )
    return min(fitting, max(_PER_PAIR * k, _ENOUGH))


def _check_positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: give an int; it is static under jit")
    if value < 1:
        raise ValueError(f"{name}={value}: give 1 or more")


def _checked_dims(krylov_dim: Any, block_size: int, k: int, size: int, near: bool) -> tuple[int, int]:
    """(m, b); a space as large as the operator is filled vector by vector."""
    if krylov_dim is None:
        least = max(4 * k + 20, _LEAST_DIM_NEAR) if near else max(2 * k + 10, _LEAST_DIM)
        krylov_dim = max(least, k + 3 * block_size)
    else:
        _check_positive("krylov_dim", krylov_dim)
        least = min(_least_dim(k, block_size, near), size)
        if krylov_dim < least:
            where = " near a number" if near else ""
            raise ValueError(
                f"krylov_dim={krylov_dim}: k={k} pairs{where} and a block of {block_size} need krylov_dim >= {least}"
            )
    return (size, 1) if krylov_dim + block_size > size else (krylov_dim, block_size)


def _least_dim(k: int, block_size: int, near: bool) -> int:
    return k + block_size + (EXTRA_NEAR if near else 0)
