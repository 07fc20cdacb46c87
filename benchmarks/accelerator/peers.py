"""Peers at an equal true residual: each recomputed by one formula in float64, the worst over the operator's norm."""

import functools

from benchmarks.accelerator import peers_dense, peers_graph, peers_network
from benchmarks.accelerator.harness import Item, Log

# Problem, the seconds that it may take, its rows; the most important first, SciPy on the host last.
ITEMS = (*peers_graph.ITEMS, *peers_network.ITEMS, *peers_dense.ITEMS, *peers_graph.ON_HOST)


def run(log: Log) -> None:
    """One row for each program on each problem."""
    log.run([Item({"problem": name}, seconds, functools.partial(rows, log)) for name, seconds, rows in ITEMS])
