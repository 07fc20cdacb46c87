"""Claim (not met yet): the first call of a solver takes about two seconds, whatever the number of leaves.

Seconds of the first call of a jitted function, from tracing to the result, compared with a limit. Each job solves one
small problem in a fresh process. The limits of residual networks are computed from the first call of their
Hessian-vector product. Those of the digits are computed from the first call of matfree without a derivative, if it is
installed. "Second" is a solve outside of jit, after one with another operator of the same size.

    python -m benchmarks.scale.first_call
"""

import argparse
import functools
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import eigenjax
from benchmarks.eigen.products import product
from benchmarks.support import timing
from benchmarks.support.trained_networks import perceptron

LEAVES, QUICK_LEAVES = (2, 8, 32, 128), (2,)
WIDTH = 64
DIGITS_WIDTHS, DIGITS_EXAMPLES, DIGITS_STEPS = (64, 256, 256, 10), 1797, 100
MATFREE_STEPS = 20

Job = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]  # () -> function and its arguments


def cubes(vectors: Any) -> jax.Array:
    """Sum the cubes of all components: a loss that depends on each vector."""
    return sum((jnp.sum(x**3) for x in jax.tree.leaves(vectors)), jnp.zeros(()))


def cyclic_tridiagonal(d: jax.Array, v: jax.Array) -> jax.Array:
    """Multiply by a cyclic tridiagonal matrix with the diagonal d and -1 beside it."""
    return d * v - jnp.roll(v, 1) - jnp.roll(v, -1)


