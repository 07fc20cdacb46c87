"""Diagonal blocks of a curvature operator, one operator for each layer.

A layer consists of the leaves that share a parent, such as the kernel and the bias of one Dense layer. The blocks
between two layers are left out: together these operators are the block-diagonal part of A, an approximation of A.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from eigenjax.arguments import plain_int
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.parts.restriction import block
from eigenjax.operators.parts.selection import chosen, listed, paths_of
from eigenjax.vectors.tree import PyTree

By = int | Callable[[str], str | None] | Sequence[str | re.Pattern[str]] | None


@explained
def blocks(op: Any, by: By = None, *, like: PyTree = None) -> dict[str, LinearOperator]:
    """Return the diagonal blocks of an operator, one for each layer.

        A = [[A_11, A_12], [A_21, A_22]]    gives    {"layer 1": A_11, "layer 2": A_22}

    The cross terms A_12 are left out. Each block is A restricted to one layer, with the parameters of the others
    constant. Its eigenvalues lie between the extreme ones of A, so that the largest over all blocks is at most the
    largest of A.

    Args:
        op: A; an operator, matrix or callable, anything that `as_operator` accepts.
        by: how the paths of the leaves, such as "params/Dense_0/kernel", are grouped into layers. None: leaves with the
            same parent, named "params/Dense_0". An int d: leaves with the same first d parts ("params" for 1). A
            function of the path: leaves with the same returned name; None leaves a leaf out. A list of patterns: each
            leaf belongs to the first pattern that matches it, and leaves that match none are left out. A string pattern
            must match the whole path, and * stands for any characters; a compiled regular expression is searched for in
            the path.
        like: for a bare callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        A dict of operators by name, in the order of the leaves or of the patterns, each as made by `restrict`.

    Raises:
        ValueError: if a depth is less than one, a pattern matches nothing, or no leaf belongs to a block.
        TypeError: if `by` is none of the above.

    There is no single operator of all blocks: its matvec would cost one matvec per block, because one matvec of A does
    not separate A_11 v_1 from A_12 v_2.

    Example:
        >>> import eigenjax, jax.numpy as jnp
        >>> params = {"first": {"w": jnp.ones(2), "b": jnp.ones(())}, "second": {"w": jnp.ones(3)}}
        >>> loss = lambda p: jnp.sum(p["first"]["w"]) * p["first"]["b"] + jnp.sum(p["second"]["w"] ** 4)
        >>> print({name: layer.size for name, layer in blocks(eigenjax.hessian(loss, params)).items()})
        {'first': 3, 'second': 3}
        >>> print(eigenjax.to_dense(blocks(eigenjax.hessian(loss, params))["second"]).diagonal())
        [12. 12. 12.]
    """
    op = as_operator(op, like=like)
    return {name: block(op, mask) for name, mask in layers(op.structure, by).items()}


def layers(structure: PyTree, by: By = None) -> dict[str, tuple[bool, ...]]:
    """Return for each block which leaves belong to it, as booleans in the order of the leaves.

    Args:
        structure: pytree of arrays or shapes.
        by: None (leaves with the same parent), a depth, a function of the path, or a list of patterns.
    """
    if isinstance(by, list | tuple) and by and all(isinstance(one, str | re.Pattern) for one in by):
        names: list[str | None] = [_name(pattern) for pattern in by]
        owners = _first_matches(structure, by)
    else:
        owners = [_naming(by)(path) for path in paths_of(structure)]
        names = list(dict.fromkeys(owners))
    found = {name: tuple(owner == name for owner in owners) for name in names if name is not None and name in owners}
    if not found:
        raise ValueError(f"by={by!r} puts none of the leaves in a block; they are {listed(paths_of(structure))}")
    return found


def _naming(by: Any) -> Callable[[str], Any]:
    if by is None:
        return lambda path: path.rpartition("/")[0]
    by = plain_int(by)
    if isinstance(by, int) and not isinstance(by, bool):
        if by < 1:
            raise ValueError(f"by={by}: a depth is 1 (the first part of a path) or more")
        return lambda path: "/".join(path.split("/")[:by])
    if callable(by):
        return by
    raise TypeError(
        f"by={by!r}: give None (leaves with the same parent), a depth as an int, a function of the path, or a list of "
        "patterns that is not empty"
    )


def _first_matches(structure: PyTree, patterns: Sequence[str | re.Pattern[str]]) -> list[str | None]:
    owners: list[str | None] = [None] * len(paths_of(structure))
    for pattern in reversed(patterns):
        matches = chosen(structure, pattern)
        owners = [_name(pattern) if match else owner for match, owner in zip(matches, owners, strict=True)]
    return owners


def _name(pattern: str | re.Pattern[str]) -> str:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern
