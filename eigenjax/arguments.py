"""Validation of arguments before compilation; errors name the function, the argument, its value and the remedy."""

import operator
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Annotates an option that is an argument of a compiled program: Annotated[type, TRACED]. All others are static.
TRACED = "traced"
_NUMBERS = (int, float, complex, np.generic, np.ndarray, jax.Array)


def brief(value: Any) -> str:
    """Describe a value in a few words, for an error message.

    >>> brief("1e-3"), brief(jnp.ones((2, 3)))
    ("'1e-3'", 'an array float32[2,3]')
    """
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array {value.dtype}[{','.join(map(str, value.shape))}]"
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__


def check_number(
    function: str, name: str, value: Any, *, least: float | None = None, remedy: str, is_complex: bool = False
) -> None:
    """Raise an error unless a value is one real number; None passes.

    Args:
        function: name of the calling function.
        name: name of the argument.
        value: a Python or NumPy number or an array of shape (). Only shape and dtype of a traced value are checked.
        least: smallest allowed value; None allows all but NaN and Inf.
        remedy: text that describes a valid value.
        is_complex: a complex number is valid too; there is no smallest one.

    Raises:
        TypeError: if it is not a number, or is complex where a real one is needed.
        ValueError: if it is an array of a shape other than (), NaN or too small.

    >>> check_number("eigsh", "tol", -1.0, least=0, remedy="give a number from 0 up")
    Traceback (most recent call last):
    ...
    ValueError: eigsh got tol=-1.0: give a number from 0 up
    """
    if value is None:
        return
    message = f"{function} got {name}={brief(value)}: {remedy}"
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(message)
    dtype = jnp.result_type(value)
    kinds = (jnp.floating, jnp.integer, *((jnp.complexfloating,) if is_complex else ()))
    if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise TypeError(message)
    if jnp.shape(value) != ():
        raise ValueError(message)
    if isinstance(value, Tracer) or (isinstance(value, jax.Array) and not value.is_fully_addressable):
        return
    if is_complex:
        if not np.isfinite(jax.device_get(value)):
            raise ValueError(message)
        return
    number = float(jax.device_get(value))
    if np.isnan(number) or (number < least if least is not None else np.isinf(number)):
        raise ValueError(message)


_INTERVAL = "give interval=(low, high), two numbers with low <= high"


def check_interval(function: str, interval: Any) -> tuple[Any, Any]:
    """Return the ends of an interval; raise an error unless it is a pair of numbers in order, or traced.

    >>> check_interval("eigsh", (2.0, 1.0))
    Traceback (most recent call last):
    ...
    ValueError: eigsh got interval=(2.0, 1.0): give interval=(low, high), two numbers with low <= high
    """
    if isinstance(interval, jax.Array | np.ndarray) and interval.shape == (2,):
        interval = (interval[0], interval[1])
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise ValueError(f"{function} got interval={brief(interval)}: {_INTERVAL}")
    for end in interval:
        check_number(function, "interval", end, least=-np.inf, remedy=_INTERVAL)
    low, high = interval
    if not any(isinstance(end, Tracer) for end in interval) and low > high:
        raise ValueError(f"{function} got interval=({low}, {high}): {_INTERVAL}")
    return low, high