def on_callable(solve: Callable[[Any], Any], n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function of the diagonal that solves for a callable operator of size n."""
    function = lambda d: solve(eigenjax.as_operator(functools.partial(cyclic_tridiagonal, d), like=d))
    return function, (jnp.linspace(3.0, 9.0, n),)


def gradient_on_callable(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the gradient of a loss of the eigenvectors of a callable operator of size n."""
    loss = lambda d: cubes(eigenjax.eigsh(functools.partial(cyclic_tridiagonal, d), 3, like=d).eigenvectors)
    return jax.grad(loss), (jnp.linspace(3.0, 9.0, n),)


def second_operator(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function that solves outside of jit for an operator, after another one of the same size."""
    d = jnp.linspace(3.0, 9.0, n)
    jax.block_until_ready(eigenjax.eigsh(functools.partial(cyclic_tridiagonal, d), 6, like=d))
    return (lambda d: eigenjax.eigsh(lambda v: d * v + 0.5 * cyclic_tridiagonal(d, v), 6, like=d)), (d,)


def digits(solve: Callable[[Any], Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function of the parameters that solves for the Hessian of a trained network."""
    network = perceptron(DIGITS_WIDTHS, DIGITS_EXAMPLES, DIGITS_STEPS)
    batch = network.images, network.labels
    return (lambda params, batch: solve(eigenjax.hessian(network.loss, params, batch))), (network.params, batch)


def by_matfree(op: Any) -> Any:
    """Compute the top five Ritz pairs of one Krylov space."""
    from matfree import decomp, eig

    start = jnp.ones(op.size)
    return eig.eigh_partial(decomp.tridiag_sym(MATFREE_STEPS, reortho="full"))(lambda v: product(op, v), start)


def residual_loss(params: dict[str, dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Compute the mean square of the outputs of a residual network."""
    for layer in params.values():
        x = x + jnp.tanh(x @ layer["w"] + layer["b"])
    return jnp.mean(x**2)


def residual(solve: Callable[..., Any], leaves: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function of the parameters of a residual network with this number of leaves."""
    layer = {"w": 0.1 * jnp.ones((WIDTH, WIDTH)), "b": jnp.zeros(WIDTH)}
    params = {f"layer_{i:03d}": layer for i in range(leaves // 2)}
    return (lambda params, x: solve(params, x)), (params, jnp.ones((32, WIDTH)))


def hessian_vector(params: Any, x: jax.Array) -> Any:
    """Compute one Hessian-vector product, without a solver."""
    return jax.jvp(jax.grad(lambda p: residual_loss(p, x)), (params,), (params,))[1]


def top_of_residual(params: Any, x: jax.Array) -> Any:
    """Compute the top five eigenpairs of the Hessian."""
    return eigenjax.eigsh(eigenjax.hessian(residual_loss, params, x), 5)


def gradient_of_residual(params: Any, x: jax.Array) -> Any:
    """Compute the gradient of a loss of the top three eigenvectors."""
    loss = lambda p: cubes(eigenjax.eigsh(eigenjax.hessian(residual_loss, p, x), 3).eigenvectors)
    return jax.grad(loss)(params)


def jobs(quick: bool) -> dict[str, Job]:
    """List the jobs by name."""
    key, sizes = jax.random.key(0), (200,) if quick else (2000, 40_000)
    named_jobs: dict[str, Job] = {}
    for n in sizes:
        named_jobs[f"callable {n} eigsh"] = functools.partial(on_callable, lambda op: eigenjax.eigsh(op, 6), n)
        if not quick:
            named_jobs[f"callable {n} gradient"] = functools.partial(gradient_on_callable, n)
            named_jobs[f"callable {n} matvec"] = functools.partial(on_callable, lambda op: op(jnp.ones(op.size)), n)
            named_jobs[f"callable {n} second"] = functools.partial(second_operator, n)
    solvers = {
        "eigs": lambda op: eigenjax.eigs(op, 6),
        "svds": lambda op: eigenjax.svds(op, 6),
        "trace": lambda op: eigenjax.trace(op, key=key, num_matvecs=30),
        "spectral_density": lambda op: eigenjax.spectral_density(op, key=key),
        "tracker": _tracked,
    }
    for name, solve in solvers.items():
        if quick and name != "trace":
            continue
        named_jobs[f"callable {sizes[0]} {name}"] = functools.partial(on_callable, solve, sizes[0])
    if not quick:
        named_jobs["digits eigsh"] = lambda: digits(lambda op: eigenjax.eigsh(op, 5, tol=1e-4))
        named_jobs["digits gradient"] = lambda: digits(lambda op: cubes(eigenjax.eigsh(op, 3).eigenvectors))
    if not quick and importlib.util.find_spec("matfree"):
        named_jobs["digits matfree"] = lambda: digits(by_matfree)
    for leaves in QUICK_LEAVES if quick else LEAVES:
        functions = {"product": hessian_vector, "eigsh": top_of_residual, "gradient": gradient_of_residual}
        for name, solve in functions.items():
            named_jobs[f"residual {leaves} {name}"] = functools.partial(residual, solve, leaves)
    return named_jobs


def _tracked(op: Any) -> Any:
    tracker = eigenjax.spectrum_tracker(3)
    return tracker.update(op, tracker.init(op, jax.random.key(0)))


def first_seconds(job: Job, name: str) -> float:
    """Measure the first call of a job in this process, after the device is initialized."""
    function, arguments = job()
    if name == "digits gradient":
        function = jax.grad(function)
    jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.ones(3)))
    start = time.perf_counter()
    jax.block_until_ready((function if name.endswith("second") else jax.jit(function))(*arguments))
    return time.perf_counter() - start


def in_fresh_process(name: str, quick: bool) -> float:
    """Measure the first call of a job in a new process."""
    command = [sys.executable, "-m", "benchmarks.scale.first_call", "--job", name, *(["--quick"] if quick else [])]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(completed.stdout.splitlines()[-1])


def limit(name: str, seconds: dict[str, float]) -> float | None:
    """Return the seconds that a job should take at most; None for a job that is only a reference."""
    problem, size, *_ = name.split()
    task = name.split()[-1]
    if problem == "residual":
        reference = seconds[f"residual {size} product"]
        return {"product": None, "eigsh": 2 + 3 * reference, "gradient": 4 + 8 * reference}[task]
    if problem == "digits":
        reference = seconds.get("digits matfree")
        return None if reference is None or task == "matfree" else {"eigsh": 2, "gradient": 4}[task] * reference
    if task in ("matvec", "second"):
        return None if task == "matvec" else seconds[f"callable {size} matvec"] + 0.3
    return {"eigsh": 1.5, "gradient": 3.0}.get(task, 2.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--job")
    own, rest = parser.parse_known_args(argv)
    if own.job:
        print(first_seconds(jobs("--quick" in rest)[own.job], own.job))
        return
    args = timing.arguments(__doc__, 3, rest)
    samples: dict[str, list[float]] = {name: [] for name in jobs(args.quick)}
    for _ in range(1 if args.quick else args.repeats):
        for name, measured in samples.items():
            measured.append(in_fresh_process(name, args.quick))
    seconds = {name: statistics.median(measured) for name, measured in samples.items()}
    rows = []
    for name, measured in seconds.items():
        limit_s = limit(name, seconds)
        met = None if limit_s is None else measured <= limit_s
        rows.append({"job": name, "first_s": measured, "limit_s": limit_s, "met": met})
    timing.record("first_call", rows, args)


if __name__ == "__main__":
    main()
