"""The lock of a directory: one run at a time, and no foreign file is taken for a lock."""

import contextlib
import multiprocessing
import pathlib
import threading

import pytest

from eigenjax import RunError
from eigenjax.runs import lock


def hold(folder, inside, leave, opened=None, go=None):
    """Hold the lock; with `go`, pause between opening the file and locking it."""
    take = lock._take

    def slow(file, where):
        if not opened.is_set():
            opened.set()
            go.wait(60)
        take(file, where)

    if go is not None:
        lock._take = slow
    with contextlib.suppress(RunError), lock.locked(pathlib.Path(folder)):
        inside.set()
        leave.wait(60)


class Holder:
    """Process that holds the lock of a folder."""

    def __init__(self, folder, *, slowly=False):
        context = multiprocessing.get_context("spawn")
        self.inside, self.leave, self.opened, self.go = (context.Event() for _ in range(4))
        slow = (self.opened, self.go) if slowly else ()
        self.process = context.Process(target=hold, args=(str(folder), self.inside, self.leave, *slow))
        self.process.start()

    def end(self):
        self.leave.set()
        self.process.join(60)


@pytest.mark.slow
def test_a_file_that_was_unlinked_after_it_was_opened_is_no_lock(tmp_path):
    first = Holder(tmp_path)
    assert first.inside.wait(60)
    second = Holder(tmp_path, slowly=True)
    try:
        assert second.opened.wait(60)
        first.end()
        assert not (tmp_path / lock.NAME).exists()
        second.go.set()
        assert second.inside.wait(60)
        # The lock of the second process has a file name, and excludes others.
        assert (tmp_path / lock.NAME).exists()
        with pytest.raises(RunError, match=f"in use by process {second.process.pid} on "), lock.locked(tmp_path):
            pass
    finally:
        first.end()
        second.end()
    assert not (tmp_path / lock.NAME).exists()


def test_a_file_that_another_made_meanwhile_is_tried_in_its_place(tmp_path, monkeypatch):
    take, taken = lock._take, []

    def replaced_twice(file, where):
        take(file, where)
        taken.append(file)
        if len(taken) <= 2:
            (tmp_path / lock.NAME).unlink()
            (tmp_path / lock.NAME).touch()

    monkeypatch.setattr(lock, "_take", replaced_twice)
    with lock.locked(tmp_path):
        assert len(taken) == 3
        assert [file.closed for file in taken] == [True, True, False]
    assert not (tmp_path / lock.NAME).exists()


def test_at_the_end_only_ones_own_file_is_unlinked(tmp_path):
    with lock.locked(tmp_path):
        (tmp_path / lock.NAME).unlink()
        (tmp_path / lock.NAME).write_text("of another run")
    assert (tmp_path / lock.NAME).read_text() == "of another run"


def test_threads_of_one_process_keep_each_other_out(tmp_path):
    outcomes, barrier = [], threading.Barrier(8)

    def attempt():
        barrier.wait()
        try:
            with lock.locked(tmp_path):
                outcomes.append("inside")
                barrier.wait(1)
        except (RunError, threading.BrokenBarrierError) as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("inside") == 1
    assert sum("in use by process" in one for one in outcomes) == 7


@pytest.mark.parametrize("text", ["", '{"pid": 1, "host": "gone"}', '{"pid": 12', '{"p'])
def test_what_a_killed_run_left_is_taken_over(tmp_path, text):
    (tmp_path / lock.NAME).write_text(text)
    with lock.locked(tmp_path):
        pass
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize("kind", ["text", "bytes", "list", "folder", "link", "dangling link"])
def test_what_is_no_lock_is_left_alone(tmp_path, kind):
    path, other = tmp_path / lock.NAME, tmp_path / "other"
    if kind == "folder":
        path.mkdir()
    elif "link" in kind:
        path.symlink_to(other)
    else:
        path.write_bytes({"text": b"the key is under the mat", "bytes": b"\xff\xfe", "list": b"[1, 2]"}[kind])
    if kind == "link":
        other.write_text("precious")
    before = sorted((entry.name, entry.is_symlink()) for entry in tmp_path.iterdir())
    with (
        pytest.raises(RunError, match=r"lock there is not the lock of a run .* move or delete it"),
        lock.locked(tmp_path),
    ):
        pass
    assert sorted((entry.name, entry.is_symlink()) for entry in tmp_path.iterdir()) == before
    if kind in ("text", "bytes", "list"):
        assert path.read_bytes()
    if kind == "link":
        assert other.read_text() == "precious"
