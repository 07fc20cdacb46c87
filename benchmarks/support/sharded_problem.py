"""Problems of `collectives` and `weak_scaling`: networks with parameters and examples sharded over many devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from eigenjax.vectors.tree import PyTree

MODES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


class Sharded(NamedTuple):
    """Loss of parameters and a batch, with their mesh and shardings."""

    loss: Callable[[PyTree, PyTree], jax.Array]
    mesh: Mesh
    params: PyTree  # shapes with shardings
    batch: PyTree
    parts: int  # number of devices that share the parameters

    def placed(self, params: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        """Shard arrays of parameters and examples as the problem requires."""
        put = lambda x, like: jax.device_put(x, like.sharding)
        return jax.tree.map(put, (params, batch), (self.params, self.batch))


def fully_sharded(
    mode: str, sizes: tuple[int, int] = (4, 2), *, layers: int = 2, width: int = 64, examples: int = 32
) -> Sharded:
    """Create a residual network with parameters sharded over "fsdp" and examples over all devices.

    Parameters are gathered one layer at a time.

    Args:
        mode: "auto" or "explicit", the kind of the mesh's axes.
        sizes: sizes of the axes "fsdp" and "data".
        layers: number of residual layers, in a scan.
        width: width of the hidden part of each layer.
        examples: number of examples in the batch.
    """
    devices = jax.devices()[: sizes[0] * sizes[1]]
    mesh = jax.make_mesh(sizes, ("fsdp", "data"), axis_types=(MODES[mode],) * 2, devices=devices)
    features, classes = 16, 8
    place = lambda shape, *axes: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))
    params = {
        "up": place((layers, features, width), None, None, "fsdp"),
        "down": place((layers, width, features), None, "fsdp"),
        "bias": place((layers, width), None, "fsdp"),
        "head": place((features, classes), "fsdp"),
    }
    rows = ("fsdp", "data")
    batch = (place((examples, features), rows), place((examples, classes), rows))
    gather = jax.sharding.reshard if mode == "explicit" else jax.lax.with_sharding_constraint
    whole = lambda x: gather(x, NamedSharding(mesh, P()))

    def loss(params, batch):
        inputs, targets = batch

        def layer(hidden, weights):
            # FSDP: every device gathers one layer's weights for as long as they are used.
            weights = jax.tree.map(whole, weights)
            return hidden + jnp.tanh(hidden @ weights["up"] + weights["bias"][None]) @ weights["down"], None

        hidden, _ = jax.lax.scan(layer, inputs, {name: x for name, x in params.items() if name != "head"})
        return jnp.mean((hidden @ whole(params["head"]) - targets) ** 2)

    return Sharded(loss, mesh, params, batch, sizes[0])


def model_parallel(mode: str, devices: int, *, width: int, examples: int = 32) -> Sharded:
    """Create a network with hidden units sharded over the devices: traffic is independent of their number."""
    mesh = jax.make_mesh((devices,), ("model",), axis_types=(MODES[mode],), devices=jax.devices()[:devices])
    place = lambda shape, *axes: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))
    params = {
        "inner": place((8, width), None, "model"),
        "bias": place((width,), "model"),
        "outer": place((width, 4), "model"),
    }
    batch = (place((examples, 8)), place((examples, 4)))
    whole = P(None, None) if mode == "explicit" else None

    def loss(params, batch):
        inputs, targets = batch
        hidden = jnp.tanh(inputs @ params["inner"] + params["bias"][None])
        outputs = jnp.einsum("nh,ho->no", hidden, params["outer"], out_sharding=whole)
        return jnp.mean((outputs - targets) ** 2)

    return Sharded(loss, mesh, params, batch, devices)


def numbers(problem: Sharded, seed: int = 0) -> tuple[Any, Any]:
    """Draw parameters and examples on one device."""
    leaves, treedef = jax.tree.flatten((problem.params, problem.batch))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draw = lambda key, leaf: 0.5 * jax.random.normal(key, leaf.shape, leaf.dtype)
    return treedef.unflatten([draw(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])
