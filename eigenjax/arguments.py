"""Checks of arguments: the function, the argument, what was given and the remedy, told before anything is compiled."""

import difflib
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, SupportsIndex, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Keywords of SciPy, ARPACK, PRIMME, KrylovKit, matfree and JAX, and the arguments here that do the same. The first one
# that a function has is named; where it has none of them, the text says what to do.
_TRANSLATED: dict[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(("A", "a", "M1", "matrix", "matvec", "operator", "mv", "fun"), (("op", "a"), "")),
    **dict.fromkeys(("n_components", "nev", "num_eigenvalues", "num_pairs", "howmany", "numEvals"), (("k",), "")),
    **dict.fromkeys(
        ("ncv", "krylovdim", "maxBasisSize", "m", "num_steps", "order"),
        (("krylov_dim",), "leave it out: no basis is chosen here"),
    ),
    **dict.fromkeys(
        ("maxiter", "max_iters", "maxiters", "num_iters", "maxMatvecs", "max_restarts", "maxfun", "max_steps"),
        (("max_iter", "max_matvecs", "num_matvecs"), "leave it out: nothing iterates here"),
    ),
    **dict.fromkeys(("max_iter",), (("max_matvecs", "num_matvecs"), "leave it out: nothing iterates here")),
    **dict.fromkeys(("max_matvecs",), (("max_iter", "num_matvecs"), "leave it out: the number of matvecs is fixed")),
    **dict.fromkeys(("eps", "rtol", "tolerance", "Tol"), (("tol", "degeneracy_tol"), "leave it out")),
    **dict.fromkeys(("abstol", "absolute_tolerance"), (("atol", "tol"), "leave it out")),
    **dict.fromkeys(
        ("x0", "X", "X0", "Vinit", "initial_guess", "v_init"), (("v0",), "leave it out: nothing starts from a vector")
    ),
    **dict.fromkeys(
        ("random_state", "rng", "seed", "prng", "prng_key", "rng_key", "random_seed"),
        (("key",), "leave it out: nothing is random here"),
    ),
    **dict.fromkeys(("M", "B"), (("b",), "leave it out: no mass matrix is taken; of small matrices call eigh(a, b)")),
    "Minv": ((), "leave it out: only matvecs with the operators given are used"),
    "OPinv": (("inverse",), "leave it out: sigma needs matvecs only, no inverse"),
    "mode": ((), "leave it out: sigma=... gives the eigenvalues nearest to it"),
    "return_eigenvectors": ((), "leave it out: the eigenvectors are always returned, in result.eigenvectors"),
    "eigvals_only": ((), "leave it out and take [0]: the eigenvectors cost no more"),
    "return_singular_vectors": ((), "leave it out: the vectors are always returned, in result.left and result.right"),
    "compute_uv": ((), "leave it out: the singular vectors are always returned"),
    "solver": ((), "leave it out: call eigsh, lanczos, deflated_power_iteration, eigs or svds for a method"),
    "method": ((), "leave it out: call eigsh, lanczos, deflated_power_iteration, eigs or svds for a method"),
    "alg": ((), "leave it out: call eigsh, lanczos, deflated_power_iteration, eigs or svds for a method"),
    "largest": (("which",), "leave it out"),
    "ritz": (("which",), "leave it out"),
    "end": (("which",), "leave it out"),
    "sigma0": (("sigma",), "leave it out"),
    "shift": (("sigma",), "subtract it from the operator: op.shift(sigma)"),
    "target": (("sigma",), "leave it out"),
    "targetShifts": (("sigma",), "leave it out"),
    "maxBlockSize": (("block_size",), "leave it out"),
    "blocksize": (("block_size",), "leave it out"),
    "block": (("block_size",), "leave it out"),
    "precond": (("preconditioner",), "leave it out"),
    "prec": (("preconditioner",), "leave it out"),
    "reortho": (("reorthogonalize",), "leave it out: the basis is reorthogonalized in full"),
    "orth": (("reorthogonalize",), "leave it out: the basis is reorthogonalized in full"),
    "lock": (("verify",), "leave it out"),
    "custom_vjp": (("derivative",), "leave it out: the derivative is built in"),
    "dtype": ((), "leave it out: the operator's dtype is used; cast the operator"),
    "verbosity": ((), "leave it out: nothing is printed; result.status and result.residuals say how it went"),
    "verbose": ((), "leave it out: nothing is printed; result.status and result.residuals say how it went"),
    "callback": ((), "leave it out: eigenjax.run shows progress on the host"),
    **dict.fromkeys(("num_samples", "n_samples", "samples", "num_vectors"), (("num_probes", "num_matvecs"), "")),
    **dict.fromkeys(("num_vecs", "n_vec", "nvec"), (("num_probes", "num_matvecs"), "")),
    "num_probes": (("num_matvecs",), "leave it out"),
    **dict.fromkeys(("function", "func", "fn", "matfun"), (("f",), "leave it out")),
    **dict.fromkeys(("UPLO", "lower", "symmetrize_input"), ((), "leave it out: the Hermitian part of a is decomposed")),
    **dict.fromkeys(
        ("subset_by_index", "subset_by_value", "eigvals"),
        ((), "leave it out: all pairs are computed; eigsh computes a few"),
    ),
    **dict.fromkeys(("left", "right"), ((), "leave it out: left_eigenvectors gives the left ones of eigs")),
    "full_matrices": ((), "leave it out: the thin factors are returned"),
    "hermitian": ((), "leave it out: call eigh"),
}
# What to write where an argument is missing and nobody can guess it.
_EXAMPLES = {
    "key": ", a typed key such as key=jax.random.key(0)",
    "op": ", the operator, first",
    "k": ", the number of pairs",
    "f": ", the function of the eigenvalues, such as jnp.exp",
    "a": ", the matrix, first",
}
_NUMBERS = (int, float, complex, np.generic, np.ndarray, jax.Array)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def explained(function: _Function) -> _Function:
    """Answer a call that does not fit a function's signature with the name that it uses.

    Args:
        function: a public function.

    Returns:
        The function, of the same signature. Its errors about unknown, missing or positional arguments name the
        remedy; keywords of SciPy and other libraries are translated.

    >>> explained(lambda op, *, krylov_dim=None: op)(1, ncv=20)
    Traceback (most recent call last):
    ...
    TypeError: <lambda> got ncv=20: <lambda> calls it krylov_dim
    """
    own = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        check_call(function.__name__, own, args, options)
        return function(*args, **options)

    return call  # type: ignore[return-value]


