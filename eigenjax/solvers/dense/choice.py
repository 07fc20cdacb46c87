"""Choice between a dense decomposition and a Krylov method."""

from collections.abc import Callable
from typing import Any, NamedTuple

from eigenjax.arguments import brief, plain_int, refuse
from eigenjax.vectors.placement import default_platform, spans_devices

# Options of the Krylov methods, with their defaults. Another value asks for a Krylov method.
_KRYLOV_OPTIONS = {
    "krylov_dim": None,
    "max_matvecs": None,
    "block_size": 1,
    "preconditioner": None,
    "basis": "device",
    "basis_dtype": None,
    "max_basis_bytes": None,
}
# Largest matrix that is decomposed on a TPU. Beyond it XLA uses another algorithm, which takes half a minute to
# compile: 34 s at n = 300 and 3 s at n = 100, where Krylov methods take 5 and 8 s.
_LARGEST_ON_TPU = 256


class DenseSolver(NamedTuple):
    """Dense counterpart of a solver."""

    is_small: Callable[[Any, int, dict[str, Any]], bool]  # (op, k, options) -> whether it is faster than the solver
    structures: Callable[[Any], Any]  # op -> the structures of its vectors
    solve: Callable[..., Any]  # (op, **options) -> result


def is_chosen(solver: DenseSolver, op: Any, options: dict[str, Any]) -> bool:
    """Return whether a call is answered by a dense decomposition.

    Args:
        solver: the dense counterpart of the solver called.
        op: the operator.
        options: all options of the call. `dense` decides if it is True or False; if it is None, a small operator on one
            device is decomposed, unless an option of the Krylov methods is given.

    Raises:
        TypeError: if `dense` is none of the three.
        ValueError: if it is True, and an option of the Krylov methods is given.
    """
    dense = options["dense"]
    if dense is not None and not isinstance(dense, bool):
        raise TypeError(f"dense={brief(dense)}: give True, False, or None, which decides by the size")
    given = {name: options[name] for name, usual in _KRYLOV_OPTIONS.items() if name in options}
    given = {name: value for name, value in given.items() if not _equal(value, _KRYLOV_OPTIONS[name])}
    if dense:
        refuse(given, "dense=True")
    if dense is not None:
        return dense
    return not given and is_small(solver, op, options)


def is_small(solver: DenseSolver, op: Any, options: dict[str, Any]) -> bool:
    """Return whether an operator on one device is so small that a dense decomposition is faster."""
    k, structures = plain_int(options["k"]), solver.structures(op)
    if not isinstance(k, int) or spans_devices(op, structures, options["v0"]):
        return False
    return solver.is_small(op, k, options)


def fits_accelerator(size: int) -> bool:
    """Return whether the default device decomposes a matrix of this size by a program that compiles in seconds.

    >>> fits_accelerator(10)
    True
    """
    return size <= _LARGEST_ON_TPU or default_platform() != "tpu"


def _equal(value: Any, usual: Any) -> bool:
    return value is usual or (type(value) is type(usual) and value == usual)
