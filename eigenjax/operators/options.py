"""Options that programs are compiled for."""

import operator
from typing import Any, SupportsIndex

from jax.core import Tracer


def plain_int(value: Any) -> Any:
    """An integer of any kind, such as NumPy's, as Python's; truth values, tracers and all else as they are.

    >>> import numpy as np
    >>> plain_int(np.int8(3)), plain_int(True), plain_int(2.0), plain_int(None)
    (3, True, 2.0, None)
    """
    if isinstance(value, bool | Tracer) or not isinstance(value, SupportsIndex):
        return value
    return operator.index(value)
