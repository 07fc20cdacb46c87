"""Long runs: the restarted solver in a loop on the host, with progress, checkpoints and data from disk."""

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar, overload

import jax

from eigenjax import arguments
from eigenjax.arguments import plain_int
from eigenjax.calls import explained, prefixed
from eigenjax.operators.matrices import vector_of
from eigenjax.result import EigenResult
from eigenjax.runs import checkpoint, checks, fingerprint
from eigenjax.runs.estimator import run_estimator
from eigenjax.runs.progress import Show, progress_display
from eigenjax.runs.solve import OperatorSolve, StreamSolve, vector_shardings
from eigenjax.runs.stream import Stream
from eigenjax.solvers.symmetric.plan import Plan, planned
from eigenjax.solvers.warm_start import example_vector
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.storage import Storage

_Result = TypeVar("_Result")
# A number of matvecs that no run reaches: no limit.
_NO_LIMIT = 2**31 - 1


@overload
def run(
    op: Any,
    k: int,
    *,
    progress: bool = ...,
    checkpoint_dir: str | os.PathLike[str] | None = ...,
    every: int = ...,
    which: str = ...,
    tol: Any = ...,
    krylov_dim: int | None = ...,
    max_matvecs: int | None = ...,
    block_size: int = ...,
    sigma: Any = ...,
    v0: Any = ...,
    key: jax.Array | None = ...,
    verify: bool = ...,
    like: Any = ...,
) -> EigenResult: ...


@overload
def run(
    op: Any,
    *,
    progress: bool = ...,
    checkpoint_dir: str | os.PathLike[str] | None = ...,
    every: int = ...,
    like: Any = ...,
    estimator: Callable[[Any], _Result],
) -> _Result: ...


