"""The long run: the restarted solver in a loop on the host, with progress, checkpoints and data from disk."""

import contextlib
import os
from typing import Any

import jax

from eigenjax import arguments
from eigenjax.arguments import plain_int
from eigenjax.calls import explained
from eigenjax.operators.checks import prefixed
from eigenjax.operators.matrices import vector_of
from eigenjax.result import EigenResult, RunError
from eigenjax.runs import checkpoint, checks, fingerprint
from eigenjax.runs.progress import Show
from eigenjax.runs.progress import shown as progress_shown
from eigenjax.runs.solve import OperatorSolve, StreamSolve, vector_shardings
from eigenjax.runs.stream import Stream
from eigenjax.solvers.symmetric.plan import Plan, planned
from eigenjax.solvers.warm_start import example_vector
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.storage import Storage

# Products until the next look at how far a run is, where nobody looks.
_WITHOUT_END = 2**31 - 1


@explained
def run(
    op: Any,
    k: int,
    *,
    progress: bool = True,
    checkpoint_dir: str | os.PathLike | None = None,
    every: int = 50,
    which: str = "LA",
    tol: Any = None,
    krylov_dim: int | None = None,
    max_matvecs: int | None = None,
    block_size: int = 1,
    sigma: Any = None,
    v0: Any = None,
    key: jax.Array | None = None,
    verify: bool = True,
    like: Any = None,
) -> EigenResult:
    """The pairs of `eigsh`, by the same steps from a loop on the host: for solves of minutes to days.

    It tells how far it is, survives being killed, and takes operators whose data do not fit (`stream`). Call it again
    with the same arguments and the same directory, and it goes on where it was; the result is bit for bit that of an
    undisturbed run on the same devices, and the same to rounding on others, whatever their number. Once it has ended,
    another call costs two products.

    Args:
        op: whatever `as_operator` takes, or a `Stream`.
        k: number of pairs.
        progress: pairs converged, worst residual, products and time left, on standard error: a bar at a terminal
            (with the extra `report`), else a line every ten seconds. In a program of many processes the first tells.
        checkpoint_dir: a directory for this run alone, new, empty or of this very run, seen by all processes. Needs
            the extra `checkpoints`. None keeps nothing.
        every: products between two checkpoints; each writes krylov_dim + block_size vectors.
        which: as of `eigsh`.
        tol: as of `eigsh`.
        krylov_dim: as of `eigsh`.
        max_matvecs: as of `eigsh`.
        block_size: as of `eigsh`; of a stream, the vectors that one pass over the data serves.
        sigma: as of `eigsh`.
        v0: as of `eigsh`; of a stream, k eigenvectors are only where to start.
        key: as of `eigsh`.
        verify: as of `eigsh`.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        As `eigsh`.

    Raises:
        ValueError, TypeError: as `eigsh`.
        ImportError: for a checkpoint_dir without Orbax.
        RunError: if the directory is in use, cannot be written, is damaged, or holds another run (then nothing is
            written); if the batches of a stream are not the same in every pass; or at the end, if not one
            checkpoint could be written, with the result as `error.result`. A checkpoint that cannot be written
            gives one RuntimeWarning, and the run goes on.

    Cost: the products of `eigsh`, and one more at the start, by which an operator is recognised (of a stream, with its
    first batch only).

    Example:
        >>> import jax.numpy as jnp
        >>> result = run(jnp.diag(jnp.arange(100.0)), k=2, progress=False)
        >>> print(abs(result.eigenvalues - jnp.array([99.0, 98.0])) < 1e-3, result.converged)
        [ True  True] [ True  True]
    """
    for name, value in (("progress", progress), ("verify", verify)):
        arguments.check_bool("run", name, value)
    k, every, krylov_dim, max_matvecs, block_size = map(plain_int, (k, every, krylov_dim, max_matvecs, block_size))
    checks.check_numbers("run", which, tol, sigma, v0, key)
    if not isinstance(op, Stream):
        v0 = vector_of(v0)
        op = checks.operator_for("run", op, like=example_vector(v0) if like is None else like)
        checks.check_concrete("run", op)
    checks.check_outside("run", op.params if isinstance(op, Stream) else op, tol, sigma, v0, key)
    checks.check_solve("run", k, op.size, which, block_size, krylov_dim, max_matvecs)
    _check_every(every)
    directory = checks.checked_directory(checkpoint_dir)
    near = sigma is not None or which == "SM"
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
        kept=Storage(),
        random_start=v0 is None,
    )
    with contextlib.ExitStack() as stack:
        folder = None if directory is None else stack.enter_context(checkpoint.opened(directory))
        return _run(op, plan, sigma, v0, key, folder, every, progress)


