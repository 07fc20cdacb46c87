"""What a run refuses, and what it could not keep."""

import importlib.util

from eigenjax.result import EigenResult


class RunError(RuntimeError):
    """A run that was refused, or whose result could not be kept: the message names the reason and the remedy.

    `result` is the result of a run that came to its end and could save nothing, else None.
    """

    def __init__(self, message: str, result: EigenResult | None = None):
        super().__init__(message)
        self.result = result


def require_checkpoints() -> None:
    """Raises an ImportError that names the extra where Orbax is missing."""
    if importlib.util.find_spec("orbax") is None:
        raise ImportError(
            'checkpoint_dir= needs Orbax, which is not installed: pip install "eigenjax[checkpoints]", or leave '
            "checkpoint_dir out and run without checkpoints"
        )