@explained
def run(
    op: Any,
    k: int | None = None,
    *,
    progress: bool = True,
    checkpoint_dir: str | os.PathLike[str] | None = None,
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
    estimator: Callable[[Any], Any] | None = None,
) -> Any:
    """Compute eigenpairs by the steps of `eigsh`, or an estimate, in a loop on the host, for minutes to days.

    The run reports its progress, can be killed and resumed, and takes operators over data larger than memory
    (`stream`). Call it again with the same arguments and the same directory to resume it. The result is bit for bit
    that of an uninterrupted run on the same devices, and equal to rounding on any other devices. After the end of the
    run, another call costs two matvecs.

    Args:
        op: anything that `as_operator` takes, or a `Stream`; symmetric or Hermitian.
        k: number of pairs; not given with `estimator`.
        progress: report converged pairs, worst residual, matvecs and remaining time on standard error: a bar at a
            terminal (with the extra `report`), else a line every ten seconds. Only the first process reports.
        checkpoint_dir: a directory for this run alone: new, empty or used by this run before. All processes must have
            access to it. It needs the extra `checkpoints`. None saves nothing.
        every: matvecs between two checkpoints; each writes krylov_dim + block_size vectors.
        which: "LA" largest, "SA" smallest, "LM" largest magnitude, "BE" from both ends in turn; "SM", smallest
            magnitude, is sigma=0.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|. None is sqrt(eps) of
            the accumulation dtype, or 4 eps for leaves of 16 bits if that is more.
        krylov_dim: m, number of basis vectors. None is max(2 k + 10, 20), for interior eigenvalues max(4 k + 20, 60),
            and more for blocks. More vectors need fewer matvecs; the minimum is k + block_size, or 2 more if interior.
        max_matvecs: maximal number of matvecs, without those that verify the residuals; None is the larger of 100 m
            and 10 min(n, 1000).
        block_size: b, vectors multiplied at once (by vmap); for a stream, the vectors in one pass over the data.
        sigma: find the interior eigenvalues nearest to this number, nearest first, instead of `which`.
        v0: start vector; several vectors, with a leading axis; or an `EigenResult`. If k are eigenvectors to within
            tol, k + 1 matvecs verify them; for a stream they are only start vectors. Signs of the result follow v0.
        key: typed key of the start vector and of fresh directions; None is `jax.random.key(0)`.
        verify: search for missed pairs, such as copies of repeated eigenvalues, once k pairs have converged. False
            saves the search.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        estimator: a function of the operator that makes one estimate, such as
            `functools.partial(eigenjax.trace, key=key, num_matvecs=100)`, in place of k. One of `trace`, `diagonal`,
            `frobenius_norm`, `spectral_density`, `logdet` and `trace_of_function`, whose `probe_batch` is the number
            of vectors multiplied at once. Of the other options only progress, checkpoint_dir, every and like apply; a
            checkpoint writes the vectors that the estimate holds.

    Returns:
        The pairs in the order of `which`, or nearest to sigma first; with `estimator`, what it returns.

    Raises:
        ValueError: if an option does not fit the operator, or two options exclude each other.
        TypeError: if `as_operator` does not accept `op`, an option has the wrong type, or under jit.
        ImportError: for a checkpoint_dir without Orbax.
        RunError: if the directory is in use, cannot be written, is damaged, or holds another run (then nothing is
            written); or if the batches of a stream are not the same in every pass. Also at the end, if no checkpoint
            at all could be written, with the result as `error.result`. A checkpoint that cannot be written gives one
            RuntimeWarning, and the run continues.

    Cost: the matvecs of `eigsh`, and one more at the start that identifies the operator (for a stream, with its first
    batch only).

    Example:
        >>> import jax.numpy as jnp
        >>> result = run(jnp.diag(jnp.arange(100.0)), k=2, progress=False)
        >>> print(abs(result.eigenvalues - jnp.array([99.0, 98.0])) < 1e-3, result.converged)
        [ True  True] [ True  True]
        >>> import functools, jax
        >>> from eigenjax import trace
        >>> estimator = functools.partial(trace, key=jax.random.key(0), num_matvecs=100)
        >>> print(run(jnp.diag(jnp.arange(100.0)), estimator=estimator, progress=False).estimate)
        4950.0
    """
    for name, value in (("progress", progress), ("verify", verify)):
        arguments.check_bool("run", name, value)
    if callable(k):
        raise TypeError(f"run got k={arguments.brief(k)}: give a function as estimator=..., and a number of pairs as k")
    k, every, krylov_dim, max_matvecs, block_size = map(plain_int, (k, every, krylov_dim, max_matvecs, block_size))
    _check_every(every)
    if estimator is not None:
        pairs = {"which": which, "tol": tol, "krylov_dim": krylov_dim, "max_matvecs": max_matvecs, "v0": v0}
        pairs |= {"k": k, "block_size": block_size, "sigma": sigma, "key": key, "verify": verify}
        _check_alone(pairs)
        return _run_estimator(op, like, estimator, checkpoint_dir, every, progress)
    if k is None:
        raise TypeError("run needs k, the number of pairs: give k=..., or estimator=... for an estimate")
    checks.check_numbers("run", which, tol, sigma, v0, key)
    if not isinstance(op, Stream):
        v0 = vector_of(v0)
        op = checks.operator_for("run", op, like=example_vector(v0) if like is None else like)
        checks.check_concrete("run", op)
    checks.check_outside("run", op.params if isinstance(op, Stream) else op, tol, sigma, v0, key)
    checks.check_solve("run", k, op.size, which, block_size, krylov_dim, max_matvecs)
    directory = checks.checked_directory(checkpoint_dir)
    interior = sigma is not None or which == "SM"
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
        storage=Storage(),
        random_start=v0 is None,
    )
    with contextlib.ExitStack() as stack:
        folder = None if directory is None else stack.enter_context(checkpoint.opened(directory))
        return _run(op, plan, sigma, v0, key, folder, every, progress)


def _run_estimator(op: Any, like: Any, estimator: Any, checkpoint_dir: Any, every: int, progress: bool) -> Any:
    if not isinstance(op, Stream):
        op = checks.operator_for("run", op, like=like)
        checks.check_concrete("run", op)
    checks.check_outside("run", op.params if isinstance(op, Stream) else op)
    return run_estimator(op, estimator, checks.checked_directory(checkpoint_dir), every, progress)


