"""Results folder that is written completely or not at all, and in which only files of a report are replaced."""

import contextlib
import itertools
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator

from eigenjax.report.inputs.errors import ReportError
from eigenjax.report.output.manifest import CONTENTS, is_there, own_files, seal


@contextlib.contextmanager
def staged(
    out: str | os.PathLike,
    *,
    expected: Iterable[str] = (),
    placed: Callable[[str | os.PathLike], None] = lambda _: None,
) -> Iterator[pathlib.Path]:
    """Provide a scratch folder whose files move to `out` if the block succeeds, and are deleted if it fails.

    On entry this checks that `out` can be written, before the computation starts. A file in `out` is replaced or
    deleted only if an earlier report wrote it and its hash still equals the one in `spectrum.json`.
    Files of an earlier report that the new report does not contain are deleted.

    Args:
        out: the folder to fill; it and its missing parents are created.
        expected: file names that the block may write. Entry fails if `out` contains other files with these names.
        placed: called at the end with the folder that contains the files.

    Yields:
        An empty folder on the same file system.

    Raises:
        ReportError: if `out` is a file, cannot be written, or contains an expected name that no report wrote.

    Warns:
        RuntimeWarning: if a file that appeared during the block has the name of a result. All results then stay
            together in a separate folder, which the warning names.

    Example:
        >>> parent = pathlib.Path(tempfile.mkdtemp())
        >>> with staged(parent / "out") as scratch:
        ...     _ = (scratch / "a.txt").write_text("1")
        >>> [path.name for path in parent.rglob("*")]
        ['out', 'a.txt']
        >>> shutil.rmtree(parent)
    """
    target = pathlib.Path(out).absolute()
    with contextlib.ExitStack() as cleanup:
        with _refusing(out):
            _check_free(target, expected)
            scratch = _make_scratch(target, cleanup)
        yield scratch
        with _refusing(out):
            seal(scratch)
            blocked = _move(scratch, target)
            place = _keep_apart(scratch, target, blocked) if blocked else out
        cleanup.pop_all()
    placed(place)


@contextlib.contextmanager
def _refusing(out: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReportError(f"--out {out}: cannot write there: {error.strerror}") from error
    except ReportError:
        raise
    except ValueError as error:  # a NUL within
        raise ReportError(f"--out {os.fspath(out)!r}: is no path ({error}): give the path of a folder") from error


def _check_free(target: pathlib.Path, names: Iterable[str]) -> None:
    # An invalid path raises an error here, before the computation.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        target.lstat()
    if is_there(target) and not target.is_dir():
        kind = "a link to nothing" if target.is_symlink() and not target.exists() else "a file"
        raise ReportError(f"--out {target}: is {kind}, not a folder")
    blocked = _blocked(target, names)
    if blocked:
        raise ReportError(
            f"--out {target}: {', '.join(blocked)} there {'is' if len(blocked) == 1 else 'are'} not as a report of "
            f"this version wrote {'it' if len(blocked) == 1 else 'them'}, and would be replaced: move or delete "
            f"{'it' if len(blocked) == 1 else 'them'}, or give another folder"
        )


def _blocked(target: pathlib.Path, names: Iterable[str]) -> list[str]:
    """List the names that exist in the folder but were not written by a report."""
    existing = [name for name in names if is_there(target / name)]
    written = own_files(target) if existing else frozenset()
    return [name for name in existing if name not in written]


def _make_scratch(target: pathlib.Path, cleanup: contextlib.ExitStack) -> pathlib.Path:
    # Inside an existing target, because its parent may be read-only or on another file system.
    parent = target if target.exists() else target.parent
    for folder in reversed([path for path in (parent, *parent.parents) if not path.exists()]):
        folder.mkdir()
        cleanup.callback(_remove_if_empty, folder)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=".eigenjax-", dir=parent))
    cleanup.callback(shutil.rmtree, scratch, ignore_errors=True)
    return scratch


def _remove_if_empty(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _move(scratch: pathlib.Path, target: pathlib.Path) -> list[str]:
    """Move the files to the target; if other files have their names, move nothing and return those names."""
    if not is_there(target):
        scratch.chmod(0o777 & ~_umask())
        scratch.rename(target)
        return []
    if not target.is_dir():
        return [target.name]
    # The manifest is moved last, so that it never lists a missing file.
    names = sorted((path.name for path in scratch.iterdir()), key=lambda name: (name == CONTENTS, name))
    written = own_files(target)
    blocked = [name for name in names if is_there(target / name) and name not in written]
    if blocked:
        return blocked
    for stale in written - set(names):
        (target / stale).unlink(missing_ok=True)
    for name in names:
        (scratch / name).replace(target / name)
    scratch.rmdir()
    return []


def _keep_apart(scratch: pathlib.Path, target: pathlib.Path, blocked: list[str]) -> pathlib.Path:
    """Rename the scratch folder to a visible name, so that the results are not lost; return its new path."""
    places = (scratch.with_name(f"eigenjax-report-{number}") for number in itertools.count(1))
    place = next(path for path in places if not is_there(path))
    scratch.chmod(0o777 & ~_umask())
    scratch.rename(place)
    warnings.warn(
        f"--out {target}: {', '.join(blocked)} there {'is' if len(blocked) == 1 else 'are'} not as a report of this "
        f"version wrote {'it' if len(blocked) == 1 else 'them'}, and not replaced: the results are in {place}",
        RuntimeWarning,
        stacklevel=4,
    )
    return place


def _umask() -> int:
    # mkdtemp creates private folders; a report gets the permissions of the user's other files.
    mask = os.umask(0)
    os.umask(mask)
    return mask
