"""Claim: the gradient of a loss of five eigenvectors takes less time from `eigsh` than from other methods.

Timed in turn, for the loss sum_ij w_ij v_ij^2 in float32, with forward and backward pass in one program:

    eigsh      this library: restarted Lanczos, and the implicit linear systems
    unrolled   jax.grad through a Lanczos iteration with full reorthogonalization, written here
    matfree    the same iteration with matfree's adjoint of it
    eigh       jnp.linalg.eigh of the dense matrix, all eigenvectors
    lobpcg     torch.lobpcg, with torch's backward pass

The two Lanczos iterations take the smallest multiple of ten steps that reaches the tolerance of eigsh. `temporary_MB`
is the temporary memory beside arguments and results; torch reports none. `error` is the relative error of the gradient
against dense float64. Packages that are not installed, or fail, are named and omitted.

    python -m benchmarks.derivative.gradient_time
"""

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import spectra, timing
from eigenjax import eigsh

PAIRS = 5
TOL = 1e-5
_MOST_STEPS = 400


class Problem(NamedTuple):
    """Symmetric matrix A(theta), the wanted end of its spectrum, and the weights of the loss."""

    name: str
    theta: np.ndarray  # float64: the matrix itself, or the potential on a grid
    matvec: Callable[[jax.Array, jax.Array], jax.Array]  # (v, theta) -> A v
    dense: Callable[[jax.Array], jax.Array]  # theta -> A
    which: str
    weights: np.ndarray  # (k, n)
    start: np.ndarray  # (n,)


def dense_problem(n: int) -> Problem:
    """Create a matrix with separated largest eigenvalues 12, 11, ... over a bulk in (-1, 1)."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    eigenvalues = np.concatenate([12.0 - np.arange(PAIRS + 2), rng.uniform(-1, 1, n - PAIRS - 2)])
    matrix = (basis * eigenvalues) @ basis.T
    multiply = lambda v, matrix: jnp.matmul(matrix, v, precision=jax.lax.Precision.HIGHEST)
    draws = rng.normal(size=(PAIRS, n)), rng.normal(size=n)
    return Problem(f"dense, n={n}", (matrix + matrix.T) / 2, multiply, lambda matrix: matrix, "LA", *draws)


def grid_problem(sides: tuple[int, int]) -> Problem:
    """Create minus the Laplacian on a grid plus a potential, the variable; matrix-free if the method allows it."""
    rng = np.random.default_rng(1)
    n = math.prod(sides)
    laplacian = spectra.grid_laplacian(sides)[0].toarray()

    def matvec(v, potential):
        padded = jnp.pad(v.reshape(sides), 1)
        neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        return 4 * v - neighbours.ravel() + potential * v

    dense = lambda potential: jnp.asarray(laplacian, potential.dtype) + jnp.diag(potential)
    draws = rng.normal(size=(PAIRS, n)), rng.normal(size=n)
    return Problem(f"2-D Laplacian, n={n}", 0.01 * rng.normal(size=n), matvec, dense, "SA", *draws)


def dense_gradient(problem: Problem) -> np.ndarray:
    """Compute the symmetric part of sum_i sum_j x_j <x_j, xbar_i> / (lambda_i - lambda_j) x_i^T in float64."""
    with jax.enable_x64(True):
        matrix = np.asarray(problem.dense(jnp.asarray(problem.theta)))
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-values if problem.which == "LA" else values)
    values, vectors = values[order], vectors[:, order]
    gaps = values[:PAIRS] - values[:, None]
    factors = np.divide(1, gaps, out=np.zeros_like(gaps), where=gaps != 0)
    bars = 2 * problem.weights.T * vectors[:, :PAIRS]
    gradient = vectors @ (factors * (vectors.T @ bars)) @ vectors[:, :PAIRS].T
    return in_theta((gradient + gradient.T) / 2, problem)


def in_theta(gradient: np.ndarray, problem: Problem) -> np.ndarray:
    """Convert a gradient to one in the variable: the diagonal for a potential, else the symmetric part."""
    if problem.theta.ndim == 1:
        return np.diagonal(gradient) if gradient.ndim == 2 else gradient
    return (gradient + gradient.T) / 2


def loss_of(vectors: Any, weights: Any) -> Any:
    """Compute the loss of k vectors as rows, independent of their signs."""
    return (weights * vectors**2).sum()


def by_eigsh(problem: Problem, theta: jax.Array, weights: jax.Array, start: jax.Array) -> jax.Array:
    """Compute the loss with `eigsh`."""
    operator = theta if theta.ndim == 2 else lambda v: problem.matvec(v, theta)
    result = eigsh(operator, PAIRS, which=problem.which, tol=TOL, v0=start, verify=False)
    return loss_of(result.eigenvectors, weights)


def by_unrolled(problem: Problem, steps: int, theta: jax.Array, weights: jax.Array, start: jax.Array) -> jax.Array:
    """Compute the loss from A V = V T by a scan, T = C diag(theta) C^T, and the rows of (V C)^T at one end."""

    def step(carry, j):
        basis, vector = carry
        basis = basis.at[j].set(vector)
        image = problem.matvec(vector, theta)
        alpha = vector @ image
        for _ in range(2):
            image = image - basis.T @ (basis @ image)
        beta = jnp.linalg.norm(image)
        return (basis, image / beta), (alpha, beta)

    zeros = jnp.zeros((steps, start.size), start.dtype)
    first = (zeros, start / jnp.linalg.norm(start))
    (basis, _), (alphas, betas) = jax.lax.scan(step, first, jnp.arange(steps, dtype=jnp.int32))
    off = betas[:-1]
    coefficients = jnp.linalg.eigh(jnp.diag(alphas) + jnp.diag(off, 1) + jnp.diag(off, -1))[1]
    return loss_of((coefficients.T @ basis)[wanted(problem)], weights)


def by_matfree(problem: Problem, steps: int, theta: jax.Array, weights: jax.Array, start: jax.Array) -> jax.Array:
    """Compute the loss with matfree's Lanczos, with full reorthogonalization and its adjoint."""
    decomp, eig = (importlib.import_module(f"matfree.{name}") for name in ("decomp", "eig"))
    solve = eig.eigh_partial(decomp.tridiag_sym(steps, reortho="full", custom_vjp=True))
    return loss_of(solve(problem.matvec, start, theta)[1][wanted(problem)], weights)


