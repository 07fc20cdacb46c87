"""A failed checkpoint write in one of two processes: no process waits for it, and the next checkpoint is written."""

import errno
import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Limit in seconds; a deadlock between the processes would take minutes.
LIMIT = 240


def work(index, port, folder):
    """Run in each process: the first three checkpoints fail, each in one of the processes."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
    from eigenjax import as_operator, run
    from eigenjax.runs import checkpoint

    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    diagonal = np.linspace(-1, 1, 64, dtype=np.float32) ** 3
    place = NamedSharding(mesh, P("model"))
    diagonal = jax.make_array_from_callback(diagonal.shape, place, lambda part: diagonal[part])
    # (index of the failing process, failing function) of the first three checkpoints.
    failing = [(1, "_check_room"), (0, "_remove"), (1, "_try_writing")]
    attempts = []
    save = checkpoint.Folder.save

    def counted(self, *args):
        attempts.append(len(attempts))
        save(self, *args)

    def failing_at(name):
        act = getattr(checkpoint, name)

        def maybe(*args):
            attempt = attempts[-1] if attempts else len(failing)
            # Fail only once: the cleanup calls the same function.
            if attempt < len(failing) and failing[attempt] == (index, name):
                failing[attempt] = None
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return act(*args)

        return maybe

    checkpoint.Folder.save = counted
    for name in {name for _, name in failing}:
        setattr(checkpoint, name, failing_at(name))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        op = as_operator(lambda v: diagonal * v, like=diagonal)
        result = run(op, 2, krylov_dim=10, every=4, progress=False, checkpoint_dir=folder)
        warned = [str(one.message) for one in caught if "could not save" in str(one.message)]
    found = {"warned": warned, "converged": bool(result.converged.all()), "attempts": len(attempts)}
    sys.stdout.write(json.dumps(found) + "\n")


@pytest.mark.slow
def test_a_write_that_fails_on_one_process_fails_on_all_and_is_tried_again(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(index), str(port), str(tmp_path / "run")],
            env=os.environ | flags,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        printed = [worker.communicate(timeout=LIMIT) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], printed
    found = [json.loads(out.splitlines()[-1]) for out, _ in printed]
    assert [one["converged"] for one in found] == [True, True]
    assert [len(one["warned"]) for one in found] == [1, 1]
    assert "process 1 could not write" in found[0]["warned"][0]
    assert "No space left" in found[1]["warned"][0]
    assert found[0]["attempts"] > 3
    assert 1 <= len(list((tmp_path / "run").glob("step-*"))) <= 2
    assert not list((tmp_path / "run").glob("*.partial"))


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