def _run(
    op: Any, plan: Plan, sigma: Any, v0: Any, key: Any, folder: checkpoint.Folder | None, every: int, tells: bool
) -> EigenResult:
    image, numbers = fingerprint.sketch(op.first_operator() if isinstance(op, Stream) else op)
    identity = _identity(op, plan, sigma, v0, key, numbers) if folder else {}
    # Before anything is set aside for the state.
    found = _found(folder, identity)
    options = (plan, sigma, v0, seed_of(key), vector_shardings(image))
    with prefixed("run"):
        solve = StreamSolve(op, *options) if isinstance(op, Stream) else OperatorSolve(op, *options)
    del image
    if folder and found:
        solve.state = folder.restore(*found, like=solve.state)
        if isinstance(op, Stream) and jax.process_index() == 0:  # the one whose data the record speaks of
            op.expected = found[1].get("epoch")
    wanted = tells and jax.process_index() == 0
    with progress_shown(wanted, plan.goal.k, plan.goal.max_matvecs) as show:
        _go_on(solve, op, folder, {"identity": identity}, every, show if tells else None)
    result = solve.finish()
    if folder and folder.has_failed and not folder.has_saved:
        raise RunError(
            f"the run has ended, and not one checkpoint could be written to {str(folder.path)!r}: the result is in "
            "this exception, as .result",
            result,
        )
    return result


def _go_on(
    solve: OperatorSolve, op: Any, folder: checkpoint.Folder | None, record: dict, every: int, show: Show | None
) -> None:
    """Takes products until the solve is done, telling and saving as asked."""
    products, done = int(solve.state.krylov.num_matvecs), bool(solve.state.done)
    while not done:
        next_save = min((products // every + 1) * every, _WITHOUT_END) if folder else _WITHOUT_END
        while not done and products < next_save:
            # Every process takes the same turns, whoever tells of them.
            standing = solve.advance(products + 1 if show else next_save)
            products, done = int(standing.products), bool(standing.done)
            if show:
                show(standing)
        if folder:
            epoch = op.epoch.signature if isinstance(op, Stream) and op.epoch else None
            folder.save(products, solve.state, {**record, "epoch": epoch})


def _found(folder: checkpoint.Folder | None, identity: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The newest state of this very run, if there is one."""
    found = folder.latest() if folder else None
    if folder is None or found is None:
        return None
    told = fingerprint.difference(found[1]["identity"], identity)
    if told is not None:
        raise RunError(
            f"checkpoint_dir={str(folder.path)!r} holds another run: {told}. Repeat the call that began it, or give "
            "another directory"
        )
    return found


def _identity(op: Any, plan: Plan, sigma: Any, v0: Any, key: Any, numbers: jax.Array) -> dict[str, Any]:
    arguments = {
        "k": plan.goal.k,
        "which": plan.goal.which,
        "tol": float(plan.tol),
        "krylov_dim": plan.krylov_dim,
        "max_matvecs": plan.goal.max_matvecs,
        "block_size": plan.block_size,
        "sigma": None if sigma is None else float(sigma),
        "verify": plan.goal.verify,
        "streamed": isinstance(op, Stream),
    }
    return fingerprint.identity(op.structure, numbers, arguments, key, v0)


def _check_every(every: Any) -> None:
    if not isinstance(every, int) or isinstance(every, bool):
        raise TypeError(f"run got every={arguments.shown(every)}: give an int, the products between two checkpoints")
    if every < 1:
        raise ValueError(f"run got every={every}: give 1 or more")
