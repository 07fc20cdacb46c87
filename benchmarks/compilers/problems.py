"""Operators of shapes on described devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import eigenjax
from benchmarks.compilers.targets import Target
from benchmarks.scale import large_operator
from benchmarks.scale.large_operator import TOKENS
from eigenjax.runs.estimate import partition
from eigenjax.vectors.tree import PyTree

_FLAT = 2**22
# Leaves that a TPU stores in tiles of 8 x 128: of the first a solver that kept its shape would fill half of each tile.
_LEAVES = ((65536, 64), (1024, 2048), (16, 256, 512), (512,))
_WIDTH, _HIDDEN, _LAYERS = 1024, 4096, 4
_CLASSES = 128


class Shapes(NamedTuple):
    """Operator as a function of arguments of which only shapes are known."""

    build: Callable[..., eigenjax.LinearOperator]
    arguments: tuple[PyTree, ...]
    mesh: Mesh | None
    vector: int  # bytes of a vector on one device

    def product(self, vector: PyTree, *arguments: Any) -> Any:
        """Multiply the operator by a vector, whose structure is that of the first argument."""
        return self.build(*arguments)(vector)


def flat(target: Target) -> Shapes:
    """Create a diagonal operator on one array of 2^22 numbers."""
    return _diagonal(jax.ShapeDtypeStruct((_FLAT,), jnp.float32, sharding=target.place))


def leaves(target: Target) -> Shapes:
    """Create a diagonal operator on leaves of several shapes."""
    return _diagonal([jax.ShapeDtypeStruct(shape, jnp.float32, sharding=target.place) for shape in _LEAVES])


def _diagonal(like: PyTree) -> Shapes:
    build = lambda d: eigenjax.as_operator(lambda v: jax.tree.map(jnp.multiply, d, v), like=d)
    return Shapes(build, (like,), None, shard_bytes(like))


def network(target: Target, kind: AxisType) -> Shapes:
    """Create the Hessian of a residual network on a mesh "data" x "model".

    With Auto axes the parameters are sharded over both axes and gathered for the product (FSDP), with Explicit axes
    over "model" only.
    """
    mesh = target.mesh({"data": len(target.devices) // 4, "model": 4}, kind)
    is_auto = kind is AxisType.Auto
    up, down = (P("data", "model"), P("model", "data")) if is_auto else (P(None, "model"), P("model", None))
    place = lambda shape, spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    params = [{"up": place((_WIDTH, _HIDDEN), up), "down": place((_HIDDEN, _WIDTH), down)} for _ in range(_LAYERS)]
    inputs = place((8 * len(target.devices), _WIDTH), P("data", None))

    def loss(params: PyTree, x: jax.Array) -> jax.Array:
        for layer in params:
            out = None if is_auto else P("data", None)
            x = x + jnp.einsum("bf,fd->bd", jnp.tanh(x @ layer["up"]), layer["down"], out_sharding=out)
        return jnp.mean(x**2)

    return Shapes(lambda params, x: eigenjax.hessian(loss, params, x), (params, inputs), mesh, shard_bytes(params))


def curvature(target: Target) -> dict[str, Shapes]:
    """Create the curvature operators of a classifier of 4.7 million parameters on one chip."""
    place = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=target.place)
    params = {"hidden": place(_WIDTH, _HIDDEN), "head": place(_HIDDEN, _CLASSES)}
    inputs = place(512, _WIDTH)
    labels = jax.ShapeDtypeStruct((512,), jnp.int32, sharding=target.place)
    model = lambda params, x: jnp.tanh(x @ params["hidden"]) @ params["head"]
    loss = lambda outputs, y: eigenjax.softmax_cross_entropy(outputs, y)
    whole = lambda params, batch: loss(model(params, batch[0]), batch[1])
    builders = {
        "hessian": lambda params, x, y: eigenjax.hessian(whole, params, (x, y)),
        "hessian, batch_size": lambda params, x, y: eigenjax.hessian(whole, params, (x, y), batch_size=64),
        "gauss_newton": lambda params, x, y: eigenjax.gauss_newton(model, loss, params, (x, y)),
        "fisher": lambda params, x, y: eigenjax.fisher(model, params, (x, y)),
        "fisher, empirical": lambda params, x, y: eigenjax.fisher(model, params, (x, y), kind="empirical"),
    }
    return {
        name: Shapes(build, (params, inputs, labels), None, shard_bytes(params)) for name, build in builders.items()
    }


def language_model(target: Target, shape: large_operator.Shape) -> Shapes:
    """Create the Hessian of a transformer, parameters sharded over all devices like those of `estimate`."""
    mesh = target.mesh({"all": len(target.devices)}, AxisType.Auto)
    build = lambda params, tokens: eigenjax.hessian(large_operator.loss, params, tokens)
    place = lambda leaf: NamedSharding(mesh, partition(leaf.shape, mesh))
    shapes = large_operator.structure(shape)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(leaf)), shapes)
    batch = NamedSharding(mesh, P("all"))
    tokens = jax.ShapeDtypeStruct((len(target.devices), TOKENS + 1), jnp.int32, sharding=batch)
    return Shapes(build, (params, tokens), mesh, shard_bytes(params))


def shard_bytes(vector: PyTree) -> int:
    """Return the bytes of a vector that one device holds."""
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(vector)]
    return sum(jax.ShapeDtypeStruct(shape, dtype).size * dtype.itemsize for shape, dtype in shards)
