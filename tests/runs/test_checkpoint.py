"""Interrupted and resumed runs have an unchanged result; other calls, full disks and second runs are refused."""

import errno
import multiprocessing
import os
import pathlib
import shutil
import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from eigenjax import RunError, hessian, memory_mapped_batches, run, stream
from eigenjax.runs import checkpoint, lock

from .conftest import OPTIONS, SPECS, Interrupted, contents, network_loss, same_bits


@pytest.mark.slow
def test_interrupted_and_resumed_it_gives_the_same_bits(matrix, tmp_path, interrupt_after):
    undisturbed = run(matrix, 3, **OPTIONS)
    for _ in range(3):
        interrupt_after(1)
        with pytest.raises(Interrupted):
            run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
    interrupt_after(None)
    resumed = run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
    assert same_bits(resumed, undisturbed)
    # The directory holds the two newest states, no lock and no partial file.
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["step-"] * 2
    before = contents(tmp_path)
    assert same_bits(run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS), undisturbed)
    assert contents(tmp_path) == before


def test_resumed_from_where_it_was(matrix, interrupted, capfd):
    run(matrix, 3, checkpoint_dir=interrupted, **OPTIONS | {"progress": True})
    first = int(capfd.readouterr().err.splitlines()[0].split(" matvecs")[0].split()[-1])
    assert first > 14


