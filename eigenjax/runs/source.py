"""Batches of data on the host; a run is refused unless every epoch has the same batches."""

import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from eigenjax.arguments import check_arrays
from eigenjax.calls import explained, prefixed
from eigenjax.operators.batching import checked_batch_size, num_examples
from eigenjax.result import RunError
from eigenjax.vectors.tree import PyTree

# Numbers of each leaf's first example that a checksum reads: enough to distinguish examples, cheap beside a matvec.
_NUMBERS_READ = 1024


class MemoryMappedBatches:
    """Consecutive slices of arrays that stay on disk; created by `memory_mapped_batches`."""

    def __init__(self, arrays: PyTree, batch_size: int):
        self.arrays = arrays
        self.batch_size = batch_size
        self.num_examples = num_examples(arrays, name="arrays")

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[PyTree]:
        for start in range(0, self.num_examples, self.batch_size):
            yield jax.tree.map(lambda x: x[start : start + self.batch_size], self.arrays)  # noqa: B023, called at once


@explained
def memory_mapped_batches(arrays: PyTree, batch_size: int) -> MemoryMappedBatches:
    """Create batches for `stream` from arrays on disk, read on demand and in order; the last batch may be smaller.

    Args:
        arrays: pytree with a common leading axis N, of paths of `.npy` files, of `numpy.memmap`, or of arrays.
        batch_size: examples in a batch.

    Returns:
        An iterable of ceil(N / batch_size) batches, the same in every pass.

    Raises:
        OSError: if a file cannot be read; the message names it.
        ValueError: if the leading axes differ, a file is no .npy file, or batch_size is not a positive int.
        TypeError: if a leaf is neither a path nor an array.

    Cost: nothing is read before the iteration.

    Example:
        >>> import numpy as np
        >>> [len(inputs) for inputs, _ in memory_mapped_batches((np.ones((5, 2)), np.ones(5)), batch_size=2)]
        [2, 2, 1]
    """
    with prefixed("memory_mapped_batches"):
        size = checked_batch_size(batch_size)
        if size is None:
            raise ValueError("batch_size=None: give a positive integer, the examples in a batch")
        mapped = jax.tree.map(_mapped, arrays)
        check_arrays("memory_mapped_batches", "arrays", mapped, remedy="give paths of .npy files, memmaps or arrays")
        return MemoryMappedBatches(mapped, size)


def _mapped(leaf: Any) -> Any:
    if not isinstance(leaf, str | os.PathLike):
        return leaf
    prefix = f"memory_mapped_batches got {os.fspath(leaf)!r}"
    remedy = "give the path of a .npy file, as numpy.save writes it"
    try:
        found = np.load(os.fspath(leaf), mmap_mode="r")
    except OSError as error:
        raise type(error)(f"{prefix}: {error.strerror or error}: {remedy}") from error
    except (ValueError, EOFError) as error:
        raise ValueError(f"{prefix}, which is no .npy file of numbers: {remedy}") from error
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{prefix}, an archive of several arrays: {remedy}, one for each array")
    return found


def first_batch(batches: Iterable) -> PyTree:
    """Return the first batch; raise a ValueError if there is none."""
    for batch in batches:
        return batch
    raise ValueError("batches: there are none; give at least one")


def check_repeatable(batches: Any) -> None:
    """Raise an error for a source that gives its batches only once.

    Raises:
        TypeError: if it is not iterable, or a generator.
    """
    try:
        iterator = iter(batches)
    except TypeError as error:
        raise TypeError(f"batches: a {type(batches).__name__} is not iterable; give a list or a data loader") from error
    if iterator is batches:
        raise TypeError(
            f"batches: a {type(batches).__name__} gives its batches once, and every matvec is one epoch: give "
            "a list, a data loader, memory_mapped_batches(...), or an object whose __iter__ starts anew"
        )


