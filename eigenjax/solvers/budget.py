"""Maximum number of matvecs of a restarted solve."""

from typing import Any

from eigenjax.arguments import check_int

# Default maximum of steps: this many for each vector of the basis, or for each dimension of a small operator.
_STEPS_PER_VECTOR = 100
_STEPS_PER_DIMENSION = 10
_SMALL = 1000


def checked_budget(max_matvecs: Any, krylov_dim: int, size: int, *, matvecs_per_step: int = 1) -> int:
    """Check the maximum number of matvecs; None gives the default.

    Raises:
        TypeError: if `max_matvecs` is not an int.
        ValueError: if it is negative.

    >>> checked_budget(None, 20, 100)
    2000
    """
    if max_matvecs is None:
        return matvecs_per_step * max(_STEPS_PER_VECTOR * krylov_dim, _STEPS_PER_DIMENSION * min(size, _SMALL))
    return check_int(None, "max_matvecs", max_matvecs, least=0, wanted="an int, or None; it is static under jit")
