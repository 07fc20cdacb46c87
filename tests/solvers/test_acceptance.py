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
# The shift is ||A|| from below, as far as the iterates have seen it: 26 of 50 here, so that the unwanted 50s shrink by
# 0.97 a step only, and 100 steps may fall short.
SLOWLY = {("power-k5-SA", "two values")}


def cycle(n):
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, axis=0) - np.roll(np.eye(n), -1, axis=0)


def wilkinson(n):
    return (
        np.diag(np.abs(np.arange(n) - n // 2).astype(float)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    )


@functools.cache
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
    "lanczos-k40-LM": (lanczos, 40, "LM", True),
    "lanczos-k10-LM": (lanczos, 10, "LM", False),
    "lanczos-k39-LA": (lanczos, 39, "LA", True),
    "lanczos-k20-BE": (lanczos, 20, "BE", True),
    "power-k5-LM": (deflated_power_iteration, 5, "LM", False),
    "power-k40-LM": (deflated_power_iteration, 40, "LM", False),
    "power-k5-SA": (deflated_power_iteration, 5, "SA", False),
}
BATCHED = ("lanczos-k40-LM", "lanczos-k10-LM", "power-k5-LM", "power-k5-SA")
JITTED = ("lanczos-k10-LM", "lanczos-k39-LA", "lanczos-k20-BE", "power-k5-LM", "power-k40-LM")
WAYS = [(solve, "vmap") for solve in BATCHED] + [(solve, "jit") for solve in JITTED]


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("solve", "transform"), WAYS)
def test_no_pair_is_wrong_and_none_within_reach_is_missing(solve, name, dtype, transform, rotated, check_result):
    solver, k, which, complete = SOLVES[solve]
    is_power = solver is deflated_power_iteration
    check_result(
        solved(solve, name, dtype, transform, rotated),
        matrices(dtype, rotated)[name],
        which=which,
        tol=POWER_TOL if is_power else None,
        complete=complete or (name in EASY and k > 1 and (solve, name) not in SLOWLY),
        accuracy=POWER_TOL if is_power else None,
    )


@pytest.mark.parametrize(("solve", "transform"), WAYS)
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


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (3, 3)])
def test_the_smallest_operators(solver, n, k, rotated, check_result):
    stack = np.stack([rotated([4.0, -1.0, 2.0][:n]), np.zeros((n, n)), np.eye(n)]).astype(np.float32)
    results = jax.vmap(lambda a: SOLVERS[solver](a, k))(jnp.asarray(stack))
    tol = POWER_TOL if solver == "power" else None
    for lane, matrix in enumerate(stack):
        result = jax.tree.map(lambda x, lane=lane: x[lane], results)
        check_result(result, matrix, tol=tol, complete=True, accuracy=tol)


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


@pytest.mark.parametrize("solver", SOLVERS)
def test_any_start_vector(solver, dtype, check_result):
    matrix = jnp.asarray(DIAGONAL.astype(dtype))
    starts = jnp.asarray(np.stack([*STARTS.values()]).astype(dtype))
    k = 3 if solver == "lanczos" else 5
    results = jax.vmap(lambda v0: SOLVERS[solver](matrix, k, v0=v0))(starts)
    for lane in range(len(STARTS)):
        result = jax.tree.map(lambda x, lane=lane: x[lane], results)
        check_result(result, matrix, tol=POWER_TOL if solver == "power" else None, complete=solver == "lanczos")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_start_vector_too_long_to_measure_flags_no_wrong_pair(solver, check_result):
    # Its norm is not a finite float32.
    matrix = DIAGONAL.astype(np.float32)
    result = SOLVERS[solver](jnp.asarray(matrix), 3, v0=jnp.full(8, 3e38))
    if int(result.status) == Status.NONFINITE:
        assert not np.any(result.converged)
    else:
        check_result(result, matrix, tol=POWER_TOL if solver == "power" else None)


@pytest.mark.parametrize("k", [1, 5])
def test_wishart_40_with_few_pairs(k, dtype, check_result):
    matrix = wishart(SIZE).astype(dtype)
    check_result(lanczos(jnp.asarray(matrix), k), matrix)


@pytest.mark.parametrize("k", [1, 10, pytest.param(1000, marks=pytest.mark.slow)])
def test_wishart_1000(k, dtype, check_result):
    matrix = wishart(1000).astype(dtype)
    check_result(lanczos(jnp.asarray(matrix), k), matrix, complete=k == 1000)


def test_wilkinsons_pairs_of_eigenvalues_are_both_found(dtype, check_result):
    # The two largest of W21+ agree to 7e-14: equal in either precision, and not the same.
    matrix = wilkinson(21).astype(dtype)
    check_result(lanczos(jnp.asarray(matrix), 21), matrix, complete=True)


