"""Errors for calls that do not fit a function's signature, and function names for errors that lack them."""

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from eigenjax.arguments import brief

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Keywords of SciPy, ARPACK, PRIMME, KrylovKit, matfree and JAX, and the equivalent arguments here. The message names
# the first one that the function takes; if it takes none of them, the message is the text.
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
# Examples of values for missing arguments.
_EXAMPLES = {
    "key": ", a typed key such as key=jax.random.key(0)",
    "op": ", the operator, first",
    "k": ", the number of pairs",
    "f": ", the function of the eigenvalues, such as jnp.exp",
    "a": ", the matrix, first",
}
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_PACKAGE = __name__.partition(".")[0]
# Attribute of an error that holds its original message.
_UNNAMED = "_eigenjax_message"


def explained(function: _Function) -> _Function:
    """Wrap a function so that a call that does not fit its signature raises an error with the remedy.

    Args:
        function: a public function.

    Returns:
        The function, with the same signature. Errors about unknown, missing or positional arguments name the remedy;
        keywords of SciPy and other libraries are translated. Errors raised within this package begin with the
        function's name unless they contain it. Errors of the user's own functions stay unchanged.

    >>> explained(lambda op, *, krylov_dim=None: op)(1, ncv=20)
    Traceback (most recent call last):
    ...
    TypeError: <lambda> got ncv=20: <lambda> calls it krylov_dim
    """
    signature, inner = inspect.signature(function), named(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        check_call(function.__name__, signature, args, options)
        return inner(*args, **options)

    return call  # type: ignore[return-value]


def named(function: _Function) -> _Function:
    """Wrap a function so that errors raised within this package begin with its name, unless they contain it."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except (TypeError, ValueError) as error:
            _name(function.__name__, error)
            raise

    return call  # type: ignore[return-value]


def check_call(name: str, signature: inspect.Signature, args: tuple, options: dict[str, Any]) -> None:
    """Raise a TypeError that names the remedy unless a call fits a signature.

    Args:
        name: name of the function.
        signature: its signature.
        args: positional arguments of the call.
        options: keyword arguments of the call.

    Raises:
        TypeError: if an argument is unknown, missing, given twice, or keyword-only but given by position.
    """
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        raise TypeError(_misfit(name, signature, args, options) or f"{name}: {error}") from None


def _name(function: str, error: Exception) -> None:
    """Prepend the function's name to the message of an error that was raised in this package and lacks it.

    If one public function calls another, the name is that of the outer one, which the user called.
    """
    if type(error) not in (TypeError, ValueError) or len(error.args) != 1:
        return
    if _raised_in(error.__traceback__).partition(".")[0] == _PACKAGE:
        message = unnamed(error)
        setattr(error, _UNNAMED, message)
        error.args = (message if function in message else f"{function}: {message}",)


def unnamed(error: Exception) -> str:
    """Return the message of an error without the name that `named` prepended."""
    return getattr(error, _UNNAMED, str(error))


@contextlib.contextmanager
def prefixed(words: str) -> Iterator[None]:
    """Prefix the message of a TypeError or ValueError raised inside, for example with the called function's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # An exception subclass may not be constructible from a message alone, so it passes unchanged.
        if type(error) not in (TypeError, ValueError) or str(error).startswith(words):
            raise
        raise type(error)(f"{words}: {unnamed(error)}") from error


def _raised_in(traceback: TracebackType | None) -> str:
    """Return the module name of the innermost frame."""
    module = ""
    while traceback is not None:
        module, traceback = traceback.tb_frame.f_globals.get("__name__", ""), traceback.tb_next
    return module


def _misfit(name: str, signature: inspect.Signature, args: tuple, options: dict[str, Any]) -> str | None:
    parameters = signature.parameters
    for given, value in options.items():
        if given not in parameters:
            return f"{name} got {given}={brief(value)}: {_translation(name, signature, given)}"
    by_position = [key for key, parameter in parameters.items() if parameter.kind in _POSITIONAL]
    if len(args) > len(by_position):
        return _too_many(name, signature, by_position, args)
    twice = [key for key in by_position[: len(args)] if key in options]
    if twice:
        return f"{name} got {twice[0]} by position and by name: give it once"
    present = {*by_position[: len(args)], *options}
    missing = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [key for key in missing if key not in present]
    return f"{name} needs {missing[0]}{_EXAMPLES.get(missing[0], '')}: give {missing[0]}=..." if missing else None


def _translation(name: str, signature: inspect.Signature, given: str) -> str:
    targets, otherwise = _TRANSLATED.get(given, ((), ""))
    for target in targets:
        if target in signature.parameters:
            return f"{name} calls it {target}"
    if otherwise:
        return otherwise
    lowered = {key.lower(): key for key in signature.parameters}
    close = difflib.get_close_matches(given.lower(), lowered, n=1, cutoff=0.75)
    if close:
        return f"did you mean {lowered[close[0]]}?"
    return f"{name} takes {', '.join(signature.parameters)}"


def _too_many(name: str, signature: inspect.Signature, by_position: list[str], args: tuple) -> str:
    value = args[len(by_position)]
    named = [key for key in signature.parameters if key not in by_position]
    guess = "which" if isinstance(value, str) and "which" in named else named[0] if len(named) == 1 else None
    remedy = f"write {guess}={brief(value)}" if guess else f"name the others: {', '.join(f'{key}=' for key in named)}"
    return f"{name} takes ({', '.join(by_position)}) by position and got {brief(value)} as well: {remedy}"
