"""Damaged checkpoints and foreign files in their directory are refused by name, and left alone."""

import json
import os
import shutil

import pytest

from eigenjax import RunError, run
from eigenjax.runs import checkpoint

from .conftest import OPTIONS, contents, same_bits


def damage_record(step):
    (step / "run.json").write_text("{")


def remove_record(step):
    (step / "run.json").unlink()


def remove_arrays(step):
    shutil.rmtree(step / "state")


def cut_short(step):
    largest = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def flip_a_bit(step):
    largest = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def swap_a_number(step):
    record = json.loads((step / "run.json").read_text())
    (step / "run.json").write_text(json.dumps(record | {"checksum": record["checksum"] ^ 1}))


def deep(step):
    (step / "run.json").write_text("[" * 100_000)


def not_text(step):
    (step / "run.json").write_bytes(b"\xff\xfe{}")


def a_folder(step):
    remove_record(step)
    (step / "run.json").mkdir()


def of_another_type(*path, value):
    """Return a function that damages a part of run.json: valid JSON of another type."""

    def damage(step):
        record = json.loads((step / "run.json").read_text())
        parent = record
        for name in path[:-1]:
            parent = parent[name]
        if path:
            parent[path[-1]] = value
        (step / "run.json").write_text(json.dumps(record if path else value))

    damage.__name__ = f"{'.'.join(map(str, path))}={value!r}"
    return damage


TYPES = [
    *(of_another_type(value=value) for value in ([1, 2], 3.5, None, "text", {}, True)),
    *(of_another_type("format", value=value) for value in (["eigenjax run, 2"], 2, None, "another program")),
    *(of_another_type("identity", value=value) for value in ([], "x", None, {"arguments": {}})),
    of_another_type("identity", "arguments", value=7),
    of_another_type("identity", "arguments", "tol", value={"a": []}),
    of_another_type("identity", "sketch", value=1.5),
    of_another_type("identity", "sketch", 2, value="0.25"),
    of_another_type("identity", "sketch", 2, value=10**400),
    of_another_type("identity", "epsilon", value="small"),
    of_another_type("identity", "devices", value=8),
    *(of_another_type("leaves", value=value) for value in (3, [[1]], {})),
    of_another_type("checksum", value=[1]),
    *(of_another_type("epoch", value=value) for value in (3, "x", [[]])),
    *(of_another_type("digest", value=value) for value in (3, None)),
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [deep, not_text, a_folder, *TYPES], ids=lambda f: f.__name__)
def test_whatever_stands_in_place_of_the_record_is_damage(interrupted, damage):
    # Only the folder is read, without a solve: a damaged record ends the run before a solve.
    newest = max(interrupted.glob("step-*"))
    damage(newest)
    with pytest.raises(RunError, match=rf"{newest.name} is damaged \(run\.json.*delete this folder, and the run then"):
        checkpoint.Folder(interrupted).latest()


@pytest.mark.parametrize("name", ["step-000000014", "step-١٢٣٤٥٦٧٨", "step-14"])
def test_another_spelling_of_a_number_is_no_state(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match="no run of eigenjax has written"), checkpoint.opened(tmp_path):
        pass
    assert (tmp_path / name).exists()


def damage_orbax(value):
    def damage(step):
        for path in (step / "state").iterdir():
            if path.name.startswith(("_METADATA", "_sharding", "manifest.ocdbt")):
                path.write_text(value)

    damage.__name__ = f"orbax={value}"
    return damage


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        damage_orbax("[1]"),
        damage_orbax("3"),
        damage_orbax('{"tree_metadata": 3}'),
        damage_record,
        remove_record,
        remove_arrays,
        cut_short,
        flip_a_bit,
        swap_a_number,
    ],
    ids=lambda f: f.__name__,
)
def test_a_damaged_state_is_refused_and_the_one_before_it_serves(matrix, interrupted, damage):
    newest = max(interrupted.glob("step-*"))
    damage(newest)
    before = contents(interrupted)
    with pytest.raises(RunError, match=f"{newest.name} is damaged .*delete this folder, and the run then goes on from"):
        run(matrix, 3, checkpoint_dir=interrupted, **OPTIONS)
    assert contents(interrupted) == before
    shutil.rmtree(newest)
    assert same_bits(run(matrix, 3, checkpoint_dir=interrupted, **OPTIONS), run(matrix, 3, **OPTIONS))


def test_what_a_run_did_not_write_is_left_alone(matrix, tmp_path, interrupted):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(RunError, match=r"no run of eigenjax has written \(run, thesis.tex\)"):
        run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
    record = max(interrupted.glob("step-*")) / "run.json"
    record.write_text(json.dumps({"format": "eigenjax run, 7"}))
    with pytest.raises(RunError, match="not of this version"):
        run(matrix, 3, checkpoint_dir=interrupted, **OPTIONS)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write there"):
        run(matrix, 3, checkpoint_dir=tmp_path / "file", **OPTIONS)