def groups_alike(
    batches: Iterable[tuple[PyTree, float]], most: int, most_bytes: int
) -> Iterator[list[tuple[PyTree, float]]]:
    """Group consecutive batches of equal shapes and dtypes: at most `most` in `most_bytes` bytes, or a single one.

    >>> [len(group) for group in groups_alike([(np.ones(2), 1.0)] * 3 + [(np.ones(1), 1.0)], 2, 100)]
    [2, 1, 1]
    """
    group: list[tuple[PyTree, float]] = []
    kind, max_length = None, 1
    for batch, weight in batches:
        leaves, treedef = jax.tree.flatten(batch)
        described = treedef, [(np.shape(leaf), _dtype(leaf)) for leaf in leaves]
        if group and (described != kind or len(group) == max_length):
            yield group
            group = []
        if not group:
            size = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in described[1])
            kind, max_length = described, max(1, min(most, most_bytes // max(size, 1)))
        group.append((batch, weight))
    if group:
        yield group


def _dtype(leaf: Any) -> np.dtype:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


class Epoch(NamedTuple):
    """Record of one pass over the data."""

    checksums: tuple[int, ...]  # checksum of each batch
    weight: float  # sum of the weights of all batches

    @property
    def signature(self) -> list[float]:
        """Summary of the epoch, to be saved with a checkpoint."""
        return [len(self.checksums), self.weight, zlib.crc32(repr(self.checksums).encode())]


class EpochWatch:
    """Comparison of the current epoch with an earlier one, batch by batch."""

    def __init__(self, reference: Epoch | None, first: int, signature: list[float] | None):
        """Start an epoch.

        Args:
            reference: an earlier epoch; None in the first one.
            first: checksum of the first batch.
            signature: signature of an epoch in the process that wrote the checkpoint; None without a checkpoint.
        """
        self._reference, self._signature = reference, signature
        self._first = first
        self._checksums: list[int] = []
        self.weight = 0.0

    @property
    def place(self) -> int:
        """Number of batches so far."""
        return len(self._checksums)

    def add(self, batch: PyTree, weight: float) -> None:
        """Take the next batch; raise a RunError if it differs from the one at this position in an earlier epoch."""
        place, checksum = self.place, batch_checksum(batch)
        expected = self._first if place == 0 else None
        if self._reference is not None:
            expected = self._reference.checksums[place] if place < len(self._reference.checksums) else -1
        if expected is not None and checksum != expected:
            raise changed(f"batch {place} is not what it was in an earlier epoch")
        self._checksums.append(checksum)
        self.weight += weight

    def end(self) -> Epoch:
        """Return the whole epoch; raise a RunError if its length or signature differs from that of an earlier one."""
        epoch = Epoch(tuple(self._checksums), self.weight)
        if self._reference is not None and len(epoch.checksums) != len(self._reference.checksums):
            raise changed(f"an epoch of {len(epoch.checksums)} batches after one of {len(self._reference.checksums)}")
        if self._signature is not None and epoch.signature != self._signature:
            raise changed("they are not those that the checkpoint was made with")
        if not epoch.weight > 0:
            raise ValueError(f"batches: {len(epoch.checksums)} batches weigh {epoch.weight} in all; give more than 0")
        return epoch


def changed(what: str) -> RunError:
    """Create the error for a source that does not repeat its batches."""
    return RunError(
        f"the batches have changed: {what}. Every matvec is one epoch of the same operator; the usual causes are "
        "shuffle=True, random augmentation, or a source that goes on where it stopped: switch them off, or fix "
        "the order and the seed of every epoch"
    )


def batch_checksum(batch: PyTree) -> int:
    """Compute a checksum of the shapes, and of a part of the first example of every leaf.

    >>> batch_checksum(np.ones((2, 3))) == batch_checksum(np.ones((2, 3))) != batch_checksum(np.zeros((2, 3)))
    True
    """
    checksum = 0
    for leaf in jax.tree.leaves(batch):
        checksum = zlib.crc32(f"{np.shape(leaf)} {getattr(leaf, 'dtype', type(leaf))}".encode(), checksum)
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            leading = np.ravel(np.asarray(leaf[:1] if np.ndim(leaf) else leaf))[:_NUMBERS_READ]
            checksum = zlib.crc32(np.ascontiguousarray(leading).tobytes(), checksum)
    return checksum
