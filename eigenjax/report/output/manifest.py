"""Proof of which files in a folder are a report's own: a hash of each as written, kept in `spectrum.json`.

A name in a list proves nothing: a file of another program may hold such a list, and a file of ours may have been
edited since. A file is ours if its bytes still have the hash that an intact list of ours gives for its name.
"""

import hashlib
import json
import os
import pathlib
import stat
from typing import Any

# Lists the files of a report under "files", and their hashes under "manifest".
CONTENTS = "spectrum.json"
FORMAT = "eigenjax report, 1"
# The list cannot hold its own hash: its hash is that of its text with this in the hash's place.
_BLANK = "0" * 64


def seal(folder: pathlib.Path) -> None:
    """Adds the hashes of all files to the list of a finished report; a folder without a list is left as it is.

    Args:
        folder: of plain files; `spectrum.json` in it holds a dict, as JSON.
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
    """Names of the files in a folder that a report of ours wrote and nobody has changed since.

    Args:
        folder: any folder, or a path where there is none.

    Returns:
        Plain names of regular files; none without an intact list.

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
    """Whether anything has this path, a link to nothing included."""
    return os.path.lexists(path)


def _intact_list(path: pathlib.Path) -> dict[str, str]:
    """Hashes by name, of a list that has its own hash still; else none."""
    document = _document(path)
    manifest = None if document is None else document.get("manifest")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return {}
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or not all(isinstance(wanted, str) for wanted in hashes.values()):
        return {}
    own = hashes.get(CONTENTS, "")
    blank = path.read_bytes().replace(own.encode(), _BLANK.encode(), 1)
    return hashes if len(own) == len(_BLANK) and _hash(blank) == own else {}


def _document(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if _is_plain_file(path) else None
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _has_hash(folder: pathlib.Path, name: str, wanted: str) -> bool:
    # Only plain names: a list never reaches outside its folder.
    if pathlib.PurePath(name).name != name or "\0" in name:
        return False
    try:
        return _is_plain_file(folder / name) and _hash_of_file(folder / name) == wanted
    except OSError:
        return False


def _is_plain_file(path: pathlib.Path) -> bool:
    """Not a folder, and not a link: what a link leads to is somebody else's."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash_of_file(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
