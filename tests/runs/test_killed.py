"""Runs that are killed repeatedly, at any moment, have the result of an uninterrupted run, bit for bit."""

import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

# The program repeats the same call, as a user would. The matrix has close eigenvalues and needs hundreds of matvecs.
PROGRAM = """
import sys, jax, jax.numpy as jnp, numpy as np
from eigenjax import run
folder, out = sys.argv[1:]
values = jnp.linspace(0.0, 1.0, 300) ** 2
reflector = jnp.cos(jnp.arange(300.0)) / 12.0
matrix = jnp.diag(values) - 0.5 * jnp.outer(reflector, reflector)
result = run(matrix, 2, which="SA", krylov_dim=12, every=4, progress=False, checkpoint_dir=folder or None)
assert result.converged.all()
np.savez(out, **{str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(result))})
"""

# An estimate in place of a solve.
ESTIMATES = """
import sys, functools, jax, jax.numpy as jnp, numpy as np
from eigenjax import run, {name}
folder, out = sys.argv[1:]
values = jnp.linspace(0.1, 1.0, 300) ** 2
reflector = jnp.cos(jnp.arange(300.0)) / 12.0
matrix = jnp.diag(values) + 0.5 * jnp.outer(reflector, reflector)
estimator = functools.partial({name}, key=jax.random.key(0), probe_batch=4, {options})
result = run(matrix, estimator=estimator, every=4, progress=False, checkpoint_dir=folder or None)
np.savez(out, **{{str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(result))}})
"""


class Launcher:
    """Start the program, kill it, and read its result."""

    def __init__(self, folder, program=PROGRAM):
        self.folder, self.out = folder / "run", folder / "result.npz"
        # All processes share a compilation cache.
        self.environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.program = folder / "program.py"
        self.program.write_text(program)

    def start(self, checkpoints):
        arguments = [sys.executable, self.program, self.folder if checkpoints else "", self.out]
        return subprocess.Popen(arguments, env=self.environment, stderr=subprocess.PIPE)

    def finish(self, checkpoints):
        """Run the program to its end, and return the bits of the result."""
        process = self.start(checkpoints)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err.decode()
        return self.bits()

    def bits(self):
        with np.load(self.out) as result:
            return {name: result[name].tobytes() for name in result}

    def kill_after(self, seconds):
        """Kill the program after so many seconds; return whether it was still running."""
        process = self.start(checkpoints=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -9), err.decode()
        return process.returncode == -9

    def kill_after_checkpoint(self, seconds):
        """Kill the program so many seconds after its next checkpoint."""
        before = set(self.steps())
        process = self.start(checkpoints=True)
        while process.poll() is None and not set(self.steps()) - before:
            time.sleep(0.002)
        time.sleep(seconds)
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -9), err.decode()

    def steps(self):
        return [path.name for path in self.folder.glob("step-*") if path.suffix == ""] if self.folder.exists() else []


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)


@pytest.mark.slow
def test_killed_twice(launcher):
    undisturbed = launcher.finish(checkpoints=False)
    launcher.out.unlink()
    generator = random.Random(0)
    for _ in range(2):
        launcher.kill_after_checkpoint(generator.uniform(0.0, 0.3))
    assert not launcher.out.exists()
    assert launcher.steps()
    assert launcher.finish(checkpoints=True) == undisturbed


@pytest.mark.slow
def test_killed_at_ten_random_moments(launcher):
    undisturbed = launcher.finish(checkpoints=False)
    launcher.finish(checkpoints=True)
    shutil.rmtree(launcher.folder)
    start = time.monotonic()
    assert launcher.finish(checkpoints=True) == undisturbed
    longest = time.monotonic() - start
    generator, kills = random.Random(1), 0
    while kills < 10:
        # The random time may fall before the first checkpoint, inside a save, or after the end.
        if launcher.kill_after(generator.uniform(0.0, longest)):
            kills += 1
            continue
        assert launcher.bits() == undisturbed
        shutil.rmtree(launcher.folder)
        launcher.out.unlink()
    assert launcher.finish(checkpoints=True) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("trace", "num_matvecs=121"), ("spectral_density", "num_probes=6, krylov_dim=40")]
)
def test_a_killed_estimate(tmp_path, name, options):
    launcher = Launcher(tmp_path, ESTIMATES.format(name=name, options=options))
    undisturbed = launcher.finish(checkpoints=False)
    launcher.out.unlink()
    generator = random.Random(0)
    for _ in range(2):
        launcher.kill_after_checkpoint(generator.uniform(0.0, 0.1))
    assert not launcher.out.exists()
    assert launcher.steps()
    assert launcher.finish(checkpoints=True) == undisturbed
