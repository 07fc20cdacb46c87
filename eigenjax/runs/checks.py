"""Checks of the arguments of a run, a stream and an estimate, before any work."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from eigenjax import arguments
from eigenjax.arguments import check_arrays
from eigenjax.calls import prefixed
from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.curvature.means import mistake_of
from eigenjax.result import RunError
from eigenjax.runs import fingerprint
from eigenjax.vectors.tree import PyTree

_TOL = "give a number from 0 up, or None for the square root of the rounding"
_SIGMA = "give one real number; the eigenvalues nearest to it are found"
_ON_HOST = "is a loop on the host, and cannot be traced (by jit, vmap, grad, ...): call it outside, or call"


def operator_for(function: str, op: Any, like: PyTree) -> LinearOperator:
    """Convert an argument to an operator; errors name the function."""
    with prefixed(function):
        return as_operator(op, like=like)


def check_outside(function: str, *values: Any) -> None:
    """Raise a TypeError under jit and other transformations.

    >>> jax.jit(lambda x: check_outside("run"))(1.0)
    Traceback (most recent call last):
    ...
    TypeError: run is a loop on the host, and cannot be traced ...
    """
    # While a program is traced, every number computed in it is a tracer.
    here = _zero()
    if any(isinstance(leaf, Tracer) for leaf in [here, *jax.tree.leaves(values)]):
        raise TypeError(f"{function} {_ON_HOST} eigsh(op, k) there, with an operator on data in memory")


@jax.jit
def _zero() -> jax.Array:
    """Return a number from a compiled program, so that nothing is moved to the device implicitly."""
    return jnp.float32(0)


def check_concrete(function: str, op: Any) -> None:
    """Raise a TypeError for an operator that holds only shapes."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(op)):
        raise TypeError(
            f"{function} got an operator of shapes without numbers: give arrays; estimate(op, k) takes shapes"
        )


def check_solve(
    function: str, k: Any, size: int, which: Any, block_size: Any, krylov_dim: Any, max_matvecs: Any
) -> None:
    """Raise an error unless the static options are valid for a solve."""
    ritz.check_count(k, size, function)
    arguments.check_choice(function, "which", which, (*ritz.WHICH, "SM"))
    arguments.check_int(function, "block_size", block_size)
    for name, value in (("krylov_dim", krylov_dim), ("max_matvecs", max_matvecs)):
        if value is not None:
            arguments.check_int(function, name, value)


def check_numbers(function: str, which: str, tol: Any, sigma: Any, v0: Any, key: Any) -> None:
    """Raise an error unless tolerance, shift, start vectors and key are valid for a solve."""
    arguments.check_number(function, "tol", tol, least=0.0, remedy=_TOL)
    arguments.check_number(function, "sigma", sigma, remedy=_SIGMA)
    if sigma is not None and which != "LA":
        raise ValueError(
            f"{function} got which={which!r} and sigma={arguments.brief(sigma)}: the eigenvalues nearest to sigma are "
            "found, whatever their side; leave one of them out"
        )
    if v0 is not None:
        check_arrays(function, "v0", v0, remedy="give a vector of the operator, k of them, or a result")
    if key is not None and not isinstance(key, jax.Array):
        raise TypeError(f"{function} got key={arguments.brief(key)}: give a typed key, such as jax.random.key(0)")


def checked_directory(checkpoint_dir: Any) -> pathlib.Path | None:
    """Convert an argument to the path of a directory; None stays None."""
    if checkpoint_dir is None:
        return None
    message = f"run got checkpoint_dir={arguments.brief(checkpoint_dir)}: give the path of a directory, or None"
    path = os.fspath(checkpoint_dir) if isinstance(checkpoint_dir, str | os.PathLike) else None
    if not isinstance(path, str):
        raise TypeError(message)
    if not path or "\0" in path:
        raise ValueError(message)
    return pathlib.Path(path)


