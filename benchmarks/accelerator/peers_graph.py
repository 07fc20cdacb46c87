"""Peers on the Laplacian of the random graph: CuPy, PyTorch and SciPy for six pairs, CuPy for six triplets."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from benchmarks.accelerator.harness import Log, Program, Row, compiled, side_by_side
from benchmarks.accelerator.peers_support import Peer, compare
from benchmarks.accelerator.problems import bcoo_parts, graph_laplacian, of_graph
from eigenjax import eigsh, svds

K, TARGET = 6, 1e-4
_ATTEMPTS = 3
_WIDE_BASIS = 38  # CuPy's default for six pairs


class Graph(NamedTuple):
    """Matrix on the host and on the device, with the largest eigenvalue, computed by `eigsh`."""

    matrix: scipy.sparse.csr_matrix
    parts: tuple[jax.Array, jax.Array]
    programs: dict[str, Program]
    norm: float


@functools.cache
def _graph(nodes: int) -> Graph:
    matrix = graph_laplacian(nodes)
    parts = bcoo_parts(matrix)
    build = of_graph(nodes)

    def eigen(entries, indices, tol, krylov_dim=None):
        return eigsh(build(entries, indices), K, tol=tol, krylov_dim=krylov_dim, verify=False)

    tol = jnp.float32(TARGET)
    tasks = {
        "eigsh": lambda: compiled(eigen, *parts, tol),
        "wide": lambda: compiled(functools.partial(eigen, krylov_dim=_WIDE_BASIS), *parts, tol),
        "svds": lambda: compiled(lambda e, i, tol: svds(build(e, i).matrix, K, tol=tol), *parts, tol),
    }
    programs = side_by_side(tasks)
    for program in programs.values():
        if isinstance(program, Exception):
            raise program
    norm = float(programs["eigsh"].call(*parts, tol).eigenvalues[0])
    return Graph(matrix, parts, programs, norm)


def _nodes(log: Log) -> int:
    return 400 if log.args.quick else 1_000_000


def pairs(log: Log) -> Iterator[Row]:
    """Compare the six largest eigenpairs."""
    graph = _graph(_nodes(log))
    residual = functools.partial(_residual, graph)

    def ours(name: str, which: str) -> Peer:
        program = graph.programs[which]
        attempt = lambda tol: jax.block_until_ready(program.call(*graph.parts, jnp.float32(tol)))
        found = lambda result: residual((np.asarray(result.eigenvalues), np.asarray(result.eigenvectors).T))
        count = lambda result: int(result.num_matvecs)
        return Peer(name, _settings(attempt, TARGET), found, count, program.compile_s)

    def eigenjax_eigsh() -> Peer:
        return ours("eigenjax.eigsh", "eigsh")

    def eigenjax_eigsh_wide() -> Peer:
        return ours(f"eigenjax.eigsh, krylov_dim={_WIDE_BASIS}", "wide")

    def cupy_eigsh() -> Peer:
        import cupy
        from cupyx.scipy.sparse import csr_matrix
        from cupyx.scipy.sparse.linalg import eigsh as solve

        matrix = csr_matrix(graph.matrix)

        def attempt(tol):  # CuPy's tolerance is absolute
            values, vectors = solve(matrix, K, which="LA", tol=tol * graph.norm)
            cupy.cuda.Device().synchronize()
            return values, vectors

        found = lambda pair: residual((cupy.asnumpy(pair[0]), cupy.asnumpy(pair[1])))
        return Peer("CuPy eigsh", _settings(attempt, TARGET), found)

    def torch_lobpcg() -> Peer:
        import torch

        matrix = _torch_matrix(torch, graph.matrix)
        start = torch.randn(matrix.shape[0], K, generator=torch.Generator().manual_seed(0)).to(matrix.device)

        def attempt(tol):
            values, vectors = torch.lobpcg(matrix, k=K, X=start, largest=True, tol=tol, niter=300)
            return values.cpu(), vectors

        found = lambda pair: residual((pair[0].numpy(), pair[1].cpu().numpy()))
        return Peer("torch.lobpcg", _settings(attempt, TARGET), found)

    yield from compare([eigenjax_eigsh, cupy_eigsh, torch_lobpcg, eigenjax_eigsh_wide], TARGET, log)


def triplets(log: Log) -> Iterator[Row]:
    """Compare the six largest singular triplets."""
    graph = _graph(_nodes(log))
    residual = functools.partial(_singular_residual, graph)

    def eigenjax_svds() -> Peer:
        program = graph.programs["svds"]
        attempt = lambda tol: jax.block_until_ready(program.call(*graph.parts, jnp.float32(tol)))
        found = lambda result: residual(*(np.asarray(x) for x in (result.left, result.values, result.right)))
        count = lambda result: int(result.num_matvecs)
        return Peer("eigenjax.svds", _settings(attempt, TARGET), found, count, program.compile_s)

    def cupy_svds() -> Peer:
        import cupy
        from cupyx.scipy.sparse import csr_matrix
        from cupyx.scipy.sparse.linalg import svds as solve

        matrix = csr_matrix(graph.matrix)

        def attempt(tol):  # the tolerance is absolute, for A^T A
            found = solve(matrix, K, tol=tol * graph.norm**2)
            cupy.cuda.Device().synchronize()
            return found

        def found(triple):
            left, values, right = map(cupy.asnumpy, triple)
            return residual(left.T, values, right)

        return Peer("CuPy svds", _settings(attempt, TARGET), found)

    yield from compare([eigenjax_svds, cupy_svds], TARGET, log)


def pairs_on_host(log: Log) -> Iterator[Row]:
    """Time ARPACK on the CPU."""
    graph = _graph(_nodes(log))

    def scipy_eigsh() -> Peer:
        start = np.random.default_rng(0).normal(size=graph.matrix.shape[0]).astype(np.float32)
        attempt = lambda tol: scipy.sparse.linalg.eigsh(graph.matrix, K, which="LA", tol=tol, v0=start)
        return Peer("SciPy eigsh, on the host", _settings(attempt, TARGET), functools.partial(_residual, graph))

    yield from compare([scipy_eigsh], TARGET, log)


def _settings(attempt: Callable[[float], Any], target: float) -> list[Callable[[], Any]]:
    """Return attempts at the target tolerance, at a third and at a ninth of it."""
    return [functools.partial(attempt, target / 3**i) for i in range(_ATTEMPTS)]


def _residual(graph: Graph, pair: tuple[np.ndarray, np.ndarray]) -> float:
    """Compute the largest residual of (k,) values and (n, k) vectors, normalized first."""
    values, vectors = (np.asarray(x, np.float64) for x in pair)
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    rests = graph.matrix.astype(np.float64) @ vectors - vectors * values
    return float(np.linalg.norm(rests, axis=0).max() / graph.norm)


def _singular_residual(graph: Graph, left: np.ndarray, values: np.ndarray, right: np.ndarray) -> float:
    """Compute the larger residual of both sides, for (k, n) left, (k,) values and (k, n) right vectors."""
    matrix = graph.matrix.astype(np.float64)
    left, right = (np.asarray(x, np.float64).T for x in (left, right))
    sides = matrix @ right - left * values, matrix.T @ left - right * values
    return float(max(np.linalg.norm(side, axis=0).max() for side in sides) / graph.norm)


def _torch_matrix(torch: Any, matrix: scipy.sparse.csr_matrix) -> Any:
    """Convert a matrix to sparse CSR, on the CUDA device if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pointers, columns = (torch.from_numpy(x.astype(np.int64)) for x in (matrix.indptr, matrix.indices))
    return torch.sparse_csr_tensor(pointers, columns, torch.from_numpy(matrix.data), matrix.shape).to(device)


ITEMS = (("graph, pairs", 40, pairs), ("graph, triplets", 15, triplets))
ON_HOST = (("graph, pairs", 25, pairs_on_host),)
