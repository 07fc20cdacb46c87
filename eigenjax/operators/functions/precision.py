"""Precision in which an operator computes its matvecs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.functions.closure import TracedFunction

# Products of fewer than 16 bits count as 16-bit ones: their scale factors make up for some of the rounding.
_LARGEST_UNIT = float(jnp.finfo(jnp.bfloat16).eps)


def rounding_unit(op: Any) -> float:
    """Return the machine epsilon of a matvec: that of the narrowest leaf, or of the narrowest matrix product in a loss.

    >>> from eigenjax import hessian
    >>> half = lambda weights, x: jnp.sum((x.astype(jnp.bfloat16) @ weights.astype(jnp.bfloat16)) ** 2)
    >>> rounding_unit(hessian(half, jnp.ones(3), jnp.ones((2, 3))))
    0.0078125
    """
    products = (min(program.product_eps, _LARGEST_UNIT) for program in _programs(op))
    # An operator without its matvec, or over data on the host, has the number as an attribute.
    return max(unit_of_leaves(op.structure), getattr(op, "unit", 0.0), *products)


def unit_of_leaves(structure: Any) -> float:
    """Return the machine epsilon of the narrowest leaf of a vector."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(structure))


def _programs(op: Any) -> list[TracedFunction]:
    """Collect the traced functions in the static fields of an operator and of its parts."""
    found: list[TracedFunction] = []

    def visit(node: Any) -> bool:
        if dataclasses.is_dataclass(node):
            for field in dataclasses.fields(node):
                value = getattr(node, field.name) if field.metadata.get("static") else ()
                parts = value if isinstance(value, tuple) else (value,)
                found.extend(part for part in parts if isinstance(part, TracedFunction))
        return False

    jax.tree.leaves(op, is_leaf=visit)
    return found
