"""`eigsh` of an interval: its options, checked."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_choice, check_int, refuse
from eigenjax.krylov import ritz
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import is_real
from eigenjax.result import EigenResult
from eigenjax.solvers.budget import checked_budget
from eigenjax.solvers.interval.solve import solve_interval
from eigenjax.solvers.symmetric import eigsh as standard
from eigenjax.solvers.symmetric.plan import checked_storage, fitting_dim, least_dim, planned
from eigenjax.vectors import storage, tree
from eigenjax.vectors.pseudorandom import seed_of

# Room for eigenvalues just outside of the interval: these, and one for each _PER_PAIR pairs.
_MORE, _PER_PAIR = 2, 8
# By default the matvecs of at most this degree of the filter are allowed for each step of a solve.
_DEGREES = 1000


@functools.wraps(standard.eigsh)
def eigsh(
    op: LinearOperator,
    k: int = 6,
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
    dense: bool | None,
    atol: Any,
    b: Any,
    inverse: Any,
    interval: Any,
) -> WithRecycled[EigenResult]:
    """Compute all eigenpairs in an interval, k at most; the options are those of the public `eigsh`."""
    del dense
    ritz.check_count(k, op.size)
    is_real(op.structure)
    check_fixed(which, sigma, b, inverse)
    given = {"preconditioner": preconditioner, "basis_dtype": basis_dtype}
    refuse(given | {"basis": basis if basis == "recompute" else None}, "interval")
    check_choice("eigsh", "basis", basis, ("device", "offload"))
    block_size = check_int(None, "block_size", block_size)
    room = min(k + _MORE + k // _PER_PAIR, op.size)
    stored_as = checked_storage(basis, None, op)
    if max_basis_bytes is not None:
        least = min(least_dim(room, block_size, False), op.size)
        size = storage.vector_bytes(op.structure, stored_as)
        krylov_dim = fitting_dim(max_basis_bytes, krylov_dim, size, room, least)
    plan = planned(
        op,
        room,
        which="LA",
        tol=tol,
        krylov_dim=krylov_dim,
        max_matvecs=None,
        block_size=block_size,
        interior=False,
        verify=verify,
        storage=stored_as,
        random_start=False,
        atol=atol,
    )
    budget = checked_budget(max_matvecs, plan.krylov_dim, op.size, matvecs_per_step=_DEGREES)
    plan = plan._replace(spec=plan.spec._replace(max_matvecs=min(budget, 2**30)))
    dtype = tree.real_dtype(tree.accumulation_dtype(op.structure))
    low, high = (jnp.asarray(end).astype(dtype) for end in interval)
    return WithRecycled(solve_interval(op, k, plan, (low, high), v0, seed_of(key)), None)


def check_fixed(which: str, sigma: Any, b: Any, inverse: Any) -> None:
    """Refuse options that select other eigenvalues than those of the interval, or another problem."""
    if which != "LA":
        raise ValueError(f"which={which!r}: interval asks for all eigenvalues inside, so leave which out")
    refuse({"sigma": sigma}, "interval")
    partner = "b" if b is not None else "inverse" if inverse is not None else None
    if partner:
        raise ValueError(
            f"{partner} and interval: intervals are for A x = lambda x without an inverse; leave interval out and "
            "call with sigma, the middle of the interval"
        )
