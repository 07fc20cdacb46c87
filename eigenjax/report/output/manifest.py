"""Manifest of a report: the hash of each file as written, stored in `spectrum.json`.

A list of names would not be enough: another program may write such a list, and a user may edit a file of a report.
A file belongs to the report if its hash equals the one that an unchanged manifest gives for its name.
"""

import hashlib
import json
import os
import pathlib
import stat
from typing import Any

# This file lists the files of a report under "files", and their hashes under "manifest".
CONTENTS = "spectrum.json"
FORMAT = "eigenjax report, 1"
# The file cannot contain its own hash: its hash is that of its text with this placeholder instead.
_BLANK = "0" * 64


def seal(folder: pathlib.Path) -> None:
    """Add the hashes of all files to `spectrum.json` of a finished report; without that file, do nothing.

    Args:
        folder: a folder of plain files; `spectrum.json` in it contains a JSON object.
    """
    path = folder / CONTENTS
    document = _document(path)
    if document is None:
        return
    hashes = {entry.name: _hash_of_file(entry) for entry in sorted(folder.iterdir()) if entry != path}
    document["manifest"] = {"format": FORMAT, "sha256": {CONTENTS: _BLANK, **hashes}}
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    before, _, after = text.rpartition(_BLANK)
    path.write_text(before + _hash(text.encode()) + after, encoding="utf-8")


def own_files(folder: pathlib.Path) -> frozenset[str]:
    """Return the names of the files in a folder that a report wrote and that are unchanged.

    Args:
        folder: any folder, or a path that does not exist.

    Returns:
        Names of regular files; empty without an unchanged `spectrum.json`.

    Example:
        >>> import tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name, text in {"a.txt": "ours", "b.txt": "theirs", CONTENTS: "{}"}.items():
        ...     _ = (folder / name).write_text(text)
        >>> seal(folder)
        >>> _ = (folder / "b.txt").write_text("edited since")
        >>> sorted(own_files(folder))
        ['a.txt', 'spectrum.json']
    """
    hashes = _intact_list(folder / CONTENTS)
    return frozenset(name for name, wanted in hashes.items() if name == CONTENTS or _has_hash(folder, name, wanted))


def is_there(path: pathlib.Path) -> bool:
    """Return True if the path exists, including a broken symbolic link."""
    return os.path.lexists(path)


def _intact_list(path: pathlib.Path) -> dict[str, str]:
    """Read the hashes by file name from a manifest whose own hash is correct; else return an empty dict."""
    document = _document(path)
    manifest = None if document is None else document.get("manifest")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return {}
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or not all(isinstance(wanted, str) for wanted in hashes.values()):
        return {}
    stored_hash = hashes.get(CONTENTS, "")
    blank = path.read_bytes().replace(stored_hash.encode(), _BLANK.encode(), 1)
    return hashes if len(stored_hash) == len(_BLANK) and _hash(blank) == stored_hash else {}


def _document(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if _is_plain_file(path) else None
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _has_hash(folder: pathlib.Path, name: str, wanted: str) -> bool:
    # Only plain names: a manifest must not refer to files outside its folder.
    if pathlib.PurePath(name).name != name or "\0" in name:
        return False
    try:
        return _is_plain_file(folder / name) and _hash_of_file(folder / name) == wanted
    except OSError:
        return False


def _is_plain_file(path: pathlib.Path) -> bool:
    """Return True for a regular file that is not a link: the target of a link does not belong to the report."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash_of_file(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
