"""What a restarted solve is asked for."""

from typing import NamedTuple

from eigenjax.vectors.storage import Storage


class Goal(NamedTuple):
    """What is asked for; static."""

    k: int
    which: str  # of ritz.WHICH; not looked at where there is a sigma
    near: bool  # whether there is a sigma
    verify: bool
    max_matvecs: int
    kept: Storage = Storage()  # how the basis is
    random_start: bool = True  # whether nobody has chosen the start vectors
