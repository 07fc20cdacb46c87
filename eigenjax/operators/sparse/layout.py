"""Arrangement of the entries of a sparse matrix in groups of padded rows.

    rows of about equal length:  numbers (w, r), columns (w, r);    (A x)_r = sum_w numbers[w, r] x[columns[w, r]]

Rows are sorted by their length and cut into groups of similar length; within a group they are padded to the longest. A
product is then a few gathers and sums, without a scatter. (On a CPU of two cores, n = 10^6, float32: 2 ms for a
five-point stencil and 31 ms for a power-law graph of 10^7 entries. SciPy's CSR takes 6 and 48 ms on one core, JAX's
BCOO 35 and 93 ms.)

The arrangement is computed with NumPy, from places that are known when an operator is built.

Source: Monakov, Lokhmotov and Avetisyan (2010), Automatically tuning sparse matrix-vector multiplication for GPUs
(sliced ELLPACK).
"""

from typing import NamedTuple

import numpy as np

# The rows of a group are at most this much longer than its shortest one. (At 1.5 there are 40% fewer groups to compile,
# 28% of padding in place of 13%, and a product of a random graph takes 1.7 times as long.)
_LONGEST = 1.3
# All rows stay in one group, and in their order, if padding adds at most this share of entries.
_ONE_GROUP = 1.3
# Longer rows are stored one after another, and summed by a loop.
_LONG_ROW = 32


class Group(NamedTuple):
    """Rows of similar length."""

    sources: np.ndarray  # (w, r) int32 positions of the entries; of padding the number of entries. (r, w) if long
    columns: np.ndarray  # (w, r) int32 columns of the entries; (r, w) if long
    is_long: bool  # whether the rows are stored one after another


class Layout(NamedTuple):
    """Arrangement of all entries."""

    groups: list[Group]
    places: np.ndarray | None  # (p,) int32 position of each row in the sequence of the groups; None if it is its own


def arranged(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Layout:
    """Arrange entries in groups of padded rows; entries outside of the shape, JAX's padding, are dropped.

    Args:
        rows: (nnz,) row of each entry, in any order; repeated places are summed by products.
        columns: (nnz,) column of each entry.
        shape: (p, n).

    >>> layout = arranged(np.array([0, 1, 1]), np.array([1, 0, 1]), (2, 2))
    >>> print(layout.groups[0].sources.tolist(), layout.places)
    [[0]] None
    """
    count = len(rows)
    sources = order_by_rows(rows, columns, shape)
    lengths = np.bincount(rows[sources], minlength=shape[0])
    starts = np.cumsum(lengths) - lengths
    # One place more, so that an empty row has one to read.
    sources, columns = np.append(sources, count), np.append(columns[sources], 0)
    members = _members(lengths)
    groups = [_group(rows, lengths, starts, sources, columns, count) for rows in members]
    sequence, natural = np.concatenate(members), np.arange(shape[0], dtype=np.int32)
    if np.array_equal(sequence, natural):
        return Layout(groups, None)
    places = np.empty_like(natural)
    places[sequence] = natural
    return Layout(groups, places)


def order_by_rows(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the positions of the entries within the shape, sorted by rows, and by columns within a row.

    >>> print(order_by_rows(np.array([1, 0, 9]), np.array([0, 1, 0]), (2, 2)))
    [1 0]
    """
    keys = rows.astype(np.int64) * shape[1] + columns
    inside = (rows < shape[0]) & (columns < shape[1])
    positions = np.arange(len(rows)) if inside.all() else np.flatnonzero(inside)
    keys = keys[positions]
    return positions if (keys[1:] >= keys[:-1]).all() else positions[np.argsort(keys, kind="stable")]


def _members(lengths: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group."""
    if lengths.max() * len(lengths) <= _ONE_GROUP * max(lengths.sum(), 1):
        return [np.arange(len(lengths))]
    order = np.argsort(lengths, kind="stable")
    ascending, members, start = lengths[order], [], 0
    while start < len(order):
        longest = int(max(ascending[start], 1) * _LONGEST)
        end = int(np.searchsorted(ascending, longest, side="right"))
        members.append(order[start:end])
        start = end
    return members


def _group(
    members: np.ndarray, lengths: np.ndarray, starts: np.ndarray, sources: np.ndarray, columns: np.ndarray, count: int
) -> Group:
    ends = lengths[members]
    width = max(int(ends.max()), 1)
    found = np.empty((2, width, len(members)), np.int32)
    for i in range(width):
        # Padding reads the last column of its row again, so that it adds no number that is not finite.
        position = np.minimum(starts[members] + np.minimum(i, np.maximum(ends - 1, 0)), len(sources) - 1)
        found[0, i] = np.where(i < ends, sources[position], count)
        found[1, i] = columns[position]
    if width > _LONG_ROW:
        return Group(np.ascontiguousarray(found[0].T), np.ascontiguousarray(found[1].T), True)
    return Group(found[0], found[1], False)
