"""Work that is done only when it is needed, under vmap too."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def apply_when(predicate: jax.Array, function: Callable[[Any], Any], operand: Any) -> Any:
    """`function(operand)` if the () predicate holds, else the operand.

    A `lax.cond` with a batched predicate computes both sides at every step; a loop of at most one turn is left alone
    as long as no member of the batch needs it. Not differentiable in reverse, which no solver has to be.

    >>> print(jax.jit(apply_when, static_argnums=1)(True, lambda x: x + 1, 1))
    2
    """
    _, result = jax.lax.while_loop(
        lambda carry: carry[0],
        lambda carry: (jnp.zeros_like(carry[0]), function(carry[1])),
        (jnp.asarray(predicate, bool), operand),
    )
    return result
