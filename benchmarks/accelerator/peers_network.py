"""Plain Lanczos in PyTorch with double backward, compared with `eigsh` on the same network of a million parameters."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.accelerator.harness import Log, Row, compiled, side_by_side
from benchmarks.accelerator.peers_support import Peer, compare
from benchmarks.accelerator.problems import medium_network
from eigenjax import eigsh

K, TARGET = 5, 1e-3
# A single Krylov space is not adaptive: use the smallest of these that suffices.
KRYLOV_DIMS = (24, 32, 48, 64, 96, 128)


def pairs(log: Log) -> Iterator[Row]:
    """Compare the five largest eigenpairs of the Hessian, to 1e-3 of the norm by matvecs in float64.

    Each package runs at its own default precision, which is TF32 for JAX on some devices and float32 for PyTorch, and
    at the default of the other.
    """
    problem = medium_network(log.args.quick)
    build, args = problem.build, (problem.theta, problem.fixed)

    def program(solve: Any, precision: str | None) -> Any:
        with jax.default_matmul_precision(precision):
            return compiled(lambda theta, fixed: solve(build(theta, fixed)), *args)

    solve = functools.partial(eigsh, k=K, tol=0.7 * TARGET, verify=False)
    tasks = {
        f"eigenjax.eigsh, {label}": functools.partial(program, solve, precision)
        for label, precision in (("default precision", None), ("float32", "float32"))
    }
    tasks["product"] = lambda: _double_product(problem)
    programs = side_by_side(tasks)
    product = programs.pop("product")
    if isinstance(product, Exception):
        raise product
    norm = float(jnp.max(jnp.abs(_raised(programs["eigenjax.eigsh, float32"]).call(*args).eigenvalues)))
    residual = lambda values, rows: _residual(product, values, rows) / norm

    def ours(name: str) -> Peer:
        made = _raised(programs[name])
        found = lambda result: residual(result.eigenvalues, _flat_rows(result.eigenvectors))
        run = lambda: jax.block_until_ready(made.call(*args))
        return Peer(name, [run], found, lambda result: int(result.num_matvecs), made.compile_s)

    def in_torch(is_narrow: bool) -> Peer:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = is_narrow
        solve = _torch_lanczos(torch, problem)
        name = f"torch Lanczos, {'TF32' if is_narrow else 'float32'}"
        sizes = [functools.partial(solve, size) for size in KRYLOV_DIMS]
        return Peer(name, sizes, lambda found: residual(*found[:2]), lambda found: found[2])

    def torch_lanczos() -> Peer:
        return in_torch(False)

    def torch_lanczos_tf32() -> Peer:
        return in_torch(True)

    mine = [_named(functools.partial(ours, name), name) for name in programs]
    yield from compare([*mine, torch_lanczos, torch_lanczos_tf32], TARGET, log)


def _residual(product: Any, values: Any, rows: Any) -> float:
    """Compute the largest residual of (k,) values and (k, n) vectors, normalized first, by matvecs in float64."""
    worst = 0.0
    with jax.enable_x64(True):
        for value, row in zip(np.asarray(values, np.float64), np.asarray(rows, np.float64), strict=True):
            unit = row / np.linalg.norm(row)
            worst = max(worst, float(np.linalg.norm(np.asarray(product(jnp.asarray(unit))) - value * unit)))
    return worst


def _named(function: Any, name: str) -> Any:
    function.__name__ = name
    return function


def _raised(program: Any) -> Any:
    if isinstance(program, Exception):
        raise program
    return program


def _flat_rows(vectors: Any) -> np.ndarray:
    """Flatten vectors to (k, n), in the order of JAX's leaves."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(vectors)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


def _double_product(problem: Any) -> Any:
    """Build the flat matvec v -> H v in float64."""
    with jax.enable_x64(True):
        double = lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
        theta, fixed = jax.tree.map(double, (problem.theta, problem.fixed))
        _, unravel = ravel_pytree(theta)

        def product(theta, fixed, flat):
            return ravel_pytree(problem.build(theta, fixed)(unravel(flat)))[0]

        flat = jax.ShapeDtypeStruct((problem.op.size,), jnp.float64)
        made = compiled(product, theta, fixed, flat)
        return lambda flat: made.call(theta, fixed, flat)


def _torch_lanczos(torch: Any, problem: Any) -> Any:
    """Build a Lanczos method with two passes of full orthogonalization, around grad of (grad . v)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    to_torch = lambda x: torch.from_numpy(np.array(x)).to(device)
    leaves = [to_torch(x).requires_grad_() for x in jax.tree.leaves(problem.theta)]  # bias and kernel of each layer
    inputs, labels = to_torch(problem.fixed[0]), to_torch(problem.fixed[1]).long()
    size = sum(leaf.numel() for leaf in leaves)
    start = to_torch(np.random.default_rng(0).normal(size=size).astype(np.float32))

    def gradient():
        hidden = inputs
        layers = list(zip(leaves[::2], leaves[1::2], strict=True))
        for bias, kernel in layers[:-1]:
            hidden = torch.tanh(hidden @ kernel + bias)
        value = torch.nn.functional.cross_entropy(hidden @ layers[-1][1] + layers[-1][0], labels)
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(value, leaves, create_graph=True)])

    def solve(krylov_dim):
        flat = gradient()
        rows = torch.zeros(krylov_dim + 1, size, device=device)
        matrix = torch.zeros(krylov_dim, krylov_dim + 1, device=device)
        rows[0] = start / start.norm()
        for j in range(krylov_dim):
            parts = torch.autograd.grad(flat, leaves, grad_outputs=rows[j], retain_graph=True)
            residual = torch.cat([part.reshape(-1) for part in parts])
            for _ in range(2):
                along = rows[: j + 1] @ residual
                residual = residual - along @ rows[: j + 1]
                matrix[j, : j + 1] += along
            matrix[j, j + 1] = residual.norm()
            rows[j + 1] = residual / matrix[j, j + 1]
        small = matrix[:, :krylov_dim]
        values, vectors = torch.linalg.eigh(((small + small.T) / 2).cpu())
        top = vectors[:, -K:].flip(1).T.to(device) @ rows[:krylov_dim]
        return values[-K:].flip(0).numpy(), top.cpu().numpy(), krylov_dim

    return solve


ITEMS = (("perceptron, 1 M", 35, pairs),)
