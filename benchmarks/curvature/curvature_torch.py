"""Claim: curvature matvecs equal those of curvlinops and hessian-eigenthings, at about 0.6 of their time at most.

One multilayer network with the same weights and data in JAX and in PyTorch. In float64, at a small size: the relative
difference of matvecs with three vectors, and of the largest eigenvalue (theirs by SciPy around their matvec, ours by
`eigsh`). The row of eigenjax compares with a dense matrix computed by JAX's own derivatives. In float32, at 0.67 M
parameters: the time of our matvec over theirs. Packages that are not installed are named.

    python -m benchmarks.curvature.curvature_torch
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from benchmarks.curvature.curvature_products import Problem, multilayer, multilayer_problem, products
from benchmarks.support import timing
from eigenjax import eigsh, softmax_cross_entropy

KINDS = ("Hessian", "Gauss-Newton", "empirical Fisher")
NUM_VECTORS = 3


class Rival(NamedTuple):
    """Matvec of one kind by another package, on flat vectors in the order of its own parameters."""

    package: str
    kind: str
    product: Callable[[Any], Any]


def torch_network(problem: Problem) -> tuple[Any, tuple[Any, Any]]:
    """Create the network and the data in torch, in the same dtype."""
    import torch

    layers: list[Any] = []
    for kernel, bias in problem.params:
        weight = torch.tensor(np.asarray(kernel).T.copy())
        layer = torch.nn.Linear(*kernel.shape, dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(torch.tensor(np.asarray(bias)))
        layers += [layer, torch.nn.Tanh()]
    inputs, labels = problem.data
    batch = torch.tensor(np.asarray(inputs)), torch.tensor(np.asarray(labels), dtype=torch.long)
    return torch.nn.Sequential(*layers[:-1]), batch


def to_torch(vector: Any) -> Any:
    """Flatten a vector in torch's order: each kernel transposed, then its bias."""
    import torch

    return torch.tensor(np.concatenate([np.asarray(x).T.ravel() for layer in vector for x in layer]))


def from_torch(flat: np.ndarray, params: Any) -> Any:
    """Convert a flat vector in torch's order to the structure of the parameters."""
    parts, position = [], 0
    for layer in params:
        arrays = []
        for x in layer:
            arrays.append(flat[position : position + x.size].reshape(x.shape[::-1]).T)
            position += x.size
        parts.append(tuple(arrays))
    return parts


def torch_itself(problem: Problem) -> list[Rival]:
    """Build the Hessian matvec by a plain double backward pass in torch."""
    import torch

    network, (inputs, labels) = torch_network(problem)
    weights = list(network.parameters())

    def product(flat):
        loss = torch.nn.functional.cross_entropy(network(inputs), labels)
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights, create_graph=True)])
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(gradient @ flat, weights)])

    return [Rival("torch", "Hessian", product)]


def curvlinops(problem: Problem) -> list[Rival]:
    """Build the operators of curvlinops 3, without its own checks."""
    import curvlinops
    import torch

    network, batch = torch_network(problem)
    makers = (curvlinops.HessianLinearOperator, curvlinops.GGNLinearOperator, curvlinops.EFLinearOperator)
    make = lambda maker: maker(
        network, torch.nn.CrossEntropyLoss(), list(network.parameters()), [batch], check_deterministic=False
    )
    operators = [make(maker) for maker in makers]
    return [
        Rival("curvlinops", kind, functools.partial(lambda op, flat: op @ flat, op))
        for kind, op in zip(KINDS, operators, strict=True)
    ]


def hessian_eigenthings(problem: Problem) -> list[Rival]:
    """Build the operators of hessian-eigenthings."""
    import hessian_eigenthings as package
    import torch

    network, batch = torch_network(problem)
    criterion = torch.nn.functional.cross_entropy
    of_output = package.supervised_loss_of_output(criterion)
    operators = (
        package.HessianOperator(network, [batch], package.supervised_loss(criterion)),
        package.GGNOperator(network, [batch], package.supervised_forward, of_output),
        package.EmpiricalFisherOperator(network, [batch], package.supervised_per_sample_loss(criterion)),
    )
    return [Rival("hessian-eigenthings", kind, op.matvec) for kind, op in zip(KINDS, operators, strict=True)]


PACKAGES = {"torch": torch_itself, "curvlinops": curvlinops, "hessian_eigenthings": hessian_eigenthings}


def rivals(problem: Problem) -> list[Rival]:
    """Return the operators of all installed packages."""
    found = []
    for name, make in PACKAGES.items():
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec(name) is None:
            print(f"not installed: {name}")
            continue
        found += make(problem)
    return found