def check_key(key: Any) -> None:
    """Raise a TypeError unless a value is one typed key; `calls.explained` prepends the name of the function."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        given = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array) else brief(key)
        raise TypeError(f"got key={given}: give one typed key, such as key=jax.random.key(0)")


def check_int(
    function: str | None,
    name: str,
    value: Any,
    *,
    least: int | None = 1,
    wanted: str = "an int; it is static under jit",
    why: str = "",
) -> int:
    """Convert an integer, of Python or NumPy, to a Python int; raise an error for other values and small ones.

    Args:
        function: name of the calling function; None if `calls.named` prepends it to the message.
        name: name of the argument.
        value: the value.
        least: smallest allowed value; None allows all.
        wanted: remedy for a value that is not an integer.
        why: text behind the remedy for a value that is too small.

    Raises:
        TypeError: if it is not an integer, or is a bool.
        ValueError: if it is less than `least`.

    >>> check_int("eigsh", "block_size", np.int8(3))
    3
    >>> check_int("eigsh", "block_size", 0)
    Traceback (most recent call last):
    ...
    ValueError: eigsh got block_size=0: give 1 or more
    """
    if function and isinstance(value, Tracer):
        raise TypeError(static_remedy(function, name))
    number = plain_int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        prefix = f"{function} got {name}={brief(value)}" if function else f"{name}={value!r}"
        raise TypeError(f"{prefix}: give {wanted}")
    if least is not None and number < least:
        prefix = f"{function} got {name}={number}" if function else f"{name}={number}"
        raise ValueError(f"{prefix}: give {least} or more{why}")
    return number


def plain_int(value: Any) -> Any:
    """Convert an integer, such as NumPy's, to a Python int; return booleans, tracers and all other values unchanged.

    >>> plain_int(np.int8(3)), plain_int(True), plain_int(2.0), plain_int(None)
    (3, True, 2.0, None)
    """
    if isinstance(value, bool | type | Tracer) or not isinstance(value, SupportsIndex):
        return value
    try:
        return operator.index(value)
    except TypeError:  # an array that is not an integer
        return value


def static_remedy(function: str, name: str) -> str:
    """Return the error message for a traced argument that must be static."""
    return (
        f"{function} got a traced {name}, and must know it when the program is compiled: close over a Python value, or "
        f"name it in static_argnames, as in jax.jit({function}, static_argnames=({name!r},))"
    )


def check_choice(function: str, name: str, value: Any, choices: tuple[str, ...], *, elsewhere: str = "") -> None:
    """Raise an error unless a value is one of the choices; the message lists them, or the one that differs in case."""
    if isinstance(value, str) and value in choices:
        return
    prefix = f"{function} got {name}={brief(value)}"
    if not isinstance(value, str):
        raise TypeError(f"{prefix}: choose one of {', '.join(map(repr, choices))}")
    meant = [choice for choice in choices if choice.lower() == value.strip().lower()]
    if meant:
        raise ValueError(f"{prefix}: write {name}={meant[0]!r}")
    raise ValueError(f"{prefix}: choose one of {', '.join(map(repr, choices))}{elsewhere}")


def check_bool(function: str, name: str, value: Any) -> None:
    """Raise a TypeError unless a value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{function} got {name}={brief(value)}: give True or False")


def refuse(options: dict[str, Any], other: str) -> None:
    """Raise an error if an option is given that another one excludes."""
    described = lambda name, value: name if isinstance(value, jax.Array) else f"{name}={value!r}"
    given = [described(name, value) for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)} has no meaning with {other}: leave one of them out")


def on_device(value: Any) -> Any:
    """Move a Python or NumPy number to the device explicitly, because `jax.transfer_guard` forbids implicit moves."""
    return jax.device_put(value) if isinstance(value, int | float | complex | np.generic) else value


def check_arrays(function: str, name: str, value: Any, *, remedy: str) -> None:
    """Raise a TypeError unless a pytree holds at least one leaf, and all its leaves are arrays or numbers.

    >>> check_arrays("run", "v0", {"w": "ones"}, remedy="give a vector of the operator")
    Traceback (most recent call last):
    ...
    TypeError: run got v0['w']='ones', which is no array: give a vector of the operator
    """
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    if not leaves:
        raise TypeError(f"{function} got {name}={brief(value)}, which holds no arrays: {remedy}")
    for path, leaf in leaves:
        if not _is_numeric(leaf):
            leaf_name = name + jax.tree_util.keystr(path)
            raise TypeError(f"{function} got {leaf_name}={brief(leaf)}, which is no array: {remedy}")


def _is_numeric(leaf: Any) -> bool:
    try:
        dtype = np.asarray(leaf).dtype if not hasattr(leaf, "dtype") else leaf.dtype
    except (TypeError, ValueError):
        return False
    return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)