def _check_alone(pairs: dict[str, Any]) -> None:
    """Raise a ValueError if an option of eigenpairs is given beside an estimator."""
    defaults = {"which": "LA", "block_size": 1, "verify": True}
    for name, value in pairs.items():
        if value is not defaults.get(name) and not (isinstance(value, str | int) and value == defaults.get(name)):
            raise ValueError(
                f"run got {name}={arguments.brief(value)} and estimator: an estimate takes its own options; leave one "
                "of them out"
            )


def _run(
    op: Any, plan: Plan, sigma: Any, v0: Any, key: Any, folder: checkpoint.Folder | None, every: int, reports: bool
) -> EigenResult:
    image, numbers = fingerprint.sketch(op.first_operator() if isinstance(op, Stream) else op)
    identity = _identity(op, plan, sigma, v0, key, numbers) if folder else {}
    # Checked before memory is allocated for the state.
    found = _newest_state(folder, identity)
    options = (plan, sigma, v0, seed_of(key), vector_shardings(image))
    with prefixed("run"):
        solve = StreamSolve(op, *options) if isinstance(op, Stream) else OperatorSolve(op, *options)
    del image
    if folder and found:
        solve.state = folder.restore(*found, like=solve.state)
        if isinstance(op, Stream) and jax.process_index() == 0:  # the process whose data the record describes
            op.expected = found[1].get("epoch")
    wanted = reports and jax.process_index() == 0
    with progress_display(wanted, plan.spec.k, plan.spec.max_matvecs) as show:
        _advance_until_done(solve, op, folder, {"identity": identity}, every, show if reports else None)
    result = solve.finish()
    if folder:
        checks.check_saved(folder.path, folder.has_failed and not folder.has_saved, result)
    return result


def _advance_until_done(
    solve: OperatorSolve, op: Any, folder: checkpoint.Folder | None, record: dict, every: int, show: Show | None
) -> None:
    """Advance until the solve is done, with progress reports and checkpoints as requested."""
    num_matvecs, done = int(solve.state.krylov.num_matvecs), bool(solve.state.done)
    while not done:
        next_save = min((num_matvecs // every + 1) * every, _NO_LIMIT) if folder else _NO_LIMIT
        while not done and num_matvecs < next_save:
            # Every process takes the same steps, although only one reports progress.
            info = solve.advance(num_matvecs + 1 if show else next_save)
            num_matvecs, done = int(info.num_matvecs), bool(info.done)
            if show:
                show(info)
        if folder:
            epoch = op.epoch.signature if isinstance(op, Stream) and op.epoch else None
            folder.save(num_matvecs, solve.state, {**record, "epoch": epoch})


def _newest_state(folder: checkpoint.Folder | None, identity: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """Return the newest state of this same run, if there is one."""
    found = folder.latest() if folder else None
    if folder is None or found is None:
        return None
    checks.check_same_run(folder.path, found[1]["identity"], identity)
    return found


def _identity(op: Any, plan: Plan, sigma: Any, v0: Any, key: Any, numbers: jax.Array) -> dict[str, Any]:
    arguments = {
        "k": plan.spec.k,
        "which": plan.spec.which,
        "tol": float(plan.tol),
        "krylov_dim": plan.krylov_dim,
        "max_matvecs": plan.spec.max_matvecs,
        "block_size": plan.block_size,
        "sigma": None if sigma is None else float(sigma),
        "verify": plan.spec.verify,
        "streamed": isinstance(op, Stream),
    }
    return fingerprint.identity(op.structure, numbers, arguments, key, v0)


def _check_every(every: Any) -> None:
    if not isinstance(every, int) or isinstance(every, bool):
        raise TypeError(f"run got every={arguments.brief(every)}: give an int, the matvecs between two checkpoints")
    if every < 1:
        raise ValueError(f"run got every={every}: give 1 or more")
