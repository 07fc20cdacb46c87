"""Lock file that allows one run in a directory at a time."""

import contextlib
import errno
import json
import os
import pathlib
import platform
import threading
from collections.abc import Iterator
from typing import Any

from eigenjax.result import RunError

NAME = "lock"
# Names of the locks that this process holds: the system lets a process lock the same file twice.
_LOCKED_HERE: set[str] = set()
_GUARD = threading.Lock()


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Hold the lock of an existing folder.

    The file names its holder. The operating system releases the lock when the process ends, however it ends. The
    next run takes over the lock file of a killed run.

    Raises:
        RunError: if another run holds it.
        OSError: if it cannot be written.
    """
    path = folder / NAME
    name = str(path.resolve())
    with contextlib.ExitStack() as stack:
        stack.enter_context(_in_this_process(name, folder))
        file = stack.enter_context(_taken(path, folder))
        file.seek(0)
        if not _is_lock(file.read()):
            raise _foreign(path)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": platform.node()}, file)
        file.flush()
        # Unlink while the lock is held, so that no file of another run is removed.
        stack.callback(_unlink, path, file)
        yield


@contextlib.contextmanager
def _in_this_process(name: str, folder: pathlib.Path) -> Iterator[None]:
    """Exclude other threads before the file is opened, because closing a second handle would release the lock."""
    with _GUARD:
        if name in _LOCKED_HERE:
            raise _refusal(folder, {"pid": os.getpid(), "host": platform.node()})
        _LOCKED_HERE.add(name)
    try:
        yield
    finally:
        _LOCKED_HERE.discard(name)


@contextlib.contextmanager
def _taken(path: pathlib.Path, folder: pathlib.Path) -> Iterator[Any]:
    """Open the lock file and lock it under its name.

    A holder unlinks its file at the end. A process that opened the file before then locks a file without a name, while
    others create and lock a new one. After locking, the name must therefore still lead to the same file.
    """
    while True:
        # Do not follow a link: its target may belong to another program.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise _foreign(path)
        with open(path, "a+", encoding="utf-8", errors="replace") as file:
            _take(file, folder)
            if _is_at(path, file):
                yield file
                return


def _is_at(path: pathlib.Path, file: Any) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _unlink(path: pathlib.Path, file: Any) -> None:
    if _is_at(path, file):
        path.unlink(missing_ok=True)


def _take(file: Any, folder: pathlib.Path) -> None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return
    try:
        # A record lock, because the forked children of a data loader do not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        file.seek(0)
        raise _refusal(folder, _holder(file.read())) from None


def _holder(text: str) -> dict[str, Any]:
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_lock(text: str) -> bool:
    """Test if a run may have written this text: complete, truncated or empty."""
    return text == "" or text.startswith('{"pid": ') or '{"pid": '.startswith(text)


def _foreign(path: pathlib.Path) -> RunError:
    return RunError(
        f"checkpoint_dir={str(path.parent)!r}: {path.name} there is not the lock of a run of eigenjax: move or delete "
        "it, or give another directory"
    )


def _refusal(folder: pathlib.Path, holder: dict[str, Any]) -> RunError:
    owner = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}"
    return RunError(
        f"checkpoint_dir={str(folder)!r} is in use by {owner}: wait for it, stop it, or give another directory"
    )
