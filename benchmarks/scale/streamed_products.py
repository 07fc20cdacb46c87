"""Claim: a matvec with data streamed from memory-mapped files should take at most 1.15 times as long as in memory.

The Hessian of a network with the same examples and batches: `hessian(..., batch_size=b)` holds all data on the device,
`stream` reads them batch by batch from disk (here, from the operating system's file cache). Each takes one vector and a
block of four. `difference` is that of the two results over their norm; `reads` counts passes over the data for one
call; `device_batches` is the largest number of batches on the device at a time.

    python -m benchmarks.scale.streamed_products
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import hessian, memory_mapped_batches, stream
from eigenjax.vectors.tree import PyTree

WIDTHS, EXAMPLES, BATCH = (256, 512, 512, 10), 50_000, 2_000
QUICK_WIDTHS, QUICK_EXAMPLES, QUICK_BATCH = (8, 16, 4), 50, 16


def network(widths: Sequence[int]) -> PyTree:
    """Draw weights and biases."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) / shape[0] ** 0.5 for shape in itertools.pairwise(widths)]
    return [(jnp.asarray(w, jnp.float32), jnp.zeros(w.shape[1], jnp.float32)) for w in weights]


def loss(params: PyTree, batch: PyTree) -> jax.Array:
    """Compute the cross-entropy of a tanh network."""
    hidden, labels = batch
    for weight, bias in params[:-1]:
        hidden = jnp.tanh(hidden @ weight + bias)
    scores = jax.nn.log_softmax(hidden @ params[-1][0] + params[-1][1])
    return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], axis=1))


class Counted:
    """Batches that count how often they are read, and how many are on the device at a time."""

    def __init__(self, batches: Any):
        self.batches, self.reads, self.most = batches, 0, 0

    def __iter__(self) -> Iterator[PyTree]:
        self.reads += 1
        shape = (self.batches.batch_size, *self.batches.arrays[0].shape[1:])
        for batch in self.batches:
            self.most = max(self.most, sum(array.shape == shape for array in jax.live_arrays()))
            yield batch


def stored(folder: Path, widths: Sequence[int], examples: int) -> tuple[Path, Path]:
    """Write inputs and labels to files."""
    rng = np.random.default_rng(1)
    np.save(folder / "inputs.npy", rng.normal(size=(examples, widths[0])).astype(np.float32))
    np.save(folder / "labels.npy", rng.integers(0, widths[-1], size=examples).astype(np.int32))
    return folder / "inputs.npy", folder / "labels.npy"


def compare(programs: dict[str, Callable[[], PyTree]], counted: Counted, vectors: int, repeats: int) -> list[dict]:
    """Return one row for each program."""
    memory, disk = (jax.device_get(program()) for program in programs.values())
    counted.reads = counted.most = 0
    programs["streamed"]()
    reads, most = counted.reads, counted.most
    norm = lambda x: float(np.sqrt(sum(np.sum(np.square(leaf, dtype="f8")) for leaf in jax.tree.leaves(x))))
    difference = norm(jax.tree.map(np.subtract, memory, disk)) / norm(memory)
    timings = timing.interleaved(programs, repeats)
    return [
        {
            "program": name,
            "vectors": vectors,
            "median_s": timings[name].median,
            "ratio": timing.ratio(timings[name], timings["in memory"]),
            "difference": difference,
            "reads": reads if name == "streamed" else 0,
            "device_batches": most if name == "streamed" else 0,
        }
        for name in programs
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Time both programs and record the table."""
    args = timing.arguments(__doc__, 7, argv)
    widths, examples, batch = (QUICK_WIDTHS, QUICK_EXAMPLES, QUICK_BATCH) if args.quick else (WIDTHS, EXAMPLES, BATCH)
    params = network(widths)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = stored(Path(folder), widths, examples)
        counted = Counted(memory_mapped_batches(paths, batch))
        streamed = stream(loss, params, counted)
        inside = hessian(loss, params, tuple(map(np.load, paths)), batch_size=batch)
        multiply = jax.jit(lambda op, rows: jax.vmap(op.mv)(rows))
        for count in (1, 4):
            block = jax.tree.map(lambda x: jnp.stack([x] * count), params)  # noqa: B023, called at once
            # A single vector is not passed as a block of one.
            one = jax.jit(lambda op, rows: jax.tree.map(lambda x: x[None], op.mv(jax.tree.map(lambda x: x[0], rows))))
            in_memory = one if count == 1 else multiply
            programs = {
                "in memory": lambda: in_memory(inside, block),  # noqa: B023
                "streamed": lambda: streamed.products(block),  # noqa: B023
            }
            rows += compare(programs, counted, count, args.repeats)
    timing.record("streamed_products", rows, args)


if __name__ == "__main__":
    main()
