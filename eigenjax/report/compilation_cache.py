"""Compiled programs of the command, kept for later runs in the user's cache folder."""

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax

# Programs that compile faster than this are compiled again: to find and read one takes about as long.
_LEAST_SECONDS = 0.1
_FOLDER = "jax_compilation_cache_dir"


def keep_programs() -> pathlib.Path | None:
    """Let JAX keep the programs that this process compiles, and use those of earlier processes.

    Only for a process of its own: the setting is JAX's, and holds for the rest of the process.

    Returns:
        The folder; None if the user has chosen one already (`JAX_COMPILATION_CACHE_DIR`), which stays, or has no home.
    """
    if getattr(jax.config, _FOLDER) is not None:
        return None
    try:
        home = pathlib.Path.home()
    except RuntimeError:
        return None
    folder = cache_folder(sys.platform, os.environ, home)
    jax.config.update(_FOLDER, str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return folder


def cache_folder(platform: str, environment: Mapping[str, str], home: Any) -> Any:
    """Return the folder of this package within the user's cache folder.

    Args:
        platform: `sys.platform`.
        environment: environment variables.
        home: the user's home folder.

    >>> print(cache_folder("linux", {}, pathlib.PurePosixPath("/home/ada")))
    /home/ada/.cache/eigenjax
    """
    if platform == "win32":
        parent = environment.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif platform == "darwin":
        parent = home / "Library" / "Caches"
    else:
        parent = environment.get("XDG_CACHE_HOME") or home / ".cache"
    return home / parent / "eigenjax"