def dense_rivals(problem: Problem) -> list[Rival]:
    """Build the dense matrices by JAX's derivatives and explicit sums."""
    flat, unravel = ravel_pytree(problem.params)
    inputs, labels = problem.data
    logits = lambda x: multilayer(unravel(x), inputs)
    loss = lambda x: softmax_cross_entropy(logits(x), labels)
    jacobian, p = jax.jacobian(logits)(flat), jax.nn.softmax(logits(flat))
    slopes = jnp.einsum("ncp,nc->np", jacobian, p - jax.nn.one_hot(labels, p.shape[1], dtype=p.dtype))
    covariance = jnp.einsum("nc,cd->ncd", p, jnp.eye(p.shape[1], dtype=p.dtype)) - p[:, :, None] * p[:, None]
    matrices = (
        jax.hessian(loss)(flat),
        jnp.einsum("ncp,ncd,ndq->pq", jacobian, covariance, jacobian) / len(p),
        slopes.T @ slopes / len(p),
    )
    return [Rival("dense", kind, functools.partial(jnp.matmul, a)) for kind, a in zip(KINDS, matrices, strict=True)]


def values(problem: Problem) -> dict[tuple[str, str], dict[str, float]]:
    """Compute relative differences of matvecs and of the largest eigenvalue, by package and kind."""
    flat, unravel = ravel_pytree(problem.params)
    ours = products(problem.model)
    vectors = [unravel(x) for x in jnp.asarray(np.random.default_rng(1).normal(size=(NUM_VECTORS, flat.size)))]
    found = {}
    for package, kind, product in (*dense_rivals(problem), *rivals(problem)):
        if package == "dense":
            theirs = lambda v, product=product: product(ravel_pytree(v)[0])
            back = lambda x: np.asarray(x)
        else:
            theirs = lambda v, product=product: product(to_torch(v))
            back = lambda x: np.asarray(ravel_pytree(from_torch(x.detach().numpy(), problem.params))[0])
        mine = jax.jit(functools.partial(ours[kind], problem.params, problem.data))
        pairs = [(np.asarray(ravel_pytree(mine(v))[0]), back(theirs(v))) for v in vectors]
        operator = scipy.sparse.linalg.LinearOperator(
            (flat.size, flat.size), lambda x, t=theirs, b=back: b(t(unravel(jnp.asarray(x.ravel())))), dtype=np.float64
        )
        largest = float(scipy.sparse.linalg.eigsh(operator, 1, which="LA", tol=1e-10)[0][0])
        result = eigsh(lambda v, m=mine: m(v), k=1, which="LA", v0=problem.params, tol=1e-10)
        found[package, kind] = {
            "product_difference": max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs),
            "eigenvalue_difference": abs(float(result.eigenvalues[0]) - largest) / abs(largest),
        }
    return found


def times(problem: Problem, repeats: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Measure the seconds of a matvec, and ours over it, by package and kind."""
    vector, flat = problem.params, to_torch(problem.params) if importlib.util.find_spec("torch") else None
    programs: dict[tuple[str, str], Callable[[], Any]] = {
        ("dense", kind): functools.partial(jax.jit(product), problem.params, problem.data, vector)
        for kind, product in products(problem.model).items()
    }
    for package, kind, product in rivals(problem):
        programs[package, kind] = lambda p=product: (p(flat), 0)[1]
    taken = timing.interleaved({str(key): program for key, program in programs.items()}, repeats)
    return {
        key: (taken[str(key)].median, timing.ratio(taken[str(("dense", key[1]))], taken[str(key)])) for key in programs
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure differences and times and record them."""
    args = timing.arguments(__doc__, 15, argv)
    with jax.enable_x64(True):
        small = multilayer_problem((6, 5, 4), 13) if args.quick else multilayer_problem((24, 32, 32, 10), 100)
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, small[1:])
        differences = values(Problem(small.model, *wide))
    taken = times(
        multilayer_problem((6, 5, 4), 13) if args.quick else multilayer_problem((784, 512, 512, 10), 1024), args.repeats
    )
    rows = [
        {
            "product": kind,
            "package": "eigenjax" if package == "dense" else package,
            **differences[package, kind],
            "median_s": seconds,
            "ours_over_it": ratio,
        }
        for (package, kind), (seconds, ratio) in taken.items()
    ]
    timing.record("curvature_torch", rows, args)


if __name__ == "__main__":
    main()