def test_forty_pairs_of_rank_fifty_in_a_hundred_dimensions(dtype, rotated, check_result):
    matrix = rotated([*range(50, 0, -1)] + [0] * 50).astype(dtype)
    check_result(lanczos(jnp.asarray(matrix), 40), matrix, complete=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_hessian_of_eight_samples_in_a_hundred_dimensions(solver, check_result):
    samples = np.random.default_rng(0).standard_normal((8, 100)).astype(np.float32)
    op = hessian(lambda p, x: jnp.mean((x @ p) ** 2), jnp.ones(100), jnp.asarray(samples))
    matrix = 2 / 8 * samples.astype(float).T @ samples.astype(float)
    tol = POWER_TOL if solver == "power" else None
    result = SOLVERS[solver](op)
    check_result(result, matrix, tol=tol, unit=np.finfo(np.float32).eps, complete=solver == "lanczos")


TROUBLES = {
    "sound": (np.zeros((8, 8)), 1e-3),
    "NaN": (np.diag([np.nan] + [0.0] * 7), 1e-3),
    "Inf": (np.diag([0.0] * 7 + [np.inf]), 1e-3),
    "tol 0": (np.zeros((8, 8)), 0.0),
    "not symmetric": (0.05 * np.eye(8, k=3), 1e-3),
    "slightly not symmetric": (3e-6 * np.eye(8, k=3), 1e-3),
}


@pytest.fixture(params=SOLVERS)
def troubled(request, dtype, rotated):
    """The matrices of TROUBLES and their results, solved in one batch."""
    stack = np.stack([rotated([5, -4, 3, 2, 1, 0.5, 0, -1]) + trouble for trouble, _ in TROUBLES.values()]).astype(
        dtype
    )
    tols = np.array([tol for _, tol in TROUBLES.values()], dtype)
    results = jax.vmap(lambda a, tol: SOLVERS[request.param](a, 3, tol=tol))(jnp.asarray(stack), jnp.asarray(tols))
    lane = lambda i: jax.tree.map(lambda x: x[i], results)
    return request.param, {name: (stack[i], lane(i)) for i, name in enumerate(TROUBLES)}


def test_trouble_in_one_lane_is_told_and_harms_no_other(troubled, check_result):
    solver, lanes = troubled
    for name in ("NaN", "Inf"):
        result = lanes[name][1]
        assert int(result.status) == Status.NONFINITE
        assert not result.converged.any()
        assert np.isnan(result.eigenvalues).all()
    matrix, result = lanes["sound"]
    check_result(result, matrix, tol=1e-3, complete=solver == "lanczos")
    matrix, result = lanes["tol 0"]
    check_result(result, matrix, tol=0.0)
    assert int(result.status) in (Status.STAGNATED, Status.NOT_CONVERGED)
    assert not result.converged.all()
    for name in ("not symmetric", "slightly not symmetric"):
        matrix, result = lanes[name]
        assert_honest(result, matrix, 1e-3)
    if solver == "lanczos":
        assert int(lanes["not symmetric"][1].status) == Status.INCONSISTENT


def assert_honest(result, matrix, tol):
    """Residuals are true and flags follow from them, whatever the matrix is."""
    matrix, vectors = matrix.astype(float), np.asarray(result.eigenvectors, float)
    values = np.asarray(result.eigenvalues, float)
    residuals = np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1)
    size = np.linalg.norm(matrix, 2)
    slack = 50 * np.finfo(np.asarray(result.residuals).dtype).eps * size
    np.testing.assert_allclose(np.asarray(result.residuals, float), residuals, rtol=0, atol=slack)
    assert (residuals[np.asarray(result.converged)] <= tol * size + slack).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_complex_hermitian(solver, dtype, rotated, check_result):
    matrix = rotated([5, 4, -3, 2, 2, 1, 0, -1], is_complex=True).astype(np.result_type(dtype, np.complex64))
    tol = POWER_TOL if solver == "power" else None
    result = SOLVERS[solver](jnp.asarray(matrix), 5)
    assert result.eigenvalues.dtype == dtype
    check_result(result, matrix, tol=tol, complete=True, accuracy=tol)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_bfloat16_operator_is_solved_to_its_rounding(solver, rotated, check_result):
    matrix = jnp.asarray(rotated([8, -6, 4, 3, 2, 1, 0.5, 0]), jnp.bfloat16)
    dense, unit = np.asarray(matrix, np.float32), float(jnp.finfo(jnp.bfloat16).eps)
    result = SOLVERS[solver](matrix, 3)
    assert result.eigenvalues.dtype == jnp.float32
    check_result(result, dense, tol=POWER_TOL if solver == "power" else None, unit=unit)
    truth = np.linalg.eigvalsh(dense.astype(float))[[7, 0, 6]]
    np.testing.assert_allclose(result.eigenvalues, truth, rtol=0, atol=2 * unit * 8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_empty_scalar_and_mixed_leaves(solver, dtype, rotated, check_result):
    narrow = {"float32": "bfloat16", "float64": "float32"}[str(dtype)]
    like = {"a": jnp.zeros((2, 3), dtype), "b": jnp.zeros(0), "c": jnp.zeros((), dtype), "d": jnp.zeros(2, narrow)}
    dense = rotated([9, 7, -5, 3, 3, 1, 0, -1, 2]).astype(dtype)

    def product(v):
        image = jnp.asarray(dense) @ jnp.concatenate([leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(v)])
        pieces = jnp.split(image, [6, 6, 7])
        return jax.tree.map(
            lambda x, leaf: x.reshape(leaf.shape).astype(leaf.dtype), dict(zip(like, pieces, strict=True)), like
        )

    result = SOLVERS[solver](as_operator(product, like=like), 3)
    unit = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(like))
    check_result(result, dense, tol=POWER_TOL if solver == "power" else None, unit=unit)
    np.testing.assert_allclose(result.eigenvalues, [9, 7, -5], rtol=0, atol=max(2 * unit * 9, 1e-3))
