"""Calls that do not fit a function's signature, and errors that lack its name: told in words of this library."""

import difflib
import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from eigenjax.arguments import shown

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
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_PACKAGE = __name__.partition(".")[0]
# The attribute of an error that keeps its message as it was raised.
_UNNAMED = "_eigenjax_message"


def explained(function: _Function) -> _Function:
    """Answer a call that does not fit a function's signature with the name that it uses.

    Args:
        function: a public function.

    Returns:
        The function, of the same signature. Its errors about unknown, missing or positional arguments name the
        remedy; keywords of SciPy and other libraries are translated. Errors that this package raises within begin
        with the function's name unless they hold it; those of the user's own functions stay as they are.

    >>> explained(lambda op, *, krylov_dim=None: op)(1, ncv=20)
    Traceback (most recent call last):
    ...
    TypeError: <lambda> got ncv=20: <lambda> calls it krylov_dim
    """
    own, inner = inspect.signature(function), named(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        check_call(function.__name__, own, args, options)
        return inner(*args, **options)

    return call  # type: ignore[return-value]


def named(function: _Function) -> _Function:
    """Let the errors that this package raises within a function begin with its name, unless they hold it."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except (TypeError, ValueError) as error:
            _name(function.__name__, error)
            raise

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


def _name(function: str, error: Exception) -> None:
    """Put the function's name before the message of an error that was raised in this package and lacks it.

    Where one public function calls another, the name is that of the outer one, which was called by the user.
    """
    if type(error) not in (TypeError, ValueError) or len(error.args) != 1:
        return
    if _raised_in(error.__traceback__).partition(".")[0] == _PACKAGE:
        message = unnamed(error)
        setattr(error, _UNNAMED, message)
        error.args = (message if function in message else f"{function}: {message}",)


def unnamed(error: Exception) -> str:
    """The message of an error without the name that `named` has put before it."""
    return getattr(error, _UNNAMED, str(error))


def _raised_in(traceback: TracebackType | None) -> str:
    """The module of the innermost frame."""
    module = ""
    while traceback is not None:
        module, traceback = traceback.tb_frame.f_globals.get("__name__", ""), traceback.tb_next
    return module


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
