"""Options of a restarted symmetric solve, checked, and its initial state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_int, refuse
from eigenjax.krylov import ritz
from eigenjax.krylov.rayleigh_ritz import EXTRA_INTERIOR
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.base import LinearOperator
from eigenjax.solvers.budget import checked_budget
from eigenjax.solvers.convergence.status import default_tolerance, with_absolute
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.restarted_lanczos import RestartedState
from eigenjax.solvers.warm_start import GivenVectors, given_vectors, is_start_block, start_rows, starting_block
from eigenjax.vectors import storage
from eigenjax.vectors.pseudorandom import fold_in
from eigenjax.vectors.storage import Storage
from eigenjax.vectors.tree import PyTree

_NARROW = ("bfloat16", "float16", "float32")
# Basis vectors by default: 2 k + 10 at an end, more for interior eigenvalues, where a small space converges slowly.
_LEAST_DIM = 20
_LEAST_DIM_NEAR = 60
# More memory than this costs more reading than it saves matvecs.
_PER_PAIR = 8
_ENOUGH = 200


class Plan(NamedTuple):
    """Checked options of a restarted solve."""

    spec: SolveSpec  # the static options
    tol: Any  # relative tolerance on the residuals, or `Tolerances`
    krylov_dim: int  # m, static
    block_size: int  # b, static


def planned(
    op: Any,
    k: int,
    *,
    which: str,
    tol: Any,
    krylov_dim: Any,
    max_matvecs: Any,
    block_size: Any,
    interior: bool,
    verify: bool,
    storage: Storage,
    random_start: bool = True,
    relative: bool = False,
    atol: Any = None,
) -> Plan:
    """Check the options of `eigsh` and replace None by defaults; only structure and size of `op` are used."""
    ritz.check_count(k, op.size)
    if not interior:
        ritz.check_which(which)
    block_size = check_int(None, "block_size", block_size)
    krylov_dim, block_size = _checked_dims(krylov_dim, block_size, k, op.size, interior)
    max_matvecs = checked_budget(max_matvecs, krylov_dim, op.size)
    spec = SolveSpec(
        k=k,
        which=which,
        interior=interior,
        verify=bool(verify),
        max_matvecs=max_matvecs,
        storage=storage,
        random_start=random_start,
        relative=relative,
    )
    if tol is None:
        tol = max(default_tolerance(op), storage.unit)
    return Plan(spec, with_absolute(tol, atol), krylov_dim, block_size)


def initialize_solve(
    op: Any, plan: Plan, v0: Any, seed: jax.Array
) -> tuple[RestartedState, GivenVectors | None, PyTree | None]:
    """Return the state before the first matvec, the eigenvectors given in v0, and the vectors that signs follow."""
    spec = plan.spec
    rows = start_rows(op, v0)
    given = None
    # A search needs room to restart; without room the space is filled, and the result is complete.
    can_search = not spec.verify or plan.krylov_dim < op.size
    can_verify = is_start_block(op, v0) and can_search and plan.block_size == 1 and spec.storage == Storage()
    if can_verify and jax.tree.leaves(rows)[0].shape[0] >= spec.k:
        given = given_vectors(rows)
    starts = starting_block(op, rows if given is None else given.rows, plan.block_size, fold_in(seed, 0))
    first_check = spec.k if given is None else 1
    state = restarted_lanczos.init(
        starts, spec, krylov_dim=plan.krylov_dim, first_check=first_check, seed=fold_in(seed, 1)
    )
    return state, given, rows


def checked_storage(basis: str, dtype: Any, op: LinearOperator) -> Storage:
    """Return the storage of the basis."""
    if dtype is None:
        return Storage(on_host=basis == "offload")
    try:
        name = str(jnp.dtype(dtype))
    except TypeError:
        name = str(dtype)
    if name not in _NARROW:
        raise ValueError(f"basis_dtype={dtype!r}: choose one of {', '.join(map(repr, _NARROW))}, or None")
    chosen = Storage(name, on_host=basis == "offload")
    return chosen if storage.loses(op.structure, chosen) else chosen._replace(dtype=None)


def fitting_dim(max_basis_bytes: Any, krylov_dim: Any, vector_bytes: int, k: int, least: int) -> int:
    """Return the number of vectors that fit into a number of bytes, at most max(8 k, 200)."""
    max_basis_bytes = check_int(None, "max_basis_bytes", max_basis_bytes)
    refuse({"krylov_dim": krylov_dim}, "max_basis_bytes, which chooses it")
    fitting = max_basis_bytes // vector_bytes
    if fitting < least:
        raise ValueError(
            f"max_basis_bytes={max_basis_bytes} holds {fitting} vectors of {vector_bytes} bytes, and k={k} pairs need "
            f"{least} at least: give {least * vector_bytes} bytes or more, or basis='recompute'"
        )
    return min(fitting, max(_PER_PAIR * k, _ENOUGH))


def _checked_dims(krylov_dim: Any, block_size: int, k: int, size: int, interior: bool) -> tuple[int, int]:
    """Return (m, b); the block size is 1 if the basis can span the whole space."""
    if krylov_dim is None:
        krylov_dim = max(default_dim(k, interior), k + 3 * block_size)
    else:
        krylov_dim = check_int(None, "krylov_dim", krylov_dim)
        least = min(least_dim(k, block_size, interior), size)
        if krylov_dim < least:
            where = " near a number" if interior else ""
            raise ValueError(
                f"krylov_dim={krylov_dim}: k={k} pairs{where} and a block of {block_size} need krylov_dim >= {least}"
            )
    return (size, 1) if krylov_dim + block_size > size else (krylov_dim, block_size)


def default_dim(k: int, interior: bool) -> int:
    """Return the default number of basis vectors for k pairs and a block size of 1."""
    return max(4 * k + 20, _LEAST_DIM_NEAR) if interior else max(2 * k + 10, _LEAST_DIM)


def least_dim(k: int, block_size: int, interior: bool) -> int:
    """Return the smallest basis that holds the wanted pairs and leaves room to expand after a restart."""
    return k + block_size + (EXTRA_INTERIOR if interior else 0)
