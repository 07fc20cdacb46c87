"""The wheel and the source distribution hold what they should, and a typed program uses the installed wheel."""

import email
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import eigenjax

ROOT = Path(__file__).parents[2]
CONSUMER = Path(__file__).parent / "consumer.py"

# A path to this folder in the environment would hide the installed package.
CAPTURED = {
    "capture_output": True,
    "text": True,
    "check": False,
    "env": {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"},
}

pytestmark = pytest.mark.slow


def command(*arguments, folder):
    """Run a command in a folder; its output is in the error."""
    done = subprocess.run([str(a) for a in arguments], cwd=folder, **CAPTURED)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the interpreter of a new environment with hatchling, which takes other packages from this one."""
    folder = tmp_path_factory.mktemp("environment")
    command(sys.executable, "-m", "venv", folder, folder=ROOT)
    found = folder / "bin" / "python"
    try:
        command(found, "-m", "pip", "install", "--quiet", "hatchling>=1.26", folder=ROOT)
    except AssertionError:
        pytest.skip("hatchling could not be installed")
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file comes last, and the .pth files of that folder, such as an editable install, are not read.
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


@pytest.fixture(scope="module")
def wheel(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command(python, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(python, wheel):
    """Return the interpreter of the environment, with the wheel installed."""
    command(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, folder=wheel.parent)
    return python


def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"eigenjax", f"eigenjax-{eigenjax.__version__}.dist-info"}
    assert "eigenjax/py.typed" in names
    assert "eigenjax/CHANGELOG.md" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "eigenjax").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_the_metadata_of_the_wheel(wheel):
    folder = f"eigenjax-{eigenjax.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        assert b"eigenjax = eigenjax.__main__:main" in archive.read(f"{folder}/entry_points.txt")
    assert metadata["Version"] == eigenjax.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"training", "report", "demo", "checkpoints", "all"} <= set(metadata.get_all("Provides-Extra", []))


def test_the_wheel_is_built_from_the_source_distribution(python, wheel, tmp_path):
    command(python, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, folder=ROOT)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / f"eigenjax-{eigenjax.__version__}"
    assert {"eigenjax", "tests", "benchmarks", "notebooks", "README.md", "LICENSE"} <= {
        p.name for p in source.iterdir()
    }
    assert not (source / "notebooks" / "manual" / "site").exists()
    command(python, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", folder=source)
    (again,) = (tmp_path / "again").glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_a_program_uses_the_installed_wheel(installed, tmp_path):
    where = "import eigenjax, importlib.metadata as m; print(eigenjax.__file__, m.version('eigenjax'))"
    path, version = command(installed, "-c", where, folder=tmp_path).split()
    assert Path(path).is_relative_to(installed.parents[1])
    assert version == eigenjax.__version__
    version, number = command(installed, CONSUMER, folder=tmp_path).split()
    assert version == eigenjax.__version__
    assert float(number) > 0


def test_the_command_of_the_installed_wheel(installed, tmp_path):
    assert "--problem" in command(installed.parent / "eigenjax", "spectrum", "--help", folder=tmp_path)


def test_pyright_accepts_the_program_in_strict_mode(installed, tmp_path):
    pytest.importorskip("pyright")
    (tmp_path / "consumer.py").write_text(CONSUMER.read_text())
    # Every public name is mentioned: a type that is partly unknown is an error where it is used.
    names = "".join(f"eigenjax.{name},\n" for name in eigenjax.__all__)
    (tmp_path / "names.py").write_text(f"# pyright: strict\nimport eigenjax\n\nALL: list[object] = [{names}]\n")
    arguments = ("--outputjson", "--pythonpath", installed, "consumer.py", "names.py")
    done = subprocess.run([sys.executable, "-m", "pyright", *map(str, arguments)], cwd=tmp_path, **CAPTURED)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 2
    assert [(found["file"], found["message"]) for found in report["generalDiagnostics"]] == []
