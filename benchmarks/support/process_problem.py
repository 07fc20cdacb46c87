"""Problem of the benchmark `processes`: a network's Hessian, sharded over all devices of all processes."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eigenjax import eigsh, hessian, lanczos, run, stream
from eigenjax.vectors.tree import PyTree

SPECS = {"inner": P(None, "model"), "bias": P("model"), "outer": P("model", None)}
SHAPES = {"inner": (6, 16), "bias": (16,), "outer": (16, 4)}
BATCH = 8


def loss(params: PyTree, batch: PyTree) -> jax.Array:
    """Compute the mean squared error."""
    hidden = jnp.tanh(batch[0] @ params["inner"] + params["bias"])
    return jnp.mean((hidden @ params["outer"] - batch[1]) ** 2)


def objective(params: PyTree, batch: PyTree) -> jax.Array:
    """Compute a loss of eigenvalues and eigenvectors."""
    result = eigsh(hessian(loss, params, batch), 2, krylov_dim=12)
    return jnp.sum(result.eigenvalues) + jnp.sum(result.eigenvectors["bias"] ** 2)


def solved(checkpoints: Path) -> dict[str, Any]:
    """Compute every result, as lists of numbers."""
    rng = np.random.default_rng(0)
    host = {name: (0.5 * rng.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}
    data = (rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32))
    mesh = jax.make_mesh((jax.device_count(),), ("model",), (AxisType.Auto,))
    # Each process provides its own part of a global array.
    place = lambda x, spec: jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda part: x[part])
    params = {name: place(x, SPECS[name]) for name, x in host.items()}
    batch = jax.tree.map(lambda x: place(x, P()), data)
    top = jax.jit(lambda p, b: eigsh(hessian(loss, p, b), 3, krylov_dim=12))(params, batch)
    single = jax.jit(lambda p, b: lanczos(hessian(loss, p, b), 3, krylov_dim=30))(params, batch)
    gradient = jax.jit(jax.grad(objective))(params, batch)
    batches = [jax.tree.map(lambda x: x[i : i + BATCH], data) for i in range(0, 20, BATCH)]  # noqa: B023
    streamed = stream(loss, params, batches, sharding=NamedSharding(mesh, P()))
    options = {"krylov_dim": 12, "every": 5, "checkpoint_dir": checkpoints, "progress": False}
    long = run(streamed, 3, **options)
    # This run is complete on disk: all processes read its result.
    again = run(stream(loss, params, batches, sharding=NamedSharding(mesh, P())), 3, **options)
    results = {
        "eigsh, eigenvalues": top.eigenvalues,
        "eigsh, eigenvectors": top.eigenvectors,
        "lanczos, eigenvalues": single.eigenvalues,
        "eigsh, gradient": gradient,
        "run, streamed": long.eigenvalues,
        "run, read again": again.eigenvalues,
    }
    return {name: _numbers(value) for name, value in results.items()}


def _numbers(value: PyTree) -> list[float]:
    gathered = multihost_utils.process_allgather(value, tiled=True)
    return [float(x) for leaf in jax.tree.leaves(gathered) for x in np.ravel(leaf)]
