"""Identity of a run: its arguments, the structure of its vectors, and a matvec with a fixed vector."""

import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_vector, fold_in, seed_of
from eigenjax.vectors.tree import PyTree

# Number of inner products with fixed vectors that represent a matvec.
_SKETCH = 8
# On the same devices, the same operator gives the same matvec up to the order of additions on a GPU; on other devices,
# up to all rounding. Powers of the machine epsilon: eps^(3/4), and eps^(1/2), the default tolerance.
_SAME_DEVICES, _OTHER_DEVICES = 0.75, 0.5
# Key of these vectors. It must never change.
_SEED = (0x65696765, 0x6E6A6178)
# 2^32 over the golden ratio.
_STRIDE = 0x9E3779B9
# Arguments that are recorded by a checksum, which tells a reader nothing.
_CHECKSUMS = ("key", "v0", "deflate", "f")


def sketch(op: LinearOperator) -> tuple[PyTree, jax.Array]:
    """Compute A times a fixed vector, and (9,) real numbers that represent it, the last of them its norm.

    Cost: one matvec.
    """
    return _sketch(op)


@jax.jit
def _sketch(op: LinearOperator) -> tuple[PyTree, jax.Array]:
    structure = tree.working_structure(op.structure)
    seed = jnp.asarray(_SEED, jnp.uint32)
    image = matvec(op, arbitrary_vector(seed, structure))
    along = lambda i: tree.inner(arbitrary_vector(fold_in(seed, i), structure), image)
    numbers = jax.lax.map(along, jnp.arange(1, _SKETCH + 1, dtype=jnp.uint32))
    numbers = jnp.real(numbers) + jnp.imag(numbers)
    return image, jnp.append(numbers, tree.norm(image).astype(numbers.dtype))


def describe(structure: PyTree) -> list[list[Any]]:
    """Return [path, shape, dtype] of every leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(structure)[0]
    return [[jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves]


def digest(value: Any) -> str:
    """Compute a short hash of a value that can be written as JSON.

    >>> digest([1, "a"]) == digest((1, "a")) != digest([1, "b"])
    True
    """
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def checksum(arrays: PyTree) -> int:
    """Compute a checksum of all bits of all arrays, independent of their sharding.

    >>> checksum(jnp.ones(3)) == checksum(jnp.ones(3)) != checksum(jnp.ones(3).at[2].set(1.0000001))
    True
    """
    return int(_checksum(jax.tree.leaves(arrays)))


@jax.jit
def _checksum(leaves: list[jax.Array]) -> jax.Array:
    # Integer sums modulo 2^32 are independent of the order; with an odd factor every change of a word changes the sum.
    total = jnp.zeros((), jnp.uint32)
    parts = [part for leaf in leaves for part in _words(leaf)]
    for index, words in enumerate(parts):
        position, stride = jnp.full_like(words, index * 0x85EBCA6B % 2**32), 1
        for axis in reversed(range(words.ndim)):
            along = jnp.arange(words.shape[axis], dtype=jnp.uint32) * jnp.uint32(stride % 2**32)
            position = position + along.reshape(-1, *[1] * (words.ndim - 1 - axis))
            stride *= words.shape[axis]
        total = total + jnp.sum(words * (position * jnp.uint32(_STRIDE) | jnp.uint32(1)), dtype=jnp.uint32)
    return total


def _words(leaf: jax.Array) -> list[jax.Array]:
    """Convert a leaf to arrays of uint32 with the same bits."""
    if jnp.iscomplexobj(leaf):
        return [*_words(leaf.real), *_words(leaf.imag)]
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
    if leaf.dtype.itemsize == 8:
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        return [words[..., 0], words[..., 1]]
    return [leaf.astype(jnp.uint32)]


def identity(structure: PyTree, numbers: jax.Array, arguments: dict[str, Any], key: Any, v0: Any) -> dict[str, Any]:
    """Describe a run by values that JSON can hold.

    Args:
        structure: structure of the operator's vectors.
        numbers: numbers of `sketch`.
        arguments: arguments by name, as JSON can hold them.
        key: typed key of the run, or None.
        v0: start vectors, or None.
    """
    devices = numbers.sharding.device_set
    seed = [int(word) for word in jax.device_get(seed_of(key))]
    start = None if v0 is None else checksum(jax.tree.map(jnp.asarray, v0))
    return {
        "arguments": arguments | {"key": seed, "v0": start},
        "structure": digest(describe(structure)),
        "sketch": [float(x) for x in jax.device_get(numbers)],
        "epsilon": float(jnp.finfo(tree.accumulation_dtype(structure)).eps),
        "devices": f"{len(devices)} x {next(iter(devices)).device_kind}, jax {jax.__version__}",
    }


def difference(before: Any, now: dict[str, Any]) -> str | None:
    """Describe in words the difference between two runs; None if they are the same run.

    Args:
        before: identity of the saved run, from `identity`; or any other value, if the record is damaged.
        now: identity of this run.
    """
    damaged = _damaged_part(before, now)
    if damaged is not None:
        return f"what is written down of it is damaged ({damaged})"
    kinds = [run["arguments"].get("estimator", "none, but k pairs") for run in (before, now)]
    if kinds[0] != kinds[1]:
        return f"its estimator is {kinds[0]}, where this call has {kinds[1]}"
    if before["arguments"] != now["arguments"]:
        names = [name for name in now["arguments"] if before["arguments"].get(name) != now["arguments"][name]]
        changes = [_describe_change(name, before["arguments"].get(name), now["arguments"][name]) for name in names]
        return ", ".join(changes) or "the arguments are those of another version"
    if before["structure"] != now["structure"]:
        return "its vectors had another structure (names, shapes or dtypes of leaves)"
    if not _is_same_product(before, now):
        return (
            "its matvec with a fixed vector gave another result: parameters, data or loss were others, or the "
            "operator is not the same at every call"
        )
    return None


def _damaged_part(before: Any, now: dict[str, Any]) -> str | None:
    """Return the first part whose type or length is not that of `identity`, in words; None if all are valid."""
    if not isinstance(before, dict):
        return f"it has the type {type(before).__name__}"
    for name, part in now.items():
        found: Any = before.get(name)
        if type(found) is not type(part):
            return f"{name} is missing" if name not in before else f"{name} has the type {type(found).__name__}"
        if isinstance(part, list) and not (len(found) == len(part) and all(map(_is_number, found))):
            return f"{name} does not hold {len(part)} numbers"
    return None


def _is_number(value: Any) -> bool:
    """Test if a value from JSON is a number that float64 can hold."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**53)


def _describe_change(name: str, before: Any, now: Any) -> str:
    return f"another {name}" if name in _CHECKSUMS else f"{name}={before!r}, where this call has {now!r}"


def _is_same_product(before: dict[str, Any], now: dict[str, Any]) -> bool:
    same_devices = before["devices"] == now["devices"]
    allowed = now["epsilon"] ** (_SAME_DEVICES if same_devices else _OTHER_DEVICES)
    old, new = before["sketch"], now["sketch"]
    if before["epsilon"] != now["epsilon"] or not all(map(math.isfinite, old + new)):
        return repr(old) == repr(new)  # NaN is equal to NaN here
    # In units of the norm of the matvec, the last number; the components of the fixed vectors are about 0.6.
    size = max(abs(old[-1]), abs(new[-1]))
    return all(abs(x - y) <= allowed * size for x, y in zip(old, new, strict=True))
