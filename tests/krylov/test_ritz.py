"""Order of the wanted Ritz values, and the projected problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import eigsh
from eigenjax.krylov.ritz import check_count, check_which, masked_eigh, projected_eigh, wanted_order

VALUES = np.array([-3.0, 2.0, 1.0, 0.0, -2.5], np.float32)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("LM", [-3, -2.5, 2, 1, 0]),
        ("LA", [2, 1, 0, -2.5, -3]),
        ("SA", [-3, -2.5, 0, 1, 2]),
        ("BE", [2, -3, 1, -2.5, 0]),
    ],
)
def test_the_most_wanted_come_first(which, expected):
    np.testing.assert_array_equal(VALUES[wanted_order(jnp.asarray(VALUES), which)], expected)


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_what_is_not_valid_comes_last_and_changes_no_order(which):
    valid = np.array([False, True, True, True, False])
    order = np.asarray(wanted_order(jnp.asarray(VALUES), which, jnp.asarray(valid)))
    alone = VALUES[valid][np.asarray(wanted_order(jnp.asarray(VALUES[valid]), which))]
    np.testing.assert_array_equal(VALUES[order[:3]], alone)
    assert set(order[3:]) == {0, 4}


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_equal_values_keep_their_order(which):
    np.testing.assert_array_equal(np.sort(wanted_order(jnp.ones(4), which)), np.arange(4))


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e30])
@pytest.mark.parametrize("num_valid", [1, 4, 6])
def test_the_part_filled_is_solved_at_any_scale(scale, num_valid, rng):
    normal = rng.standard_normal((6, 6))
    matrix = (scale * (normal + normal.T)).astype(np.float32)
    values, vectors, valid = projected_eigh(jnp.asarray(matrix), jnp.int32(num_valid))
    truth = np.linalg.eigvalsh(matrix[:num_valid, :num_valid].astype(float))
    largest = np.abs(truth).max()
    np.testing.assert_array_equal(valid, np.arange(6) < num_valid)
    np.testing.assert_allclose(np.asarray(values, float)[:num_valid], truth, rtol=0, atol=1e-6 * largest)
    block = np.asarray(vectors, float)[:num_valid, :num_valid]
    np.testing.assert_allclose((block * truth) @ block.T / largest, matrix[:num_valid, :num_valid] / largest, atol=3e-6)


def test_nan_is_taken_for_zero():
    values, vectors, _ = projected_eigh(jnp.diag(jnp.array([1.0, jnp.nan, jnp.inf])), jnp.int32(3))
    np.testing.assert_allclose(values, [0, 0, 1], atol=1e-6)
    assert np.all(np.isfinite(vectors))


def test_arguments_are_checked():
    check_which("BE")
    check_count(3, 3)
    with pytest.raises(ValueError, match="eigsh with sigma=0"):
        check_which("SM")
    with pytest.raises(ValueError, match="write which='LM'"):
        check_which("lm")
    with pytest.raises(ValueError, match="choose one of"):
        check_which("largest")
    with pytest.raises(ValueError, match="choose 1 <= k <= 3"):
        check_count(4, 3)
    with pytest.raises(TypeError, match="give an int"):
        check_count(True, 3)


@pytest.mark.parametrize("num_valid", [8, 16, 19])
def test_rows_not_filled_cost_no_digits(num_valid, rng, float64):
    # Restarts leave invalid rows between valid ones; the eigensolver must not mix their placeholders with the others.
    valid = np.isin(np.arange(20), rng.permutation(20)[:num_valid])
    solve = jax.jit(lambda matrix: masked_eigh(matrix, jnp.asarray(valid))[0])
    for _ in range(20):
        noise = rng.normal(size=(num_valid, num_valid))
        projected = (noise + noise.T) / np.linalg.norm(noise + noise.T, 2)
        matrix = np.zeros((20, 20))
        matrix[np.ix_(valid, valid)] = projected
        values = np.asarray(solve(jnp.asarray(matrix)))[:num_valid]
        np.testing.assert_allclose(values, np.linalg.eigvalsh(projected), rtol=0, atol=16 * np.finfo(float).eps)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_vectors_are_orthonormal_to_rounding(dtype, rng):
    # NumPy's eigh in the same precision leaves 10 to 30 eps.
    bound = 4 * np.finfo(np.float32).eps
    for m in (8, 22, 60):
        noise = rng.normal(size=(m, m)) + (1j * rng.normal(size=(m, m)) if dtype is np.complex64 else 0)
        matrix = jnp.asarray(noise + noise.conj().T, dtype)
        _, vectors, _ = masked_eigh(matrix, jnp.arange(m) < m - 2)
        vectors = np.asarray(vectors, np.complex128)
        assert np.abs(vectors.conj().T @ vectors - np.eye(m)).max() < bound


def test_the_vectors_of_a_solve_are_orthonormal_to_rounding(rng):
    noise = rng.normal(size=(300, 300))
    matrix = jnp.asarray(noise + noise.T, jnp.float32)
    for seed in range(4):
        vectors = np.asarray(eigsh(matrix, 6, key=jax.random.key(seed)).eigenvectors, np.float64)
        assert np.abs(vectors @ vectors.T - np.eye(6)).max() < 8 * np.finfo(np.float32).eps
