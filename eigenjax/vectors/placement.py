"""Devices of arrays, read from their types, and placement of vectors on the devices of the parameters.

The type of an array contains its mesh, also within a compiled program, whether the axes are Auto or Explicit.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, Mesh, NamedSharding

# Name under which JAX keeps what `jax.default_device` sets.
_DEFAULT_DEVICE = "jax_default_device"


def explicit_sharding(leaf: Any) -> NamedSharding | None:
    """Return the sharding of a leaf if it is part of its type (meshes with Explicit axes), else None."""
    sharding = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf).sharding
    if not isinstance(sharding, NamedSharding) or not sharding.mesh.are_all_axes_explicit or sharding.mesh.empty:
        return None
    return sharding


def spans_devices(*trees: Any) -> bool:
    """Return whether an array among the leaves, or the mesh of the program, is on more than one device.

    A mesh of one device with Explicit axes counts as well, because its arrays cannot be reshaped like others. So does a
    `jax.ShapeDtypeStruct` on such a mesh.

    >>> spans_devices({"a": jnp.ones(2)}, 3)
    False
    """
    meshes = [jax.sharding.get_abstract_mesh()]
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.ShapeDtypeStruct) and explicit_sharding(leaf) is not None:
            return True
        if isinstance(leaf, jax.Array):
            meshes.append(jax.typeof(leaf).sharding.mesh)
            # A concrete array may be on several devices without a mesh.
            if not isinstance(leaf, Tracer) and len(leaf.sharding.device_set) > 1:
                return True
    return any(not mesh.empty and (mesh.size > 1 or AxisType.Explicit in mesh.axis_types) for mesh in meshes)


def default_platform() -> str:
    """Return the platform of new arrays: that of `jax.default_device`, or of the default backend.

    >>> default_platform() == jax.default_backend()
    True
    """
    device = getattr(jax.config, _DEFAULT_DEVICE)
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def refuse_float64_on_tpu(structure: Any) -> None:
    """Raise a TypeError if vectors of this structure hold 64-bit numbers and are on a TPU, whose compiler fails."""
    wide = [str(leaf.dtype) for leaf in jax.tree.leaves(structure) if jnp.finfo(leaf.dtype).bits == 64]
    if wide and default_platform() == "tpu":
        raise TypeError(
            f"the operator acts on {wide[0]}, and a TPU has no solvers of that precision: cast parameters and data to "
            "float32 or complex64, or put them on the host and compute under "
            "jax.default_device(jax.devices('cpu')[0])"
        )


def on_mesh_of(*trees: Any) -> contextlib.AbstractContextManager:
    """Return a context in which new arrays take the mesh of the leaves, if their types contain one.

    Since JAX 0.11 `jnp.zeros_like` of an array on a mesh with Explicit axes is on no mesh, unless the program or its
    caller sets one.

    >>> with on_mesh_of(jnp.ones(2)):
    ...     print(jax.sharding.get_abstract_mesh().empty)
    True
    """
    shardings = (explicit_sharding(leaf) for leaf in jax.tree.leaves(trees) if isinstance(leaf, jax.Array))
    mesh = next((sharding.mesh for sharding in shardings if sharding is not None), None)
    if mesh is None or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh)


def placed_like(x: Any, like: Any) -> Any:
    """Return x, sharded over devices like a vector of the same shapes; the numbers are those of `x`.

    With Explicit axes the type of an array contains its sharding. With Auto axes the compiler chooses it, and gives
    arrays that meet in one operation the same sharding. A matvec that gathers its parameters before it uses them (FSDP)
    is no such operation: without this function the vectors of a solver would be replicated on every device.

    >>> print(placed_like(jnp.array([1.0, 2.0]), jnp.array([jnp.inf, jnp.nan])))
    [1. 2.]
    """
    # Both tests are needed. A process with a single device may compile a program for many. A process with several may
    # place arrays on them whose types contain no mesh.
    return jax.tree.map(_placed_leaf, x, like) if jax.device_count() > 1 or spans_devices(like) else x


def in_rows(vector: Any) -> Any:
    """Return a vector that a TPU stores by rows, as it does a basis, on meshes with Explicit axes; others unchanged.

    The gradient of x @ W is computed transposed, and the compiler for a TPU keeps such a layout as far as it can: then
    it holds a basis in both layouts, and copies all of it at every step. (With Auto axes it holds no second basis, and
    would gather the vectors for a constraint.)

    >>> print(in_rows(jnp.ones((1, 2))))
    [[1. 1.]]
    """
    return jax.tree.map(lambda x: x if x.ndim < 2 or explicit_sharding(x) is None else _in_rows(x), vector)


def _in_rows(x: jax.Array) -> jax.Array:
    constrain = lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim))))
    return jax.lax.platform_dependent(x, tpu=constrain, default=lambda x: x)


def _placed_leaf(x: jax.Array, like: jax.Array) -> jax.Array:
    if explicit_sharding(like) is not None:
        return x
    # The predicate is always false, but is not simplified before sharding propagation. It does not depend on x, so that
    # the result is linear in x.
    like = jax.lax.stop_gradient(like)
    real_part = like.real if jnp.issubdtype(like.dtype, jnp.inexact) else like.astype(jnp.float32)
    return jnp.where(real_part > jnp.inf, like.astype(x.dtype), x)
