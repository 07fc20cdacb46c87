"""Claim: Fisher matrices of Bernoulli and Poisson likelihoods are those by hand, and those of curvlinops, to rounding.

One multilayer network with the same weights and data in JAX and in PyTorch, float64. The relative difference of
matvecs with three vectors from the dense matrix (1/N) sum J^T H J with H written by hand, and from the Gauss-Newton
operator of curvlinops with `BCEWithLogitsLoss` and `PoissonNLLLoss`, and the time of a matvec over its. A package that
is not installed is named.

    python -m benchmarks.curvature.likelihoods
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.curvature.curvature_products import Problem, multilayer, multilayer_problem
from benchmarks.curvature.curvature_torch import NUM_VECTORS, from_torch, to_torch, torch_network
from benchmarks.support import timing
from eigenjax import fisher

LIKELIHOODS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "bernoulli": lambda z: jnp.exp(-z) / (1 + jnp.exp(-z)) ** 2,
    "poisson": jnp.exp,
}


def by_hand(problem: Problem, second_derivative: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Compute the dense matrix (1/N) sum J^T H J."""
    flat, unravel = ravel_pytree(problem.params)
    outputs = lambda x: multilayer(unravel(x), problem.data[0])
    jacobian = jax.jacobian(outputs)(flat)
    return jnp.einsum("ncp,nc,ncq->pq", jacobian, second_derivative(outputs(flat)), jacobian) / len(jacobian)


def of_curvlinops(problem: Problem, name: str) -> Callable[[Any], Any] | None:
    """Build the matvec of curvlinops on vectors in torch's order, or None where it is not installed."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("curvlinops") is None:
        return None
    import curvlinops
    import torch

    network, (inputs, _) = torch_network(problem._replace(data=(problem.data[0], jnp.zeros(1, int))))
    targets = torch.tensor(np.asarray(problem.data[1]))
    loss = {"bernoulli": torch.nn.BCEWithLogitsLoss, "poisson": torch.nn.PoissonNLLLoss}[name]()
    op = curvlinops.GGNLinearOperator(
        network, loss, list(network.parameters()), [(inputs, targets)], check_deterministic=False
    )
    # Their mean is over all entries of the outputs, ours over the examples.
    return lambda flat: (op @ flat).detach().numpy() * targets.shape[1]


def compare(problem: Problem, name: str, repeats: int) -> list[dict[str, Any]]:
    """Compare our matvec with both, in value and in time."""
    op = fisher(problem.model, problem.params, problem.data, likelihood=name)
    ours = jax.jit(lambda op, v: op(v))
    flat, unravel = ravel_pytree(problem.params)
    matrix = by_hand(problem, LIKELIHOODS[name])
    theirs = of_curvlinops(problem, name)
    others: dict[str, Callable[[Any], Any]] = {"by hand": lambda v: np.asarray(matrix @ ravel_pytree(v)[0])}
    programs: dict[str, Callable[[], Any]] = {"eigenjax": functools.partial(ours, op, problem.params)}
    if theirs is None:
        print("not installed: curvlinops")
    else:
        convert = lambda x: np.asarray(ravel_pytree(from_torch(x, problem.params))[0])
        others["curvlinops"] = lambda v: convert(theirs(to_torch(v)))
        start = to_torch(problem.params)
        programs["curvlinops"] = lambda: (theirs(start), 0)[1]
    taken = timing.interleaved(programs, repeats)
    vectors = [unravel(x) for x in jnp.asarray(np.random.default_rng(1).normal(size=(NUM_VECTORS, flat.size)))]
    rows = []
    for other, product in others.items():
        pairs = [(np.asarray(ravel_pytree(ours(op, v))[0]), product(v)) for v in vectors]
        difference = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
        ratio = timing.ratio(taken["eigenjax"], taken[other]) if other in taken else None
        rows.append({"likelihood": name, "other": other, "difference": difference, "ours_over_it": ratio})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure differences and times and record them."""
    args = timing.arguments(__doc__, 15, argv)
    with jax.enable_x64(True):
        small = multilayer_problem((6, 5, 4), 13) if args.quick else multilayer_problem((24, 32, 32, 10), 100)
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, small[1:])
        params, (inputs, _) = wide
        generator = np.random.default_rng(0)
        shape = (len(inputs), params[-1][1].size)
        targets = {"bernoulli": generator.integers(0, 2, shape), "poisson": generator.poisson(2.0, shape)}
        rows = []
        for name in LIKELIHOODS:
            data = inputs, jnp.asarray(targets[name], jnp.float64)
            rows += compare(Problem(small.model, params, data), name, args.repeats)
    timing.record("likelihoods", rows, args)


if __name__ == "__main__":
    main()
