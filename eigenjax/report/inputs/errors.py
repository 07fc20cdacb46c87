"""Errors of the command line as one-line messages, and the check for missing packages."""

import importlib.util
import traceback

# The problem that needs no package beside JAX.
GENERATED = "eigenjax.report.inputs.generated:rings"


class ReportError(ValueError):
    """Error for a request that cannot be met: the message is one line and names the remedy."""


def require(*packages: str) -> None:
    """Raise an error if an optional package is missing.

    Args:
        *packages: import names of the packages.

    Raises:
        ReportError: names the missing packages and how to install them.

    Example:
        >>> require("json")
        >>> require("json", "no_such_package")
        Traceback (most recent call last):
        ...
        eigenjax.report.inputs.errors.ReportError: no_such_package is not installed: pip install "eigenjax[all]"
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        other = f", or use --problem {GENERATED}" if {"flax", "optax", "sklearn"} & set(missing) else ""
        raise ReportError(f'{" and ".join(missing)} {verb} not installed: pip install "eigenjax[all]"{other}')


def in_one_line(error: BaseException) -> str:
    r"""Format an exception as one line: its type, the first line of its message, and where it was raised.

    >>> in_one_line(ValueError("too short\nby far"))
    'ValueError: too short'
    """
    message = next((line for line in str(error).splitlines() if line.strip()), "")
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message.strip()}".rstrip(": ") + place