def check_same_run(path: pathlib.Path, saved: Any, identity: dict[str, Any]) -> None:
    """Raise a RunError if a directory holds another run than that of the identity."""
    difference = fingerprint.difference(saved, identity)
    if difference is not None:
        raise RunError(
            f"run: checkpoint_dir={str(path)!r} holds another run: {difference}. Repeat the call that began it, or "
            "give another directory"
        )


def check_saved(path: pathlib.Path, nothing_saved: bool, result: Any) -> None:
    """Raise a RunError with the result if not one checkpoint could be written."""
    if nothing_saved:
        raise RunError(
            f"the run has ended, and not one checkpoint could be written to {str(path)!r}: the result is in this "
            "exception, as .result",
            result,
        )


def check_batches(batches: Any) -> None:
    """Raise a TypeError for an iterable that is no source of batches: a path, a mapping, or one array."""
    prefix = f"stream got batches={arguments.brief(batches)}"
    if isinstance(batches, str | bytes | os.PathLike):
        raise TypeError(f"{prefix}: give memory_mapped_batches(path, batch_size) for arrays on disk")
    if isinstance(batches, Mapping) or (hasattr(batches, "shape") and hasattr(batches, "dtype")):
        raise TypeError(
            f"{prefix}, which is one batch: give a list of batches, or memory_mapped_batches(arrays, batch_size)"
        )


def check_stream(loss: Any, batches: Any, weight: Any, sharding: Any) -> None:
    """Raise a TypeError unless the arguments of a stream have valid types."""
    if not callable(loss):
        raise TypeError(
            f"stream got loss={arguments.brief(loss)}: give loss(params, batch) or curvature(params, batch), then "
            "params, then batches"
        )
    check_batches(batches)
    if weight is not None and not callable(weight):
        raise TypeError(f"stream got weight={arguments.brief(weight)}: give weight(batch) -> float, or None")
    if not all(isinstance(one, jax.sharding.Sharding) for one in jax.tree.leaves(sharding)):
        raise TypeError(f"stream got sharding={arguments.brief(sharding)}: give a jax.sharding.Sharding, or None")


def check_params(params: Any) -> None:
    """Raise a TypeError for parameters that are neither a pytree of arrays nor a module."""
    if params is None or isinstance(params, str | bytes):
        raise TypeError(
            f"stream got params={arguments.brief(params)}: give a pytree of arrays, the parameters of the loss"
        )


def check_trees(params: Any, batch: Any) -> None:
    """Raise a TypeError unless parameters and first batch are pytrees of arrays, and the parameters are not traced."""
    check_arrays("stream", "params", params, remedy="give a pytree of arrays, the parameters of the loss")
    remedy = "give batches that are pytrees of arrays of numbers"
    check_arrays("stream", "the first batch", batch, remedy=remedy)
    check_outside("stream", params)


def checked_weight(weight: Any) -> float:
    """Convert the weight of a batch to a float.

    >>> checked_weight("much")
    Traceback (most recent call last):
    ...
    TypeError: stream got weight(batch)='much': give one number from 0 up
    """
    remedy = "give one number from 0 up"
    if weight is None:
        raise TypeError(f"stream got weight(batch)=None: {remedy}")
    arguments.check_number("stream", "weight(batch)", weight, least=0.0, remedy=remedy)
    number = float(weight)
    if number == float("inf"):
        raise ValueError(f"stream got weight(batch)=inf: {remedy}")
    return number


def check_mean(loss: Any, params: PyTree, batches: Any, first: PyTree) -> None:
    """Raise a ValueError for a loss that is a sum over the examples of a batch; for a single batch it is allowed."""
    is_alone = hasattr(batches, "__len__") and len(batches) == 1
    if not is_alone and mistake_of(loss, params, jax.tree.map(jnp.asarray, first)) == "sum":
        raise ValueError(
            "stream: loss(params, batch) is a sum over examples: on a few of them it is the sum, not the mean, of its "
            "values on their halves. Batches are averaged by their numbers of examples: use jnp.mean, or give "
            "weight= if this is meant"
        )