def by_eigh(problem: Problem, theta: jax.Array, weights: jax.Array, start: jax.Array) -> jax.Array:
    """Compute the loss from all eigenpairs of the dense matrix."""
    del start
    return loss_of(jnp.linalg.eigh(problem.dense(theta))[1].T[wanted(problem)], weights)


def wanted(problem: Problem) -> slice:
    """Select the k wanted of ascending eigenvalues, the most wanted first."""
    return slice(None, -PAIRS - 1, -1) if problem.which == "LA" else slice(PAIRS)


def by_torch(problem: Problem) -> Callable[[], np.ndarray]:
    """Build the gradient of torch.lobpcg with respect to the dense matrix, on the GPU if torch has one."""
    torch = importlib.import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensor = lambda x: torch.tensor(np.asarray(x), dtype=torch.float32, device=device)
    matrix, weights = tensor(problem.dense(jnp.asarray(problem.theta, jnp.float32))), tensor(problem.weights)

    def gradient():
        torch.manual_seed(0)
        variable = matrix.clone().requires_grad_()
        vectors = torch.lobpcg(variable, PAIRS, tol=TOL, niter=1000, largest=problem.which == "LA")[1]
        loss_of(vectors.T, weights).backward()
        return variable.grad.cpu().numpy()

    return gradient


def least_steps(problem: Problem) -> int:
    """Find the smallest multiple of ten Lanczos steps that gives the k pairs to the tolerance."""
    with jax.enable_x64(True):
        matrix = np.asarray(problem.dense(jnp.asarray(problem.theta)))
    most = min(_MOST_STEPS, len(matrix) - 1)
    basis, small = np.zeros((most + 1, len(matrix))), np.zeros((most + 1, most))
    basis[0] = problem.start / np.linalg.norm(problem.start)
    for j in range(most):
        image = matrix @ basis[j]
        for _ in range(2):
            coefficients = basis[: j + 1] @ image
            image -= coefficients @ basis[: j + 1]
            small[: j + 1, j] += coefficients
        small[j + 1, j] = np.linalg.norm(image)
        basis[j + 1] = image / small[j + 1, j]
        if (j + 1) % 10 == 0 and j + 1 >= 2 * PAIRS:
            values, vectors = np.linalg.eigh((small[: j + 1, : j + 1] + small[: j + 1, : j + 1].T) / 2)
            residuals = np.abs(small[j + 1, j] * vectors[-1])[wanted(problem)]
            if residuals.max() <= TOL * np.abs(values).max():
                return j + 1
    return most


def measure(problem: Problem, packages: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """Return one row for each method."""
    steps, truth = least_steps(problem), dense_gradient(problem)
    losses = {"eigsh": by_eigsh, "unrolled": functools.partial(by_unrolled, steps=steps), "eigh": by_eigh}
    if "matfree" in packages:
        losses["matfree"] = functools.partial(by_matfree, steps=steps)
    arrays = [jnp.asarray(x, jnp.float32) for x in (problem.theta, problem.weights, problem.start)]
    programs, temporary = {}, {}
    for name, loss in losses.items():
        of_theta = lambda theta, weights, start, loss=loss: loss(problem, theta=theta, weights=weights, start=start)
        compiled = jax.jit(jax.grad(of_theta)).lower(*arrays).compile()
        programs[name] = functools.partial(compiled, *arrays)
        temporary[name] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    if "torch" in packages:
        program = by_torch(problem)
        try:
            program()
        except RuntimeError as error:  # torch factorizes a characteristic polynomial at A: may fail
            print(f"torch.lobpcg, {problem.name}: {type(error).__name__}: {error}")
        else:
            programs["lobpcg"], temporary["lobpcg"] = program, None
    errors = {}
    for name, program in programs.items():
        found = in_theta(np.asarray(program(), np.float64), problem)
        errors[name] = float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    timings = timing.interleaved(programs, repeats)
    return [
        {
            "problem": problem.name,
            "method": name,
            "seconds": timings[name].median,
            "over_eigsh": timing.ratio(timings[name], timings["eigsh"]),
            "temporary_MB": temporary[name],
            "error": errors[name],
            "lanczos_steps": steps if name in ("unrolled", "matfree") else None,
        }
        for name in programs
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 7, argv)
    packages = [name for name in ("matfree", "torch") if importlib.util.find_spec(name)]
    print("not installed, left out:", [name for name in ("matfree", "torch") if name not in packages])
    problems = (
        [dense_problem(60), grid_problem((6, 7))]
        if args.quick
        else [*map(dense_problem, (500, 1000, 2000)), grid_problem((40, 50))]
    )
    rows = []
    for problem in problems:
        rows += measure(problem, packages, args.repeats)
        print(timing.table(rows), flush=True)
    timing.record("gradient_time", rows, args)


if __name__ == "__main__":
    main()
