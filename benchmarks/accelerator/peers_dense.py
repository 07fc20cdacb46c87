"""Decompositions of dense matrices by jax.numpy, single and in batches, compared with `eigsh` and `eigh`."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eigenjax
from benchmarks.accelerator.harness import Log, Row, compiled, side_by_side
from benchmarks.accelerator.peers_support import Peer, compare

K, TARGET = 6, 1e-5


def alone(n: int) -> Callable[[Log], Iterator[Row]]:
    """Compare the six largest pairs of a random symmetric matrix by `eigsh` with all pairs by `eigh`."""

    def rows(log: Log) -> Iterator[Row]:
        matrix = _symmetric((40 if log.args.quick else n,))
        ours = functools.partial(eigenjax.eigsh, k=K, tol=TARGET, verify=False)
        yield from _rows(log, matrix, {"eigenjax.eigsh": (ours, _few), "jnp.linalg.eigh": (jnp.linalg.eigh, _all)})

    return rows


def batch(count: int, n: int) -> Callable[[Log], Iterator[Row]]:
    """Compare all pairs of many matrices with the four largest of each by `eigsh` under vmap."""

    def rows(log: Log) -> Iterator[Row]:
        matrices = _symmetric((8, 12) if log.args.quick else (count, n))
        ours = jax.vmap(functools.partial(eigenjax.eigsh, k=4, tol=TARGET, verify=False))
        solvers = {
            "eigenjax.eigh": (eigenjax.eigh, _all),
            "jnp.linalg.eigh": (jnp.linalg.eigh, _all),
            "vmap of eigenjax.eigsh, k=4": (ours, _few),
        }
        yield from _rows(log, matrices, solvers)

    return rows


def _rows(log: Log, matrices: np.ndarray, solvers: dict[str, tuple[Callable, Callable]]) -> Iterator[Row]:
    stack = jnp.asarray(matrices, jnp.float32)
    exact = np.asarray(stack, np.float64)
    programs = side_by_side({name: functools.partial(compiled, solve, stack) for name, (solve, _) in solvers.items()})
    norm = 2 * float(np.sqrt(exact.shape[-1]))  # approximate norm of a symmetric matrix of normal numbers

    def peer(name: str) -> Peer:
        program, (_, read) = programs[name], solvers[name]
        if isinstance(program, Exception):
            raise program
        run = lambda: jax.block_until_ready(program.call(stack))
        residual = lambda found: _worst_residual(exact, *read(found)) / norm
        return Peer(name, [run], residual, _matvecs, program.compile_s)

    makers = [functools.partial(peer, name) for name in solvers]
    for maker, name in zip(makers, solvers, strict=True):
        maker.__name__ = name  # type: ignore[attr-defined]
    yield from compare(makers, TARGET, log)


def _symmetric(shape: tuple[int, ...]) -> np.ndarray:
    sample = np.random.default_rng(0).normal(size=(*shape, shape[-1])).astype(np.float32)
    return (sample + np.swapaxes(sample, -1, -2)) / np.float32(2**0.5)


def _few(result: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(result.eigenvalues, np.float64), np.swapaxes(np.asarray(result.eigenvectors, np.float64), -1, -2)


def _all(pair: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the six largest pairs."""
    values, vectors = (np.asarray(x)[..., -K:].astype(np.float64) for x in pair)
    return values, vectors


def _matvecs(found: Any) -> int | None:
    """Return the matvecs of the matrix that needs most."""
    return int(np.max(np.asarray(found.num_matvecs))) if hasattr(found, "num_matvecs") else None


def _worst_residual(matrices: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> float:
    rests = matrices @ vectors - vectors * values[..., None, :]
    return float(np.linalg.norm(rests, axis=-2).max())


ITEMS = (
    ("dense, 2000", 12, alone(2000)),
    ("batch, 4096 x 32 x 32", 15, batch(4096, 32)),
    ("dense, 4000", 14, alone(4000)),
    ("batch, 64 x 512 x 512", 15, batch(64, 512)),
)
