"""Options of a restarted solve."""

from typing import Any, NamedTuple

from eigenjax.vectors.storage import Storage


class SolveSpec(NamedTuple):
    """Checked options of a restarted solve; static, except for a floor."""

    k: int  # number of wanted pairs
    which: str  # one of ritz.WHICH; not used with a sigma
    interior: bool  # interior eigenvalues, the nearest to a sigma, are wanted
    verify: bool  # whether a missed-pair search follows convergence
    max_matvecs: int  # maximum number of matvecs
    storage: Storage = Storage()  # storage of the basis
    random_start: bool = True  # whether the start vectors are random, not given by the caller
    relative: bool = False  # tol is relative to the smallest wanted |eigenvalue|, not to the largest |Ritz value|
    floor: Any = None  # () all eigenvalues above it are wanted, k at most; array. None: the k most wanted
