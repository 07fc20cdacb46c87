"""One run in a directory at a time."""

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
# A process may lock a file twice over without noticing: what it holds itself.
_HELD: set[str] = set()
_GUARD = threading.Lock()


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder that exists.

    The file names its holder; the lock on it is the system's, which ends with the process however that ends: what a
    killed run leaves behind is taken over.

    Raises:
        RunError: if another run holds it.
        OSError: if it cannot be written.
    """
    path = folder / NAME
    name = str(path.resolve())
    with contextlib.ExitStack() as stack:
        stack.enter_context(_held(name, folder))
        file = stack.enter_context(_taken(path, folder))
        file.seek(0)
        if not _is_lock(file.read()):
            raise _foreign(path)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": platform.node()}, file)
        file.flush()
        # While it is held still, so that nobody else's is taken away.
        stack.callback(_unlink, path, file)
        yield


@contextlib.contextmanager
def _held(name: str, folder: pathlib.Path) -> Iterator[None]:
    """Keeps other threads out, from before the file is opened: closing it anew would end the lock."""
    with _GUARD:
        if name in _HELD:
            raise _refusal(folder, {"pid": os.getpid(), "host": platform.node()})
        _HELD.add(name)
    try:
        yield
    finally:
        _HELD.discard(name)


@contextlib.contextmanager
def _taken(path: pathlib.Path, folder: pathlib.Path) -> Iterator[Any]:
    """The lock file, open and locked, under its name.

    A holder unlinks its file at the end. Whoever opened it before locks what has no name any more, while others make
    and lock a new one: after locking, the name must still lead to the same file.
    """
    while True:
        # Not through a link: what it leads to is somebody else's.
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
        # A record lock, because children that a data loader forks do not inherit it.
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
    """Whether a run may have written this: whole, cut short, or nothing yet."""
    return text == "" or text.startswith('{"pid": ') or '{"pid": '.startswith(text)


def _foreign(path: pathlib.Path) -> RunError:
    return RunError(
        f"checkpoint_dir={str(path.parent)!r}: {path.name} there is not the lock of a run of eigenjax: move or delete "
        "it, or give another directory"
    )


def _refusal(folder: pathlib.Path, holder: dict[str, Any]) -> RunError:
    who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}"
    return RunError(
        f"checkpoint_dir={str(folder)!r} is in use by {who}: wait for it, stop it, or give another directory"
    )
