"""One run in a directory at a time."""

import contextlib
import errno
import json
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

from eigenjax.runs.errors import RunError

NAME = "lock"
# A process may lock a file twice over without noticing: what it holds itself.
_HELD: set[str] = set()


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
    if name in _HELD:
        raise _refusal(folder, {"pid": os.getpid(), "host": platform.node()})
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "a+", encoding="utf-8"))
        _take(file, folder)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": platform.node()}, file)
        file.flush()
        _HELD.add(name)
        stack.callback(_HELD.discard, name)
        # While it is held still, so that nobody else's is taken away.
        stack.callback(path.unlink, missing_ok=True)
        yield


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
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


def _refusal(folder: pathlib.Path, holder: dict[str, Any]) -> RunError:
    who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}"
    return RunError(
        f"checkpoint_dir={str(folder)!r} is in use by {who}: wait for it, stop it, or give another directory"
    )
