"""Small problems with known solutions, and interruptions of runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from eigenjax import run
from eigenjax.runs.checkpoint import Folder

# All tests of checkpoints share these options, so that programs are compiled once.
OPTIONS = {"krylov_dim": 10, "progress": False, "every": 7}
SPECS = {"inner": P(None, "model"), "bias": P("model"), "outer": P("model", None)}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_bits(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


class Interrupted(BaseException):
    """Exception that stands for the end of a process."""


@pytest.fixture
def interrupt_after(monkeypatch):
    """Return a function that makes runs end after `count` checkpoints; None removes the limit."""
    save = Folder.save

    def after(count):
        saved = 0

        def counted(self, *args):
            nonlocal saved
            save(self, *args)
            saved += 1
            if saved == count:
                raise Interrupted

        monkeypatch.setattr(Folder, "save", save if count is None else counted)

    return after


@pytest.fixture
def matrix(rng):
    """Return a 60 x 60 matrix with quadratically spaced eigenvalues in [0, 1] and random eigenvectors."""
    q, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    return jnp.asarray((q * np.linspace(0.0, 1.0, 60) ** 2) @ q.T, jnp.float32)


@pytest.fixture
def interrupted(matrix, tmp_path, interrupt_after):
    """Return the directory of a run that was interrupted after two checkpoints."""
    interrupt_after(2)
    with pytest.raises(Interrupted):
        run(matrix, 3, checkpoint_dir=tmp_path / "run", **OPTIONS)
    interrupt_after(None)
    return tmp_path / "run"


def network_loss(params, batch):
    """Compute the mean squared error of a small network."""
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["inner"] + params["bias"][None, :])
    return jnp.mean((hidden @ params["outer"] - targets) ** 2)


@pytest.fixture
def network(rng):
    """Return params and (inputs, targets) of 21 examples."""
    shapes = {"inner": (4, 8), "bias": (8,), "outer": (8, 2)}
    params = {name: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    return params, (rng.normal(size=(21, 4)).astype(np.float32), rng.normal(size=(21, 2)).astype(np.float32))