def check_call(name: str, own: inspect.Signature, args: tuple, options: dict[str, Any]) -> None:
    """Raise a TypeError that names the remedy unless a call fits a signature.

    Args:
        name: the function's.
        own: its signature.
        args: of the call.
        options: its keywords.

    Raises:
        TypeError: if an argument is unknown, missing, given twice, or given by position and taken by name only.
    """
    try:
        own.bind(*args, **options)
    except TypeError as error:
        raise TypeError(_misfit(name, own, args, options) or f"{name}: {error}") from None


def shown(value: Any) -> str:
    """What was given, in a few words.

    >>> shown("1e-3"), shown(jnp.ones((2, 3)))
    ("'1e-3'", 'an array float32[2,3]')
    """
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array {value.dtype}[{','.join(map(str, value.shape))}]"
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__


def check_number(function: str, name: str, value: Any, *, least: float | None = None, remedy: str) -> None:
    """Raise an error unless a value is one real number; None passes.

    Args:
        function: who asks.
        name: the argument.
        value: a Python or NumPy number or an array of shape (). Of traced ones shape and dtype are checked.
        least: the smallest value allowed; None allows all that are finite.
        remedy: what to give instead.

    Raises:
        TypeError: if it is no number, or complex.
        ValueError: if it is an array of another shape than (), NaN or too small.

    >>> check_number("eigsh", "tol", -1.0, least=0, remedy="give a number from 0 up")
    Traceback (most recent call last):
    ...
    ValueError: eigsh got tol=-1.0: give a number from 0 up
    """
    if value is None:
        return
    told = f"{function} got {name}={shown(value)}: {remedy}"
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(told)
    dtype = jnp.result_type(value)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(told)
    if jnp.shape(value) != ():
        raise ValueError(told)
    if isinstance(value, Tracer) or (isinstance(value, jax.Array) and not value.is_fully_addressable):
        return
    number = float(jax.device_get(value))
    if np.isnan(number) or (number < least if least is not None else np.isinf(number)):
        raise ValueError(told)


