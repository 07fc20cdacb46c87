"""Claim: `eigsh` is faster than other packages for a network's top eigenpairs, and costs little beyond its matvecs.

First, the seconds until the top k pairs of a network's Hessian have recomputed residuals of at most 1e-4 ||A||. The
networks are trained on digits: 64-256-256-10 tanh with 85,002 parameters in float32, and a convolutional one of 9,930
on 600 examples. Compiled `eigsh` is compared with SciPy's ARPACK around a jitted matvec, matfree, and (first network)
hessian-eigenthings. The latter two are not adaptive and get the best number of steps in hindsight. Packages that are
not installed are named.

Second, the time of `eigsh(krylov_dim=32)` over that of a bare scan of as many matvecs, and the temporary memory in
vectors, for a perceptron of 1.03 M parameters. It has 768 or 3072 examples, because only the matvec's time grows with
them.

    python -m benchmarks.eigen.eigsh_time
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

from benchmarks.eigen.lanczos_overhead import (
    EXAMPLES,
    QUICK_EXAMPLES,
    QUICK_WIDTHS,
    WIDTHS,
    bare_products,
    network_hessian,
    temporaries,
)
from benchmarks.eigen.products import product
from benchmarks.support import timing
from benchmarks.support.counted_operator import CountedOperator
from benchmarks.support.trained_networks import Network, convolutional, perceptron
from eigenjax import LinearOperator, eigsh

TOL = 1e-4
PAIRS = (5, 10)
KRYLOV_DIM, PAIRS_OF_OVERHEAD = 32, 5

Pairs = tuple[np.ndarray, np.ndarray, int]  # (k,) values, (k, n) vectors, matvecs
Program = Callable[[], Pairs]


@functools.partial(jax.jit, static_argnames=("k", "krylov_dim"))
def solve(op: LinearOperator, *, k: int, krylov_dim: int | None = None, tol: float = TOL) -> Any:
    """Run `eigsh`."""
    return eigsh(op, k, tol=tol, krylov_dim=krylov_dim, verify=False)


def ours(network: Network, k: int) -> Iterator[Program]:
    """Yield the program of `eigsh`, which is adaptive: one setting suffices."""
    op = network.operator

    def program():
        result = solve(op, k=k)
        leaves = [np.asarray(leaf).reshape(k, -1) for leaf in jax.tree.leaves(result.eigenvectors)]
        return np.asarray(result.eigenvalues), np.concatenate(leaves, axis=1), int(result.num_matvecs)

    yield program


def arpack(network: Network, k: int) -> Iterator[Program]:
    """Yield programs of ARPACK from the loosest tolerance on, because its criterion is relative to |theta_i|."""
    op = network.operator

    def program(tol):
        multiply = lambda v: np.asarray(product(op, jnp.asarray(v)))
        linear = CountedOperator((op.size, op.size), multiply, dtype=np.float32)
        start = np.random.default_rng(0).normal(size=op.size).astype(np.float32)
        values, vectors = scipy.sparse.linalg.eigsh(linear, k, which="LA", tol=tol, v0=start)
        return values, vectors.T, linear.products

    for i in range(6):
        yield functools.partial(program, TOL / 3**i)


def matfree(network: Network, k: int) -> Iterator[Program]:
    """Yield programs of one Krylov space with full reorthogonalization, jitted, one for each size."""
    from matfree import decomp, eig

    op = network.operator

    def program(m):
        @jax.jit
        def top(op, start):
            values, vectors = eig.eigh_partial(decomp.tridiag_sym(m, reortho="full"))(lambda v: product(op, v), start)
            order = jnp.argsort(-values)[:k]
            return values[order], vectors[order]

        start = jax.random.normal(jax.random.key(0), (op.size,))
        return lambda: (*map(np.asarray, top(op, start)), m)

    for m in _spaces(k):
        yield program(m)


def hessian_eigenthings(network: Network, k: int) -> Iterator[Program]:
    """Yield programs of one Krylov space for the same network in PyTorch, one for each size."""
    if network.images.shape[1] != network.params[0]["kernel"].shape[0]:
        raise NotImplementedError("written for perceptrons")
    import torch
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    layers: list[Any] = []
    for layer in network.params:
        linear = torch.nn.Linear(*layer["kernel"].shape)
        # PyTorch stores the transposed kernel and orders kernel and bias differently; `_from_torch` undoes this.
        linear.weight.data = torch.from_numpy(np.array(layer["kernel"].T))
        linear.bias.data = torch.from_numpy(np.array(layer["bias"]))
        layers += [linear, torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    batch = torch.from_numpy(np.array(network.images)), torch.from_numpy(np.array(network.labels)).long()
    operator = HessianOperator(model, [batch], supervised_loss(torch.nn.functional.cross_entropy))

    def program(m):
        found = lanczos(operator, k=k, max_iter=m, tol=TOL, which="LA", seed=0)
        vectors = _from_torch(found.eigenvectors.detach().numpy(), network.params)
        return found.eigenvalues.detach().numpy(), vectors, m

    for m in _spaces(k):
        yield functools.partial(program, m)


def _from_torch(vectors: np.ndarray, params: list[dict[str, jax.Array]]) -> np.ndarray:
    """Convert (k, n) vectors from PyTorch's order, kernel^T and bias of each layer, to JAX's, bias and kernel."""
    parts, position = [], 0
    for layer in params:
        fan_in, fan_out = layer["kernel"].shape
        kernel = vectors[:, position : position + fan_in * fan_out].reshape(-1, fan_out, fan_in)
        position += fan_in * fan_out
        parts += [vectors[:, position : position + fan_out], kernel.transpose(0, 2, 1).reshape(len(vectors), -1)]
        position += fan_out
    return np.concatenate(parts, axis=1)


def _spaces(k: int) -> range:
    return range(2 * k, 8 * k + 20, 2)


SOLVERS = {
    "eigsh": (ours, ()),
    "ARPACK": (arpack, ()),
    "matfree": (matfree, ("matfree",)),
    "hessian-eigenthings": (hessian_eigenthings, ("hessian_eigenthings", "torch")),
}


def worst_residual(op: LinearOperator, pairs: Pairs) -> float:
    """Recompute the largest residual of the pairs, relative to the largest eigenvalue."""
    values, vectors, _ = pairs
    images = np.stack([np.asarray(product(op, jnp.asarray(v))) for v in vectors])
    return float(np.linalg.norm(images - values[:, None] * vectors, axis=1).max() / np.abs(values).max())


def first_that_suffices(op: LinearOperator, programs: Iterator[Program]) -> Program:
    """Find the cheapest setting whose residuals are small enough; return the last if there is none."""
    for program in programs:
        if worst_residual(op, program()) <= TOL:
            break
    return program


def compare(network: Network, k: int, repeats: int) -> list[dict[str, Any]]:
    """Return one row for each installed package."""
    op = network.operator
    programs = {}
    for name, (settings, packages) in SOLVERS.items():
        try:
            missing = [package for package in packages if importlib.util.find_spec(package) is None]
            if missing:
                raise ImportError(f"not installed: {', '.join(missing)}")
            programs[name] = first_that_suffices(op, settings(network, k))
        except (ImportError, NotImplementedError) as error:
            print(f"k={k}: {name} is left out, {error}", flush=True)
    timings = timing.interleaved(programs, repeats)
    rows = []
    for name, measured in timings.items():
        pairs = programs[name]()
        rows.append(
            _row(f"top {k} of the {network.name} Hessian", name, (op.size, len(network.labels)), pairs[2], measured)
            | {"ratio": timing.ratio(measured, timings["eigsh"]), "residual": worst_residual(op, pairs)}
        )
    return rows


def overhead(widths: Sequence[int], examples: int, repeats: int) -> list[dict[str, Any]]:
    """Return two rows: a bare scan of matvecs, and a solve with the same number."""
    op = network_hessian(widths, examples)
    vector = jax.tree.map(jnp.ones_like, op.varying)
    run = functools.partial(solve, op, k=PAIRS_OF_OVERHEAD, krylov_dim=min(KRYLOV_DIM, op.size))
    result = run()
    count, factor = int(result.num_matvecs), 1 / jnp.max(jnp.abs(result.eigenvalues))
    bare = functools.partial(bare_products, op, vector, factor, count=count)
    timings = timing.interleaved({"bare products": bare, "eigsh": run}, repeats)
    vector_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(vector))
    lowered = {
        "bare products": bare_products.lower(op, vector, factor, count=count),
        "eigsh": solve.lower(op, k=PAIRS_OF_OVERHEAD, krylov_dim=min(KRYLOV_DIM, op.size)),
    }
    return [
        _row("overhead", name, (op.size, examples), count, measured)
        | {
            "product_s": timings["bare products"].median / count,
            "ratio": timing.ratio(measured, timings["bare products"]),
            "residual": float(jnp.max(result.residuals) / jnp.max(jnp.abs(result.eigenvalues))),
            "temporary_vectors": temporaries(lowered[name], vector_bytes),
        }
        for name, measured in timings.items()
    ]


def _row(problem: str, program: str, sizes: tuple[int, int], products: int, measured: timing.Timing) -> dict[str, Any]:
    parameters, examples = sizes
    return {
        "problem": problem,
        "program": program,
        "parameters": parameters,
        "examples": examples,
        "products": products,
        "product_s": 0.0,
        "median_s": measured.median,
        "min_s": measured.minimum,
        "ratio": 0.0,
        "residual": 0.0,
        "temporary_vectors": 0.0,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 5, argv)
    networks = [perceptron(*(((64, 16, 10), 64, 5) if args.quick else ((64, 256, 256, 10), 1797, 100)))]
    networks += [] if args.quick else [convolutional(16, 600, 100)]
    pairs = PAIRS[:1] if args.quick else PAIRS
    rows = [row for network in networks for k in pairs for row in compare(network, k, args.repeats)]
    widths, sizes = (QUICK_WIDTHS, QUICK_EXAMPLES) if args.quick else (WIDTHS, EXAMPLES)
    rows += [row for examples in sizes for row in overhead(widths, examples, args.repeats)]
    timing.record("eigsh_time", rows, args)
    print("ratio: to eigsh, and in the rows of overhead to the bare products; residual: the worst, over ||A||.")
    print(f"product_s, temporary_vectors: of the rows of overhead, whose basis is {KRYLOV_DIM} vectors.")


if __name__ == "__main__":
    main()
