"""Cotangent of an operator from a sum of bilinear forms between two Krylov spaces.

    sum_ab G_ab <W_b, dA V_a>  =  sum_k s_k <W r_k, dA V l_k>,    G = sum_k s_k l_k r_k^H

The singular values s_k of the derivative of a smooth function fall like a geometric series or faster. Each of those
above rounding costs one product with the adjoint of dA, the matvec's transpose in the parameters of the operator.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.operators.base import conjugated, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Singular values below this times eps times the largest are rounding.
_ROUNDING = 1.0


def add_terms(
    floating: list[jax.Array],
    rebuild: Callable[[list[jax.Array]], Any],
    total: list[jax.Array],
    coefficients: jax.Array,
    of_v: PyTree,
    of_w: PyTree,
) -> list[jax.Array]:
    """Add the sum to the cotangents of an operator's leaves, term by term.

    Args:
        floating: floating-point leaves of the operator, as `floating_leaves` returns them.
        rebuild: function that builds the operator from such leaves.
        total: cotangents so far.
        coefficients: (m, m) G, its rows for V.
        of_v: (m, ...) V.
        of_w: (m, ...) W.
    """
    left, sizes, right = jnp.linalg.svd(coefficients)
    least = _ROUNDING * jnp.finfo(sizes.dtype).eps * sizes[0]
    m = sizes.shape[0]

    def add(carry):
        k, total = carry
        along = tree.combine(left[:, k], of_v)
        beside = tree.combine(jnp.conj(right[k]), of_w)
        _, pull = jax.vjp(lambda leaves: matvec(rebuild(leaves), along), floating)
        (terms,) = pull(tree.scale(sizes[k], conjugated(beside)))
        return k + 1, jax.tree.map(jnp.add, total, terms)

    is_counted = lambda carry: (carry[0] < m) & (sizes[jnp.minimum(carry[0], m - 1)] > least)
    return jax.lax.while_loop(is_counted, add, (jnp.int32(0), total))[1]


def floating_leaves(x: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Return the floating-point leaves of a pytree, and a function that builds the pytree from such leaves."""
    leaves, treedef = jax.tree.flatten(x)
    is_floating = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

    def rebuild(floating):
        new = iter(floating)
        return jax.tree.unflatten(
            treedef, [next(new) if yes else leaf for leaf, yes in zip(leaves, is_floating, strict=True)]
        )

    return [jnp.asarray(leaf) for leaf, yes in zip(leaves, is_floating, strict=True) if yes], rebuild


def cotangent_of(x: Any, floating: list[jax.Array]) -> Any:
    """Return the cotangent of a pytree from those of its floating-point leaves, with float0 zeros for the others."""
    new = iter(floating)
    zero = lambda leaf: np.zeros(jnp.shape(leaf), jax.dtypes.float0)
    is_floating = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    return jax.tree.map(lambda leaf: next(new) if is_floating(leaf) else zero(leaf), x)
