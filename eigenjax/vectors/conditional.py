"""Conditional computation that stays conditional under vmap."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def apply_when(predicate: jax.Array, function: Callable[[Any], Any], operand: Any) -> Any:
    """Return `function(operand)` if the () predicate holds, else the operand.

    A `lax.cond` with a batched predicate computes both branches at every step. This loop of at most one iteration is
    skipped if no member of the batch needs it. It has no reverse-mode derivative, which no solver needs.

    >>> print(jax.jit(apply_when, static_argnums=1)(True, lambda x: x + 1, 1))
    2
    """
    _, result = jax.lax.while_loop(
        lambda carry: carry[0],
        lambda carry: (jnp.zeros_like(carry[0]), function(carry[1])),
        (jnp.asarray(predicate, bool), operand),
    )
    return result
