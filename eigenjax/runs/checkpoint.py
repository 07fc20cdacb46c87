"""Checkpoints on disk: complete or absent, and never used for another run.

checkpoint_dir/
    lock              the process that holds the directory
    step-00000120/    the newest state, after 120 matvecs, and the one before it
        run.json      identity of the run, and a checksum of all bits of the state
        state/        the arrays, by Orbax
"""

import contextlib
import errno
import importlib.util
import json
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from eigenjax.result import RunError
from eigenjax.runs import fingerprint
from eigenjax.runs.lock import NAME as LOCK
from eigenjax.runs.lock import locked
from eigenjax.vectors.tree import PyTree

_KIND = "eigenjax run, "
FORMAT = f"{_KIND}3"
_RECORD, _ARRAYS = "run.json", "state"
# Names in the spelling of `Folder._step`, and no other spelling of the same number.
_STEP = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")
_PARTIAL = re.compile(_STEP.pattern + r"\.partial(\..*)?|" + LOCK)
# The newest checkpoint, and one to return to if that one is damaged.
_KEPT = 2
# Bytes on disk of the many small files of a state, besides its numbers.
_ROOM_FOR_FILES = 2**20


class Folder:
    """Checkpoints of one run; created by `opened`."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.has_saved = False
        self.has_failed = False

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the number of matvecs and the record of the newest state; None if there is none.

        Raises:
            RunError: if it cannot be read, or was not written by a run of this version.
        """
        steps = self._steps()
        if not steps:
            return None
        path = self._step(steps[-1]) / _RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(steps[-1], f"{path.name}: {error}") from error
        kind = record.get("format") if isinstance(record, dict) else None
        if isinstance(kind, str) and kind.startswith(_KIND) and kind != FORMAT:
            raise RunError(
                f"{path} is not of this version of eigenjax ({FORMAT!r}): finish the run with the version that began "
                "it, or give another directory"
            )
        if kind != FORMAT or not _is_whole(record):
            raise self._damaged(steps[-1], f"{path.name} is not as it was written")
        return steps[-1], record

    def restore(self, num_matvecs: int, record: dict[str, Any], like: PyTree) -> PyTree:
        """Restore the state, sharded like the one given.

        Raises:
            RunError: if a single bit differs from the saved state.
        """
        import orbax.checkpoint as ocp

        if record.get("leaves") != fingerprint.describe(like):
            raise self._damaged(num_matvecs, "its arrays have other names, shapes or dtypes")
        item = _named(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like))
        arguments = ocp.args.PyTreeRestore(item, restore_args=ocp.checkpoint_utils.construct_restore_args(item))
        try:
            with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as checkpointer:
                arrays = checkpointer.restore(self._step(num_matvecs) / _ARRAYS, args=arguments)
        except Exception as error:  # any error of Orbax
            raise self._damaged(num_matvecs, f"{type(error).__name__}: {str(error)[:200]}") from error
        leaves, treedef = jax.tree.flatten(like)
        state = jax.tree.unflatten(treedef, [arrays.get(_name(i), leaf) for i, leaf in enumerate(leaves)])
        if fingerprint.checksum(state) != record.get("checksum"):
            raise self._damaged(num_matvecs, "the numbers are not those that were saved")
        self.has_saved = True
        return state

    def save(self, num_matvecs: int, state: PyTree, record: dict[str, Any]) -> None:
        """Write a state; a failure gives one warning, and the run continues."""
        record = {
            "format": FORMAT,
            **record,
            "leaves": fingerprint.describe(state),
            "checksum": fingerprint.checksum(state),
        }
        record["digest"] = fingerprint.digest(record)
        try:
            self._write(num_matvecs, state, record)
            self.has_saved = True
        except Exception as error:  # a full disk raises many kinds of errors
            if not self.has_failed:
                self.has_failed = True
                warnings.warn(
                    f"checkpoint_dir={str(self.path)!r}: could not save after {num_matvecs} matvecs "
                    f"({type(error).__name__}: {str(error)[:200]}); the run goes on in memory and tries again",
                    RuntimeWarning,
                    stacklevel=3,
                )
            if jax.process_index() == 0:
                _remove(self.path, f"{self._step(num_matvecs).name}.partial")

    def _write(self, num_matvecs: int, state: PyTree, record: dict[str, Any]) -> None:
        target = self._step(num_matvecs)
        partial = target.with_name(f"{target.name}.partial")
        _agreed(lambda: self._make_room(partial, state))
        # A process that fails here, such as in a folder that is not shared, leaves no other process waiting in Orbax.
        _agreed(lambda: _try_writing(partial))
        _agreed(lambda: _write_arrays(partial, state))
        _agreed(lambda: self._move(partial, target, record))

    def _make_room(self, partial: pathlib.Path, state: PyTree) -> None:
        if jax.process_index() == 0:
            _remove(self.path, partial.name)
            partial.mkdir()
        _check_room(self.path, state)

    def _move(self, partial: pathlib.Path, target: pathlib.Path, record: dict[str, Any]) -> None:
        """Make the complete partial state the newest one, and remove the oldest states."""
        if jax.process_index() != 0:
            return
        (partial / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        if target.exists():  # from a resumed run that reached this step again
            shutil.rmtree(target)
        os.rename(partial, target)
        for old in self._steps()[:-_KEPT]:
            # Renamed first, because a partly removed folder must not count as a state.
            os.rename(self._step(old), partial)
            shutil.rmtree(partial)

    def _steps(self) -> list[int]:
        matches = (_STEP.fullmatch(path.name) for path in self.path.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _step(self, num_matvecs: int) -> pathlib.Path:
        return self.path / f"step-{num_matvecs:08d}"

    def _damaged(self, num_matvecs: int, reason: str) -> RunError:
        before = [step for step in self._steps() if step < num_matvecs]
        then = f"the run then goes on from {before[-1]} matvecs" if before else "the run then starts anew"
        return RunError(
            f"{self._step(num_matvecs)} is damaged ({reason}): delete this folder, and {then}; or give "
            "another directory"
        )


@contextlib.contextmanager
def opened(checkpoint_dir: str | os.PathLike[str]) -> Iterator[Folder]:
    """Create or take over a directory, for this run alone.

    Raises:
        ImportError: without Orbax.
        RunError: if it cannot be written, another run uses it, or it holds files that no run has written.
    """
    require_checkpoints()
    path = pathlib.Path(checkpoint_dir).absolute()
    if jax.process_count() > 1:
        with _opened_by_the_first(path) as folder:
            yield folder
        return
    with _locked_folder(path) as folder:
        yield folder


@contextlib.contextmanager
def _opened_by_the_first(path: pathlib.Path) -> Iterator[Folder]:
    from jax.experimental import multihost_utils

    # One process holds the lock. A refusal is broadcast, because the other processes would wait for it.
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(_locked_folder(path))
            except RunError as error:
                refusal = error
        if not multihost_utils.broadcast_one_to_all(np.int32(refusal is None)):
            raise refusal or RunError(f"checkpoint_dir={str(path)!r} was refused: process 0 says why")
        yield Folder(path)


@contextlib.contextmanager
def _locked_folder(path: pathlib.Path) -> Iterator[Folder]:
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            _check_ours(path)
            stack.enter_context(locked(path))
            for entry in path.iterdir():
                if _PARTIAL.fullmatch(entry.name) and entry.name != LOCK:
                    _remove(path, entry.name)
        except OSError as error:
            raise RunError(
                f"checkpoint_dir={str(path)!r}: cannot write there ({error.strerror or error}): make room, change "
                "its permissions, or give another directory"
            ) from error
        yield Folder(path)


def _agreed(act: Callable[[], None]) -> None:
    """Do a part of the work on every process; if it fails on one of them, fail on all.

    Otherwise the others would wait for that process, or save a state without its part.

    Raises:
        RunError: if it failed only on another process.
    """
    failure = None
    try:
        act()
    except Exception as error:  # reported to the other processes first
        failure = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        failed = np.ravel(multihost_utils.process_allgather(np.asarray(failure is not None)))
        if failure is None and failed.any():
            failure = RunError(f"process {int(np.argmax(failed))} could not write its part, and says why")
    if failure is not None:
        raise failure


def _try_writing(partial: pathlib.Path) -> None:
    """Raise the error that this process meets in the folder that the first process created."""
    probe = partial / f"process-{jax.process_index()}"
    probe.touch()
    probe.unlink()


def _write_arrays(partial: pathlib.Path, state: PyTree) -> None:
    """Write the part of this process; after a failure within Orbax, the other processes wait for minutes."""
    import orbax.checkpoint as ocp

    with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as checkpointer:
        checkpointer.save(partial / _ARRAYS, args=ocp.args.PyTreeSave(_named(state)))


def _check_ours(path: pathlib.Path) -> None:
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if not _STEP.fullmatch(name) and not _PARTIAL.fullmatch(name)]
    if foreign:
        raise RunError(
            f"checkpoint_dir={str(path)!r} holds what no run of eigenjax has written ({', '.join(foreign[:3])}): give "
            "a new or an empty directory"
        )


def _check_room(path: pathlib.Path, state: PyTree) -> None:
    """Raise the error of a full disk before Orbax meets it in many threads, each of which would log it."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _ROOM_FOR_FILES
    if shutil.disk_usage(path).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_whole(record: dict[str, Any]) -> bool:
    """Test if a record is the one that was written, so that all its values have the expected types."""
    return record.get("digest") == fingerprint.digest({name: x for name, x in record.items() if name != "digest"})


def _remove(folder: pathlib.Path, name: str) -> None:
    """Remove one partial state, complete or not."""
    shutil.rmtree(folder / name, ignore_errors=True)


def _name(position: int) -> str:
    return f"{position:03d}"


def _named(state: PyTree) -> dict[str, Any]:
    """Name the leaves by their position; empty leaves, which Orbax does not accept, are left out."""
    return {_name(i): leaf for i, leaf in enumerate(jax.tree.leaves(state)) if np.prod(leaf.shape) > 0}


def require_checkpoints() -> None:
    """Raise an ImportError that names the extra if Orbax is missing."""
    if importlib.util.find_spec("orbax") is None:
        raise ImportError(
            'checkpoint_dir= needs Orbax, which is not installed: pip install "eigenjax[checkpoints]", or leave '
            "checkpoint_dir out and run without checkpoints"
        )
