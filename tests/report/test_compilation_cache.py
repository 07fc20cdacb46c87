"""Compiled programs that the command keeps: where, and that only a process of its own keeps them."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from eigenjax.__main__ import main
from eigenjax.report.compilation_cache import cache_folder

HOME = pathlib.PurePosixPath("/home/ada")


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {}, "/home/ada/.cache/eigenjax"),
        ("linux", {"XDG_CACHE_HOME": "/scratch"}, "/scratch/eigenjax"),
        ("darwin", {"XDG_CACHE_HOME": "/scratch"}, "/home/ada/Library/Caches/eigenjax"),
        ("win32", {}, "/home/ada/AppData/Local/eigenjax"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/eigenjax"),
    ],
)
def test_the_folder_is_the_users_cache_folder(platform, environment, folder):
    assert str(cache_folder(platform, environment, HOME)) == folder


def test_a_call_from_python_changes_no_setting():
    before = jax.config.jax_compilation_cache_dir
    assert main(["spectrum", "--problem", "no_such_module:problem"]) == 2
    assert jax.config.jax_compilation_cache_dir == before


PROGRAM = """
import sys
import jax
from eigenjax.__main__ import main
main()
slow_to_compile = lambda x: sum(jax.numpy.cumsum(jax.numpy.sin(i + x)) for i in range(100))
jax.block_until_ready(jax.jit(slow_to_compile)(jax.numpy.ones(20)))
print(jax.config.jax_compilation_cache_dir)
"""


def run(folder, *options, **environment):
    """Run a command that ends with an error after its settings are made, then compile a program."""
    words = [sys.executable, "-c", PROGRAM, "spectrum", "--problem", "no_such_module:problem", *options]
    variables = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | environment
    variables["XDG_CACHE_HOME"] = str(folder)
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_process_keeps_its_programs_unless_told_otherwise(tmp_path):
    assert run(tmp_path / "off", "--no-cache") == "None"
    assert not (tmp_path / "off").exists()
    chosen = str(tmp_path / "chosen")
    assert run(tmp_path / "other", JAX_COMPILATION_CACHE_DIR=chosen) == chosen
    assert not (tmp_path / "other").exists()
    assert run(tmp_path / "kept") == str(tmp_path / "kept" / "eigenjax")
    programs = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "eigenjax").glob("*-cache")}
    assert programs
    run(tmp_path / "kept")
    assert programs == {path: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "eigenjax").glob("*-cache")}
