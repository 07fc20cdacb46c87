"""Peers at an equal true residual: recomputed by the same formula in float64, the largest over the operator's norm."""

import functools

from benchmarks.accelerator import peers_dense, peers_graph, peers_network
from benchmarks.accelerator.harness import Item, Log

# Problem, its time limit in seconds, and its rows; the most important first, SciPy on the host last.
ITEMS = (*peers_graph.ITEMS, *peers_network.ITEMS, *peers_dense.ITEMS, *peers_graph.ON_HOST)


def run(log: Log) -> None:
    """Add one row for each program on each problem."""
    log.run([Item({"problem": name}, seconds, functools.partial(rows, log)) for name, seconds, rows in ITEMS])