def check_int(function: str, name: str, value: Any, *, least: int = 1, why: str = "") -> None:
    """Raise an error unless a value is an integer, of Python or NumPy, from `least` up."""
    if isinstance(value, Tracer):
        raise TypeError(static_remedy(function, name))
    value = plain_int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{function} got {name}={shown(value)}: give an int; it is static under jit")
    if value < least:
        raise ValueError(f"{function} got {name}={value}: give {least} or more{why}")


def plain_int(value: Any) -> Any:
    """An integer of any kind, such as NumPy's, as Python's; truth values, tracers and all else as they are.

    >>> plain_int(np.int8(3)), plain_int(True), plain_int(2.0), plain_int(None)
    (3, True, 2.0, None)
    """
    if isinstance(value, bool | type | Tracer) or not isinstance(value, SupportsIndex):
        return value
    try:
        return operator.index(value)
    except TypeError:  # an array that is no integer
        return value


def static_remedy(function: str, name: str) -> str:
    """The text for a traced argument that shapes depend on."""
    return (
        f"{function} got a traced {name}, and must know it when the program is compiled: close over a Python value, or "
        f"name it in static_argnames, as in jax.jit({function}, static_argnames=({name!r},))"
    )


def check_choice(function: str, name: str, value: Any, choices: tuple[str, ...], *, elsewhere: str = "") -> None:
    """Raise an error that lists the choices, and names the one meant where only the case differs."""
    if isinstance(value, str) and value in choices:
        return
    told = f"{function} got {name}={shown(value)}"
    if not isinstance(value, str):
        raise TypeError(f"{told}: choose one of {', '.join(map(repr, choices))}")
    meant = [choice for choice in choices if choice.lower() == value.strip().lower()]
    if meant:
        raise ValueError(f"{told}: write {name}={meant[0]!r}")
    raise ValueError(f"{told}: choose one of {', '.join(map(repr, choices))}{elsewhere}")


def check_bool(function: str, name: str, value: Any) -> None:
    """Raise a TypeError unless a value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{function} got {name}={shown(value)}: give True or False")


def on_device(value: Any) -> Any:
    """A Python or NumPy number as an array, moved explicitly: `jax.transfer_guard` forbids what is implicit."""
    return jax.device_put(value) if isinstance(value, int | float | complex | np.generic) else value


def _misfit(name: str, own: inspect.Signature, args: tuple, options: dict[str, Any]) -> str | None:
    parameters = own.parameters
    for given, value in options.items():
        if given not in parameters:
            return f"{name} got {given}={shown(value)}: {_translation(name, own, given)}"
    by_position = [key for key, parameter in parameters.items() if parameter.kind in _POSITIONAL]
    if len(args) > len(by_position):
        return _too_many(name, own, by_position, args)
    twice = [key for key in by_position[: len(args)] if key in options]
    if twice:
        return f"{name} got {twice[0]} by position and by name: give it once"
    present = {*by_position[: len(args)], *options}
    missing = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [key for key in missing if key not in present]
    return f"{name} needs {missing[0]}{_EXAMPLES.get(missing[0], '')}: give {missing[0]}=..." if missing else None


def _translation(name: str, own: inspect.Signature, given: str) -> str:
    targets, otherwise = _TRANSLATED.get(given, ((), ""))
    for target in targets:
        if target in own.parameters:
            return f"{name} calls it {target}"
    if otherwise:
        return otherwise
    lowered = {key.lower(): key for key in own.parameters}
    close = difflib.get_close_matches(given.lower(), lowered, n=1, cutoff=0.75)
    if close:
        return f"did you mean {lowered[close[0]]}?"
    return f"{name} takes {', '.join(own.parameters)}"


def _too_many(name: str, own: inspect.Signature, by_position: list[str], args: tuple) -> str:
    value = args[len(by_position)]
    named = [key for key in own.parameters if key not in by_position]
    guess = "which" if isinstance(value, str) and "which" in named else named[0] if len(named) == 1 else None
    remedy = f"write {guess}={shown(value)}" if guess else f"name the others: {', '.join(f'{key}=' for key in named)}"
    return f"{name} takes ({', '.join(by_position)}) by position and got {shown(value)} as well: {remedy}"
