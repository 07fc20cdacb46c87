"""`eigsh` of a pencil: its options, checked, and the choice of the method."""

import functools
from typing import Any

import jax

from eigenjax.arguments import check_choice, check_int, refuse
from eigenjax.krylov import ritz
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.operators.complexified import is_real
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.status import default_tolerance, with_absolute
from eigenjax.solvers.pencil.pencil import Pencil
from eigenjax.solvers.pencil.solve import solve_pencil, solve_preconditioned
from eigenjax.solvers.symmetric import eigsh as standard
from eigenjax.solvers.symmetric.plan import checked_storage, fitting_dim, least_dim, planned
from eigenjax.vectors import storage

# Values of `which` that agree with the eigenvalues nearest to a shift.
_NEAREST = ("LA", "LM", "SM")


@functools.wraps(standard.eigsh)
def eigsh(
    op: Pencil,
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
    interval: Any = None,
) -> WithRecycled[EigenResult]:
    """Compute k eigenpairs of a pencil A x = lambda B x; the options are those of the public `eigsh`."""
    del dense, interval
    ritz.check_count(k, op.size)
    is_real(op.structure)
    _check_fixed(op, which, basis, basis_dtype)
    interior = sigma is not None or which == "SM"
    given = {"krylov_dim": krylov_dim, "max_basis_bytes": max_basis_bytes, "sigma": sigma}
    if preconditioner is not None:
        refuse(given | {"inverse": op.inverse, "basis": None if basis == "device" else basis}, "preconditioner")
        tol = with_absolute(default_tolerance(op.a) if tol is None else tol, atol)
        options = {"which": which, "tol": tol, "max_matvecs": max_matvecs, "v0": v0, "key": key}
        return WithRecycled(solve_preconditioned(op, k, preconditioner=preconditioner, **options), None)
    shifted = op.inverse is not None
    interior = interior and not shifted
    block_size = check_int(None, "block_size", block_size)
    stored_as = checked_storage(basis, None, op.a)
    if max_basis_bytes is not None:
        least = min(least_dim(k, block_size, interior), op.size)
        size = storage.vector_bytes(op.structure, stored_as) * (1 if op.b is None else 2)
        krylov_dim = fitting_dim(max_basis_bytes, krylov_dim, size, k, least)
    plan = planned(
        op.a,
        k,
        which="LM" if shifted else which,
        tol=tol,
        krylov_dim=krylov_dim,
        max_matvecs=max_matvecs,
        block_size=block_size,
        interior=interior,
        verify=verify,
        storage=stored_as,
        random_start=v0 is None,
        relative=shifted,
        atol=atol,
    )
    return solve_pencil(op, plan, v0, 0.0 if sigma is None else sigma, key)


def _check_fixed(op: Pencil, which: str, basis: str, basis_dtype: Any) -> None:
    with_what = "b" if op.inverse is None else "inverse"
    if op.inverse is not None and which not in _NEAREST:
        raise ValueError(f"which={which!r}: inverse gives the eigenvalues nearest to sigma, so leave which out")
    refuse({"basis_dtype": basis_dtype, "basis": basis if basis == "recompute" else None}, with_what)
    check_choice("eigsh", "basis", basis, ("device", "offload"))
