"""A folder of results that appears whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from eigenjax.report.errors import ReportError

# Lists the files of a report under "files"; written last, so that it never names what is not there.
CONTENTS = "spectrum.json"


@contextlib.contextmanager
def staged(out: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a scratch folder whose files move to `out` when the block ends well, and vanish when it does not.

    Entering already proves that `out` can be written, before minutes are spent. Files in `out` that are not ours
    stay; those of an earlier report, listed in its `spectrum.json`, do not outlive it.

    Args:
        out: the folder to fill; it and its parents are made where they are missing.

    Yields:
        An empty folder on the same file system.

    Raises:
        ReportError: if `out` is a file, or cannot be written.

    Example:
        >>> parent = pathlib.Path(tempfile.mkdtemp())
        >>> with staged(parent / "out") as scratch:
        ...     _ = (scratch / "a.txt").write_text("1")
        >>> [path.name for path in parent.rglob("*")]
        ['out', 'a.txt']
        >>> shutil.rmtree(parent)
    """
    target = pathlib.Path(out).absolute()
    with contextlib.ExitStack() as undo:
        try:
            scratch = _make_scratch(target, undo)
        except OSError as error:
            raise ReportError(f"--out {out}: cannot write there: {error.strerror}") from error
        yield scratch
        try:
            _move(scratch, target)
        except OSError as error:
            raise ReportError(f"--out {out}: cannot write there: {error.strerror}") from error
        undo.pop_all()


def _make_scratch(target: pathlib.Path, undo: contextlib.ExitStack) -> pathlib.Path:
    if target.exists() and not target.is_dir():
        raise ReportError(f"--out {target}: is a file, not a folder")
    # Within an existing target, because its parent may be read-only or on another file system.
    parent = target if target.exists() else target.parent
    for folder in reversed([path for path in (parent, *parent.parents) if not path.exists()]):
        folder.mkdir()
        undo.callback(folder.rmdir)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=".eigenjax-", dir=parent))
    undo.callback(shutil.rmtree, scratch, ignore_errors=True)
    return scratch


def _move(scratch: pathlib.Path, target: pathlib.Path) -> None:
    if not target.exists():
        scratch.chmod(0o777 & ~_umask())
        scratch.rename(target)
        return
    names = sorted((path.name for path in scratch.iterdir()), key=lambda name: (name == CONTENTS, name))
    for stale in _listed(target) - set(names):
        (target / stale).unlink(missing_ok=True)
    for name in names:
        (scratch / name).replace(target / name)
    scratch.rmdir()


def _listed(target: pathlib.Path) -> set[str]:
    try:
        contents = json.loads((target / CONTENTS).read_text(encoding="utf-8"))
        # Only plain names: a listing never reaches outside its folder.
        return {name for name in contents["files"] if pathlib.PurePath(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _umask() -> int:
    # mkdtemp makes private folders; a report is as readable as any other file of the person's.
    mask = os.umask(0)
    os.umask(mask)
    return mask
