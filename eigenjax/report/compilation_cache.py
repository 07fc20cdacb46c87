"""Compilation cache of the command, in the user's cache folder."""

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax

# Minimum compile time of a cached program, in seconds: to find and read one takes about as long.
_MIN_COMPILE_SECONDS = 0.1
_CACHE_OPTION = "jax_compilation_cache_dir"


def keep_programs() -> pathlib.Path | None:
    """Enable JAX's compilation cache, so that later processes reuse the programs that this process compiles.

    Call it only in the process of the command: it sets an option of JAX until the end of the process.

    Returns:
        The folder. None if the option was not set: the user has chosen a folder (`JAX_COMPILATION_CACHE_DIR`), or has
        no home.
    """
    if getattr(jax.config, _CACHE_OPTION) is not None:
        return None
    try:
        home = pathlib.Path.home()
    except RuntimeError:
        return None
    folder = cache_folder(sys.platform, os.environ, home)
    jax.config.update(_CACHE_OPTION, str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
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
