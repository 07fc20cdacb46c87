"""Derivative of all eigenpairs in an interval: that of symmetric eigenpairs, for the places that hold a pair.

An empty place has the eigenvalue NaN and a zero vector; its cotangent is set to zero. In the formulas of `symmetric` it
has the eigenvalue of another pair (`systems.pairs`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_interval, on_device
from eigenjax.implicit import symmetric
from eigenjax.implicit.program import Method, square
from eigenjax.implicit.systems.pairs import Pairs, empty_places, pairs_of
from eigenjax.implicit.systems.tangents import is_zero
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.solvers.interval.eigsh import check_fixed


class Saved(NamedTuple):
    """Solution, for the derivative."""

    pairs: Pairs  # the pairs and their operator
    recycled: None  # there are no recycled Ritz pairs
    adjoint_tol: Any  # relative residual of the linear systems; None derives it from the pairs
    empty: jax.Array  # (k,) bool, the places without a pair


def _take(op: Any, options: dict[str, Any]) -> LinearOperator:
    check_fixed(options["which"], *(options[name] for name in ("sigma", "b", "inverse")))
    options["interval"] = tuple(map(on_device, check_interval("eigsh", options["interval"])))
    return square(op, options)


def _save(method: Method, op: LinearOperator, solved: WithRecycled[EigenResult], adjoint_tol: Any) -> Saved:
    pairs = pairs_of(op, solved.result, method.chosen)
    return Saved(pairs, None, adjoint_tol, empty_places(solved.result))


def _cotangent(method: Method, saved: Saved, cotangent: EigenResult) -> LinearOperator:
    def masked(leaf: Any) -> Any:
        if is_zero(leaf):
            return leaf
        return jnp.where(saved.empty.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf)

    values, vectors = (
        jax.tree.map(masked, x, is_leaf=is_zero) for x in (cotangent.eigenvalues, cotangent.eigenvectors)
    )
    cotangent = cotangent._replace(eigenvalues=values, eigenvectors=vectors)
    return symmetric.RULE.cotangent(method, saved, cotangent)


RULE = symmetric.RULE._replace(take=_take, save=_save, cotangent=_cotangent)
