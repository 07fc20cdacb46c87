"""Solver `svds(which="SM")` against dense NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, svds

from .conftest import check_result
from .test_svds import matrices, rotated

SLOW = pytest.mark.slow
K = 5


check_smallest = functools.partial(check_result, smallest=True)


def differences(n, *, with_ends):
    """Return the differences of n numbers as a matrix; with zeros at both ends it has full rank."""
    whole = np.eye(n + 1, n) - np.eye(n + 1, n, -1)
    return whole if with_ends else whole[1:-1]


def grid(height, width, *, with_ends):
    line = functools.partial(differences, with_ends=with_ends)
    return np.r_[np.kron(line(height), np.eye(width)), np.kron(np.eye(height), line(width))]


CASES = {
    "tall": np.random.default_rng(0).standard_normal((200, 60)),
    "wide": np.random.default_rng(0).standard_normal((60, 200)),
    "square": rotated(np.linspace(1, 0.1, 60), 60, 60),
    "triple smallest": rotated([*np.linspace(1, 0.2, 57), 0.1, 0.1, 0.1], 90, 60),
    "rank n - 3, tall": rotated([*np.linspace(1, 0.1, 57), 0, 0, 0], 200, 60),
    "rank n - 3, wide": rotated([*np.linspace(1, 0.1, 57), 0, 0, 0], 60, 200),
    "rank n - 3, square": rotated([*np.linspace(1, 0.1, 57), 0, 0, 0], 60, 60),
    "three columns of zeros": np.diag([*np.linspace(1, 0.1, 57), 0, 0, 0]),
    "condition 1e4": rotated([*np.linspace(1, 0.1, 57), 1e-2, 1e-3, 1e-4], 80, 60),
    "condition 1e8": rotated([*np.linspace(1, 0.1, 57), 1e-4, 1e-6, 1e-8], 80, 60),
    "nearly singular": rotated([*np.linspace(1, 0.1, 59), 1e-12], 60, 60),
    "a path with ends": differences(60, with_ends=True),
    "a path": differences(60, with_ends=False),
    "a grid": grid(9, 7, with_ends=False),
    "a cycle": np.roll(np.eye(60), 1, axis=0) - np.eye(60),
    "identity": np.eye(60),
    "zero": np.zeros((70, 60)),
    "1 / i": rotated(1 / np.arange(1.0, 31), 40, 30),
}
QUICK = ("tall", "rank n - 3, square", "three columns of zeros", "triple smallest")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else SLOW) for name in CASES])
def test_the_smallest_triplets_to_the_last_digit(name, float64):
    check_smallest(svds(jnp.asarray(CASES[name]), K, which="SM"), CASES[name])


@SLOW
@pytest.mark.parametrize("name", ["tall", "rank n - 3, wide", "condition 1e4"])
def test_complex_matrices(name, float64, rng):
    matrix = CASES[name]
    p, n = matrix.shape
    left, right = (np.linalg.qr(rng.normal(size=(m, m)) + 1j * rng.normal(size=(m, m)))[0] for m in (p, n))
    matrix = left @ matrix @ right
    check_smallest(svds(jnp.asarray(matrix), K, which="SM"), matrix)


@SLOW
def test_all_spectra_of_the_large_end_in_one_batch(float64):
    problems = matrices(np.float64)
    names = [*problems]
    broken = np.where(np.arange(30) == 3, np.nan, problems["normal"])
    stack = jnp.asarray(np.stack([*(problems[name] for name in names), broken]))
    results = jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda a: svds(a, K, which="SM", tol=1e-12)))(stack))
    lane = lambda index: jax.tree.map(lambda x: x[index], results)
    for index, name in enumerate(names):
        # Squares of 1e-20 beside one: the budget ends the solve, and the flags say so.
        check_smallest(lane(index), problems[name], tol=1e-12, complete=name != "graded")
    assert int(lane(-1).status) == Status.NONFINITE
    assert np.isnan(lane(-1).values).all()
    assert not lane(-1).converged.any()


@SLOW
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
@pytest.mark.parametrize("name", ["square", "rank n - 3, tall", "triple smallest"])
def test_single_precision_at_every_scale(name, scale):
    matrix = (scale * CASES[name]).astype(np.float32)
    check_smallest(svds(jnp.asarray(matrix), K, which="SM", tol=1e-5), matrix, tol=1e-5)


@SLOW
def test_a_space_that_is_whole_is_exact(float64):
    for values in (np.linspace(3, 1, 9), [2] * 4 + [1] * 3 + [0] * 2, np.logspace(0, -12, 9), np.zeros(9)):
        matrix = rotated(values, p=12, n=9)
        result = svds(jnp.asarray(matrix), 9, which="SM")
        check_smallest(result, matrix)
        assert int(result.num_matvecs) == 2 * 9 + 2


@pytest.mark.parametrize("budget", [1, 9, pytest.param(40, marks=SLOW)])
def test_a_budget_that_does_not_suffice_is_told(budget, float64):
    matrix = CASES["tall"]
    result = svds(jnp.asarray(matrix), 3, which="SM", max_matvecs=budget)
    assert int(result.num_matvecs) <= budget + 2 * 4
    assert int(result.status) == Status.NOT_CONVERGED
    assert not np.asarray(result.converged).any()


def test_matvecs_are_counted_exactly_and_pytrees_are_kept(float64):
    calls, matrix = [], grid(4, 5, with_ends=True)

    def product(v):
        jax.debug.callback(lambda: calls.append(1))
        image = jnp.asarray(matrix) @ jnp.concatenate([v["a"].ravel(), v["b"]])
        return image[:9], {"rest": image[9:].reshape(-1, 2)}

    def adjoint(u):
        jax.debug.callback(lambda: calls.append(1))
        image = jnp.asarray(matrix).T @ jnp.concatenate([u[0], u[1]["rest"].ravel()])
        return {"a": image[:12].reshape(3, 4), "b": image[12:]}

    like = {"a": jnp.ones((3, 4)), "b": jnp.ones(8)}
    result = jax.block_until_ready(svds(product, 4, which="SM", like=like, adjoint=adjoint, krylov_dim=9))
    jax.effects_barrier()
    assert len(calls) == int(result.num_matvecs)
    check_smallest(result, matrix)
    assert jax.tree.map(jnp.shape, result.left) == ((4, 9), {"rest": (4, 20, 2)})
    assert jax.tree.map(jnp.shape, result.right) == {"a": (4, 3, 4), "b": (4, 8)}


@SLOW
def test_the_dense_path_agrees(dense_by_default, float64, rng):
    for shape in ((30, 12), (12, 30), (12, 12)):
        matrix = rng.standard_normal(shape)
        check_smallest(svds(jnp.asarray(matrix), K, which="SM"), matrix)
        function = lambda v, matrix=matrix: jnp.asarray(matrix) @ v
        check_smallest(svds(function, K, which="SM", like=jnp.ones(shape[1])), matrix)
    check_smallest(
        svds(jnp.asarray(rotated([3, 2, 1, 0, 0, 0], 9, 6)), K, which="SM"), rotated([3, 2, 1, 0, 0, 0], 9, 6)
    )


@pytest.mark.parametrize("dense", [True, False])
def test_an_unknown_which_is_answered_by_the_choices(dense):
    with pytest.raises(ValueError, match="svds got which='SA': choose one of 'LM', 'SM'"):
        svds(jnp.ones((3, 5)), 1, which="SA", dense=dense)
    with pytest.raises(ValueError, match="svds got which='sm': write which='SM'"):
        svds(jnp.ones((3, 5)), 1, which="sm", dense=dense)
    with pytest.raises(TypeError, match="which=1: choose one of"):
        svds(jnp.ones((3, 5)), 1, which=1, dense=dense)