@pytest.mark.slow
def test_a_stream_is_resumed_too_and_its_data_are_recognized(network, tmp_path, interrupt_after):
    params, data = network
    # The options of test_stream, so that programs are compiled once.
    options = {"krylov_dim": 12, "block_size": 2, "progress": False, "every": 5}
    build = lambda data: stream(network_loss, params, memory_mapped_batches(data, 8))
    undisturbed = run(build(data), 3, **options)
    interrupt_after(2)
    with pytest.raises(Interrupted):
        run(build(data), 3, checkpoint_dir=tmp_path, **options)
    interrupt_after(None)
    others = (data[0] + np.eye(21, 4, k=-8, dtype=np.float32), data[1])  # the change is not in the first batch
    with pytest.raises(RunError, match="not those that the checkpoint was made with"):
        run(build(others), 3, checkpoint_dir=tmp_path, **options)
    assert same_bits(run(build(data), 3, checkpoint_dir=tmp_path, **options), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_resumed_on_another_number_of_devices(network, tmp_path, interrupt_after, devices):
    params, data = network

    def on(count):
        mesh = jax.make_mesh((count,), ("model",), (AxisType.Auto,), devices=jax.devices()[:count])
        placed = {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in params.items()}
        return hessian(network_loss, placed, data)

    options = {"krylov_dim": 6, "progress": False, "every": 5}
    interrupt_after(2)
    with pytest.raises(Interrupted):
        run(on(8), 3, checkpoint_dir=tmp_path, **options)
    interrupt_after(None)
    resumed = run(on(devices), 3, checkpoint_dir=tmp_path, **options)
    assert resumed.eigenvectors["outer"].addressable_shards[0].data.shape == (3, 8 // devices, 2)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    truth = np.linalg.eigvalsh(jax.hessian(lambda x: network_loss(unravel(x), data))(flat))[::-1][:3]
    # Sums over fewer devices round differently at every step; the eigenvalues satisfy their certified bounds.
    assert (np.abs(resumed.eigenvalues - truth) <= resumed.error_bounds).all()
    assert (resumed.error_bounds <= 1e-4 * truth[0]).all()
    assert resumed.converged.all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k": 4}, "k=3, where this call has 4"),
        ({"tol": 1e-6}, "tol=.*, where this call has 1e-06"),
        ({"which": "SA"}, "which='LA', where this call has 'SA'"),
        ({"max_matvecs": 70}, "max_matvecs="),
        ({"krylov_dim": 12}, "krylov_dim=10, where this call has 12"),
        ({"key": jax.random.key(1)}, "another key"),
        ({"v0": jnp.ones(60)}, "another v0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_other_arguments_are_refused_and_named(matrix, interrupted, change, reason):
    before = contents(interrupted)
    with pytest.raises(RunError, match=f"holds another run: .*{reason}.*another directory"):
        run(matrix, **{"k": 3, "checkpoint_dir": interrupted, **OPTIONS, **change})
    assert contents(interrupted) == before


def test_another_operator_is_refused(matrix, interrupted):
    before = contents(interrupted)
    for other in (matrix * 1.0001, matrix.at[7, 7].add(1e-3)):
        with pytest.raises(RunError, match="its matvec with a fixed vector gave another result"):
            run(other, 3, checkpoint_dir=interrupted, **OPTIONS)
    with pytest.raises(RunError, match="structure"):
        run(matrix[1:, 1:], 3, checkpoint_dir=interrupted, **OPTIONS | {"max_matvecs": 1000})
    assert contents(interrupted) == before


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_once_and_the_result_is_not_lost(matrix, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.Folder, "_write", full_disk)
    with (
        pytest.warns(RuntimeWarning, match="No space left") as caught,
        pytest.raises(RunError, match=r"\.result") as info,
    ):
        run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
    assert len(caught) == 1
    assert same_bits(info.value.result, run(matrix, 3, **OPTIONS))


def test_a_disk_that_is_full_for_a_while(matrix, tmp_path, monkeypatch):
    write, calls = checkpoint.Folder._write, []

    def sometimes(self, products, *args):
        calls.append(products)
        return full_disk() if len(calls) == 2 else write(self, products, *args)

    monkeypatch.setattr(checkpoint.Folder, "_write", sometimes)
    with pytest.warns(RuntimeWarning, match="goes on in memory") as caught:
        result = run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
    assert len(caught) == 1
    assert len(calls) > 3
    assert result.converged.all()
    assert {path.name for path in tmp_path.iterdir()} == {f"step-{n:08d}" for n in calls[-2:]}


def test_a_folder_that_vanishes_while_running(matrix, tmp_path, monkeypatch):
    write, folder = checkpoint.Folder._write, tmp_path / "run"

    def vanished(self, *args):
        shutil.rmtree(folder, ignore_errors=True)
        return write(self, *args)

    monkeypatch.setattr(checkpoint.Folder, "_write", vanished)
    with pytest.warns(RuntimeWarning), pytest.raises(RunError) as info:
        run(matrix, 3, checkpoint_dir=folder, **OPTIONS)
    assert info.value.result.converged.all()


def test_a_real_full_disk(matrix, tmp_path):
    if os.system(f"mount -t tmpfs -o size=16k tmpfs {tmp_path} 2>/dev/null") != 0:
        pytest.skip("no right to mount a small disk")
    try:
        with pytest.warns(RuntimeWarning, match="could not save") as caught, pytest.raises(RunError) as info:
            run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
        assert len(caught) == 1
        assert info.value.result.converged.all()
    finally:
        os.system(f"umount {tmp_path}")


def hold(folder, ready, leave):
    with lock.locked(pathlib.Path(folder)):
        ready.set()
        leave.wait(60)


def test_two_runs_in_one_directory(matrix, tmp_path):
    with lock.locked(tmp_path), pytest.raises(RunError, match=f"in use by process {os.getpid()} on "):
        run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path), ready, leave))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(RunError, match=f"in use by process {other.pid} on "):
            run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS)
    finally:
        other.kill()
        other.join()
    # The killed process left its lock file behind.
    assert (tmp_path / lock.NAME).exists()
    assert run(matrix, 3, checkpoint_dir=tmp_path, **OPTIONS).converged.all()
    assert not (tmp_path / lock.NAME).exists()


def test_without_orbax_the_extra_is_named(matrix, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    with pytest.raises(ImportError, match=r"eigenjax\[checkpoints\]"):
        run(matrix, 3, checkpoint_dir=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()
