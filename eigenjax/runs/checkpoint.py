"""States on disk: whole or not there, and never taken for those of another run.

checkpoint_dir/
lock              who runs here now
step-00000120/    the newest state, after 120 products, and the one before it
run.json        of which run it is, and a checksum of all bits of the state
state/          the arrays, by Orbax
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
FORMAT = f"{_KIND}2"
_RECORD, _ARRAYS = "run.json", "state"
# As `Folder._step` writes them, and no other spelling of the same number.
_STEP = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")
_PARTIAL = re.compile(_STEP.pattern + r"\.partial(\..*)?|" + LOCK)
# The newest, and one to go back to where it has been damaged.
_KEPT = 2
# Bytes that the some hundred small files of a state take on a disk beside its numbers.
_ROOM_FOR_FILES = 2**20


class Folder:
    """The checkpoints of one run; made by `opened`."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.has_saved = False
        self.has_failed = False

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The products and the record of the newest state, None where there is none.

        Raises:
            RunError: if it cannot be read, or is of something else.
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

    def restore(self, products: int, record: dict[str, Any], like: PyTree) -> PyTree:
        """The state, sharded like the one given.

        Raises:
            RunError: if a single bit is not what was saved.
        """
        import orbax.checkpoint as ocp

        if record.get("leaves") != fingerprint.describe(like):
            raise self._damaged(products, "its arrays have other names, shapes or dtypes")
        item = _named(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like))
        arguments = ocp.args.PyTreeRestore(item, restore_args=ocp.checkpoint_utils.construct_restore_args(item))
        try:
            with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as checkpointer:
                arrays = checkpointer.restore(self._step(products) / _ARRAYS, args=arguments)
        except Exception as error:  # whatever Orbax finds wrong
            raise self._damaged(products, f"{type(error).__name__}: {str(error)[:200]}") from error
        leaves, treedef = jax.tree.flatten(like)
        state = jax.tree.unflatten(treedef, [arrays.get(_name(i), leaf) for i, leaf in enumerate(leaves)])
        if fingerprint.checksum(state) != record.get("checksum"):
            raise self._damaged(products, "the numbers are not those that were saved")
        self.has_saved = True
        return state

    def save(self, products: int, state: PyTree, record: dict[str, Any]) -> None:
        """Writes a state; where that fails, says so once and goes on."""
        record = {
            "format": FORMAT,
            **record,
            "leaves": fingerprint.describe(state),
            "checksum": fingerprint.checksum(state),
        }
        record["digest"] = fingerprint.digest(record)
        try:
            self._write(products, state, record)
            self.has_saved = True
        except Exception as error:  # a full disk shows as many kinds of errors
            if not self.has_failed:
                self.has_failed = True
                warnings.warn(
                    f"checkpoint_dir={str(self.path)!r}: could not save after {products} products "
                    f"({type(error).__name__}: {str(error)[:200]}); the run goes on in memory and tries again",
                    RuntimeWarning,
                    stacklevel=3,
                )
            if jax.process_index() == 0:
                _remove(self.path, f"{self._step(products).name}.partial")

    def _write(self, products: int, state: PyTree, record: dict[str, Any]) -> None:
        target = self._step(products)
        partial = target.with_name(f"{target.name}.partial")
        _agreed(lambda: self._make_room(partial, state))
        # What fails on one process before Orbax is called leaves none waiting in it. A folder that is not shared, too.
        _agreed(lambda: _try_writing(partial))
        _agreed(lambda: _write_arrays(partial, state))
        _agreed(lambda: self._move(partial, target, record))

    def _make_room(self, partial: pathlib.Path, state: PyTree) -> None:
        if jax.process_index() == 0:
            _remove(self.path, partial.name)
            partial.mkdir()
        _check_room(self.path, state)

    def _move(self, partial: pathlib.Path, target: pathlib.Path, record: dict[str, Any]) -> None:
        """The partial state, which is whole, becomes the newest; of the old ones few are kept."""
        if jax.process_index() != 0:
            return
        (partial / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        if target.exists():  # of a run that was resumed and came by again
            shutil.rmtree(target)
        os.rename(partial, target)
        for old in self._steps()[:-_KEPT]:
            # Not by its name: a part of it is no state.
            os.rename(self._step(old), partial)
            shutil.rmtree(partial)

    def _steps(self) -> list[int]:
        matches = (_STEP.fullmatch(path.name) for path in self.path.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _step(self, products: int) -> pathlib.Path:
        return self.path / f"step-{products:08d}"

    def _damaged(self, products: int, reason: str) -> RunError:
        before = [step for step in self._steps() if step < products]
        then = f"the run then goes on from {before[-1]} products" if before else "the run then starts anew"
        return RunError(
            f"{self._step(products)} is damaged ({reason}): delete this folder, and {then}; or give another directory"
        )


@contextlib.contextmanager
def opened(checkpoint_dir: str | os.PathLike) -> Iterator[Folder]:
    """Makes or takes over a directory, for this run alone.

    Raises:
        ImportError: without Orbax.
        RunError: if it cannot be written, another run is there, or it holds what no run has written.
    """
    require_checkpoints()
    path = pathlib.Path(checkpoint_dir).absolute()
    if jax.process_count() > 1:
        with _opened_by_the_first(path) as folder:
            yield folder
        return
    with _claimed(path) as folder:
        yield folder


@contextlib.contextmanager
def _opened_by_the_first(path: pathlib.Path) -> Iterator[Folder]:
    from jax.experimental import multihost_utils

    # One process holds the lock; that it was refused is told to all, lest they wait for it.
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(_claimed(path))
            except RunError as error:
                refusal = error
        if not multihost_utils.broadcast_one_to_all(np.int32(refusal is None)):
            raise refusal or RunError(f"checkpoint_dir={str(path)!r} was refused: process 0 says why")
        yield Folder(path)


@contextlib.contextmanager
def _claimed(path: pathlib.Path) -> Iterator[Folder]:
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
    """Does a part of the work on every process; where it fails on one of them it fails on all.

    Otherwise the others would wait for that one, or save what lacks its part.

    Raises:
        RunError: if it failed elsewhere only.
    """
    failure = None
    try:
        act()
    except Exception as error:  # told to the others first
        failure = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        failed = np.ravel(multihost_utils.process_allgather(np.asarray(failure is not None)))
        if failure is None and failed.any():
            failure = RunError(f"process {int(np.argmax(failed))} could not write its part, and says why")
    if failure is not None:
        raise failure


def _try_writing(partial: pathlib.Path) -> None:
    """Raises the error that this process meets in the folder that the first one made."""
    probe = partial / f"process-{jax.process_index()}"
    probe.touch()
    probe.unlink()


def _write_arrays(partial: pathlib.Path, state: PyTree) -> None:
    """Each process its part. Orbax's own waiting for others ends after minutes where one has failed within."""
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
    """Raises the error of a full disk before Orbax meets it in many threads, each of which would log it."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _ROOM_FOR_FILES
    if shutil.disk_usage(path).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a record is the one that was written: whatever it holds then has the type it should have."""
    return record.get("digest") == fingerprint.digest({name: x for name, x in record.items() if name != "digest"})


def _remove(folder: pathlib.Path, name: str) -> None:
    """Removes one partial state, however little of it is there."""
    shutil.rmtree(folder / name, ignore_errors=True)


def _name(position: int) -> str:
    return f"{position:03d}"


def _named(state: PyTree) -> dict[str, Any]:
    """Leaves by their position; those without any numbers, which Orbax does not take, are left out."""
    return {_name(i): leaf for i, leaf in enumerate(jax.tree.leaves(state)) if np.prod(leaf.shape) > 0}


def require_checkpoints() -> None:
    """Raises an ImportError that names the extra where Orbax is missing."""
    if importlib.util.find_spec("orbax") is None:
        raise ImportError(
            'checkpoint_dir= needs Orbax, which is not installed: pip install "eigenjax[checkpoints]", or leave '
            "checkpoint_dir out and run without checkpoints"
        )
