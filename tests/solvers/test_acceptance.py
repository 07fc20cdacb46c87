"""The acceptance list: every solver on every spectrum that has led a solver astray, against dense float64 arithmetic.

All problems of one size are solved in one batch (vmap) and one by one (jit), so that a solver is compiled twice per
precision however long the list is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, deflated_power_iteration, hessian, lanczos

SOLVERS = {"lanczos": lanczos, "power": deflated_power_iteration}
SIZE = 40
POWER_TOL = 1e-4  # its default

# n = 40 eigenvalues, to be rotated by a random orthogonal matrix.
SPECTRA = {
    "zero": np.zeros(40),
    "identity": np.ones(40),
    "1e-6 identity": np.full(40, 1e-6),
    "1e6 identity": np.full(40, 1e6),
    "rank 3": [5, 3, 1] + [0] * 37,
    "rank 20": [*range(1, 21)] + [0] * 20,
    "two values": [50] * 20 + [1] * 20,
    "triple ten": [10, 10, 10, 5] + [1] * 36,
    "double one": [1, 1] + [0] * 38,
    "multiplicity 4": [7] * 4 + [*np.linspace(0, 5, 36)],
    "clusters": [1, 1 + 1e-3, 1 + 1e-5, 1 + 1e-7, 2, 2 + 1e-7, *np.linspace(-1, 0, 34)],
    "symmetric about zero": [*np.linspace(1, 20, 20), *-np.linspace(1, 20, 20)],
    "wanted zero": [0, -1, -2, -3, *-np.linspace(4, 20, 36)],
    "condition 1e9": np.logspace(-6, 3, 40),
    "Hessian-like": [*np.linspace(5, 50, 5), *-np.linspace(1, 3, 5), *np.linspace(-1e-3, 1e-3, 30)],
}
# Few enough distinct eigenvalues for 21 products and for 100 power steps a pair.
EASY = {
    "zero",
    "identity",
    "1e-6 identity",
    "1e6 identity",
    "rank 3",
    "two values",
    "triple ten",
    "triple ten, diagonal",
    "double one",
}


def cycle(n):
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, axis=0) - np.roll(np.eye(n), -1, axis=0)


def wilkinson(n):
    return np.diag(np.abs(np.arange(n) - n // 2).astype(float)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)


def wishart(n):
    x = np.random.default_rng(n).standard_normal((n, n))
    return x @ x.T / n


@functools.cache
def matrices(dtype, rotated):
    """All n = 40 problems by name, in a dtype."""
    shapes = {
        "triple ten, diagonal": np.diag(np.asarray(SPECTRA["triple ten"], float)),
        "cycle": cycle(SIZE),
        "Wishart": wishart(SIZE),
        "negative definite": -wishart(SIZE) - np.eye(SIZE),
        "plus 1e6": wishart(SIZE) + 1e6 * np.eye(SIZE),
    }
    scales = (1e-14, 1e14, 1e-20, 1e18) + ((1e-30,) if dtype == np.float64 else ())
    scaled = {f"times {scale:.0e}": scale * wishart(SIZE) for scale in scales}
    problems = {name: rotated(values) for name, values in SPECTRA.items()} | shapes | scaled
    return {name: matrix.astype(dtype) for name, matrix in problems.items()}


NAMES = [*SPECTRA, "triple ten, diagonal", "cycle", "Wishart", "negative definite", "plus 1e6"]
NAMES += ["times 1e-14", "times 1e+14", "times 1e-20", "times 1e+18"]
# solver, k, which, whether krylov_dim allows all k of every problem
SOLVES = {
    "lanczos-k20-LM": (lanczos, 20, "LM", True),
    "lanczos-k39-LA": (lanczos, 39, "LA", True),
    "lanczos-k40-BE": (lanczos, 40, "BE", True),
    "lanczos-k10-LM": (lanczos, 10, "LM", False),
    "lanczos-k1-SA": (lanczos, 1, "SA", False),
    "power-k5-LM": (deflated_power_iteration, 5, "LM", False),
    "power-k5-LA": (deflated_power_iteration, 5, "LA", False),
    "power-k40-LM": (deflated_power_iteration, 40, "LM", False),
}


@functools.cache
def batch_solved(solve, dtype, rotated):
    solver, k, which, _ = SOLVES[solve]
    stack = jnp.asarray(np.stack([*matrices(dtype, rotated).values()]))
    return jax.tree.map(np.asarray, jax.vmap(lambda a: solver(a, k, which=which))(stack))


def solved(solve, name, dtype, transform, rotated):
    problems = matrices(dtype, rotated)
    if transform == "vmap":
        lane = [*problems].index(name)
        return jax.tree.map(lambda x: x[lane], batch_solved(solve, dtype, rotated))
    solver, k, which, _ = SOLVES[solve]
    return solver(jnp.asarray(problems[name]), k, which=which)


@pytest.mark.parametrize("transform", ["jit", "vmap"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solve", SOLVES)
def test_no_pair_is_wrong_and_none_within_reach_is_missing(solve, name, dtype, transform, rotated, check_result):
    solver, k, which, complete = SOLVES[solve]
    is_power = solver is deflated_power_iteration
    check_result(
        solved(solve, name, dtype, transform, rotated),
        matrices(dtype, rotated)[name],
        which=which,
        tol=POWER_TOL if is_power else None,
        complete=complete or (name in EASY and k > 1),
        accuracy=POWER_TOL if is_power else None,
    )


@pytest.mark.parametrize("transform", ["jit", "vmap"])
@pytest.mark.parametrize("solve", SOLVES)
def test_a_spectrum_of_1e_minus_30_in_float64(solve, transform, float64, rotated, check_result):
    name, dtype = "times 1e-30", np.dtype("float64")
    solver, _, which, complete = SOLVES[solve]
    tol = POWER_TOL if solver is deflated_power_iteration else None
    result = solved(solve, name, dtype, transform, rotated)
    check_result(result, matrices(dtype, rotated)[name], which=which, tol=tol, complete=complete)


def test_a_spectrum_below_the_range_of_float32_flags_no_wrong_pair():
    # Its products are subnormal, which a CPU may flush to zero: nothing is known, and nothing must be claimed.
    matrix = (1e-36 * wishart(SIZE)).astype(np.float32)
    result = lanczos(jnp.asarray(matrix), k=20)
    truth = np.linalg.eigvalsh(matrix.astype(float))
    distance = np.abs(np.asarray(result.eigenvalues, float)[:, None] - truth).min(axis=1)
    assert (distance[np.asarray(result.converged)] <= 1e-3 * truth.max()).all()


@pytest.mark.parametrize("transform", ["jit", "vmap"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3)])
def test_the_smallest_operators(solver, n, k, dtype, transform, rotated, check_result):
    matrix = rotated([4.0, -1.0, 2.0][:n]).astype(dtype)
    solve = lambda a: SOLVERS[solver](a, k)
    if transform == "vmap":
        result = jax.tree.map(lambda x: x[1], jax.vmap(solve)(jnp.stack([jnp.zeros((n, n), dtype), matrix])))
    else:
        result = jax.jit(solve)(jnp.asarray(matrix))
    is_power = solver == "power"
    check_result(result, matrix, tol=POWER_TOL if is_power else None, complete=True, accuracy=POWER_TOL * is_power or None)


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_pairs_than_dimensions_is_an_error_that_names_the_range(solver):
    with pytest.raises(ValueError, match=r"k=4: the operator is 3 x 3, so choose 1 <= k <= 3"):
        SOLVERS[solver](jnp.eye(3), k=4)


DIAGONAL = np.diag([5.0, 4.0, 3.0, -2.0, 1.0, 0.0, 0.0, 0.5])
STARTS = {
    "zero": np.zeros(8),
    "the wanted eigenvector": np.eye(8)[0],
    "another eigenvector": np.eye(8)[3],
    "a null vector": np.eye(8)[5] + np.eye(8)[6],
    "orthogonal to the wanted one": np.array([0.0, 1, 1, 1, 1, 1, 1, 1]),
    "tiny": np.full(8, 1e-30),
    "large": np.full(8, 1e30),
}


@pytest.mark.parametrize("transform", ["jit", "vmap"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_any_start_vector(solver, start, dtype, transform, check_result):
    starts = jnp.asarray(np.stack([*STARTS.values()]).astype(dtype))
    matrix = jnp.asarray(DIAGONAL.astype(dtype))
    lane = [*STARTS].index(start)
    k = 3 if solver == "lanczos" else 5
    solve = lambda a, v0: SOLVERS[solver](a, k, v0=v0)
    if transform == "vmap":
        result = jax.tree.map(lambda x: x[lane], jax.vmap(solve, in_axes=(None, 0))(matrix, starts))
    else:
        result = solve(matrix, starts[lane])
    check_result(result, matrix, tol=POWER_TOL if solver == "power" else None, complete=solver == "lanczos")
