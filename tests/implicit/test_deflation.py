"""Deflation of the linear systems by recycled Ritz vectors: the same solutions with fewer matvecs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import as_operator
from eigenjax.implicit.systems import complement, deflation
from eigenjax.implicit.systems.pairs import Pairs, own_gaps, pairs_of
from eigenjax.krylov.recycling import RecycledPairs
from eigenjax.solvers.symmetric.eigsh import eigsh

SIZE, K = 60, 3

pytestmark = pytest.mark.usefixtures("float64")


def laplacian(rng, is_complex):
    """Construct the Laplacian of a path in a random basis: the wanted eigenvalues are clustered."""
    noise = rng.normal(size=(SIZE, SIZE)) + 1j * is_complex * rng.normal(size=(SIZE, SIZE))
    vectors, _ = np.linalg.qr(noise if is_complex else noise.real)
    matrix = (vectors * (2 - 2 * np.cos(np.pi * np.arange(1, SIZE + 1) / (SIZE + 1)))) @ vectors.conj().T
    return (matrix + matrix.conj().T) / 2


def both_ways(matrix, rhs, definite=False, **options):
    """Return the pairs, the recycled pairs, the deflation, and the solutions without and with it."""
    op = as_operator(matrix)
    result, recycled = eigsh(op, K, **{"which": "SA", "krylov_dim": 16} | options)
    pairs = pairs_of(op, result)
    solve = functools.partial(complement.iterate, pairs, rhs, adjoint_tol=1e-10, max_iter=None, definite=definite)
    return result, recycled, deflation.deflate(pairs, recycled), solve(recycled=None), solve(recycled=recycled)


@pytest.mark.slow
@pytest.mark.parametrize(("is_complex", "block_size"), [(False, 1), (True, 2)])
def test_the_solutions_are_those_of_a_dense_solve_in_fewer_products(is_complex, block_size, rng):
    matrix = laplacian(rng, is_complex)
    rhs = rng.normal(size=(K, SIZE)).astype(matrix.dtype)
    # A missed-pair search with blocks records dropped components only as norms.
    solve = jax.jit(functools.partial(both_ways, tol=1e-9, block_size=block_size, verify=block_size == 1))
    result, recycled, used, plain, found = solve(jnp.asarray(matrix), jnp.asarray(rhs))

    leftover = np.asarray(recycled.basis).T @ np.asarray(recycled.coefficients)
    valid = np.linalg.norm(leftover, axis=0) > 0.5
    assert valid.sum() >= 8
    coupled = np.asarray(recycled.residual_block).T @ np.asarray(recycled.coupling)
    images = leftover * np.asarray(recycled.values) + coupled
    assert_allclose(matrix @ leftover[:, valid], images[:, valid], rtol=0, atol=1e-13)
    assert np.any(used.used)

    vectors = np.asarray(result.eigenvectors).T
    outside = np.eye(SIZE) - vectors @ vectors.conj().T
    for value, b, z in zip(result.eigenvalues, rhs, found.solution, strict=True):
        exact = np.linalg.pinv(outside @ (float(value) * np.eye(SIZE) - matrix) @ outside, rcond=1e-7) @ b
        assert_allclose(z, exact, rtol=0, atol=1e-7 * np.linalg.norm(exact))
    assert int(jnp.sum(found.num_matvecs)) < 0.8 * int(jnp.sum(plain.num_matvecs))


@pytest.mark.slow
def test_a_copy_of_a_wanted_eigenvalue_is_not_divided_by(rng):
    values = np.concatenate([[-3.0, -2.0, -1.0, -1.0], np.linspace(0, 2, SIZE - 4)])
    rhs = jnp.asarray(rng.normal(size=(K, SIZE)))
    solve = jax.jit(functools.partial(both_ways, tol=1e-9, block_size=2, verify=False))
    result, recycled, used, _, found = solve(jnp.asarray(np.diag(values)), rhs)
    assert_allclose(result.eigenvalues, values[:K], atol=1e-9)
    copy = np.argmin(np.abs(np.asarray(recycled.values) + 1.0))
    assert_allclose(recycled.values[copy], -1.0, atol=1e-6)
    # The copy is deflated from the systems of other eigenvalues, not from those of its own eigenvalue.
    assert_allclose(used.used[:, copy], [True, True, False])
    assert np.all(used.inverses[~np.asarray(used.used)] == 0)
    outside = np.eye(SIZE) - np.asarray(result.eigenvectors).T @ np.asarray(result.eigenvectors)
    for value, b, z in zip(result.eigenvalues[:2], rhs, found.solution, strict=False):
        exact = np.linalg.pinv(outside @ (float(value) * np.eye(SIZE) - np.diag(values)) @ outside, rcond=1e-7) @ b
        assert_allclose(z, exact, rtol=0, atol=1e-7 * np.linalg.norm(exact))
    assert np.all(np.isfinite(found.solution))


@pytest.mark.slow
def test_what_a_restart_has_dropped_is_not_believed(rng):
    # A missed-pair search drops vectors. Recycled columns that this affects are omitted; the others are exact.
    matrix = laplacian(rng, False)
    solve = jax.jit(functools.partial(both_ways, tol=1e-4, verify=True))
    _, recycled, _, _, _ = solve(jnp.asarray(matrix), jnp.asarray(rng.normal(size=(K, SIZE))))
    leftover = np.asarray(recycled.basis).T @ np.asarray(recycled.coefficients)
    coupled = np.asarray(recycled.residual_block).T @ np.asarray(recycled.coupling)
    images = leftover * np.asarray(recycled.values) + coupled
    valid = np.linalg.norm(leftover, axis=0) > 0.5
    assert_allclose(matrix @ leftover[:, valid], images[:, valid], rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("definite", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_right_hand_side_of_few_eigenvectors_is_solved_before_anything_is_mixed_with_them(definite, rng):
    matrix = laplacian(rng, False)
    vectors = np.linalg.eigh(matrix)[1].T
    few, many = np.repeat(vectors[None, 7] - vectors[30], K, axis=0), rng.normal(size=(K, SIZE))
    solve = jax.jit(functools.partial(both_ways, tol=1e-12, definite=definite))
    result, _, used, _, found = solve(jnp.asarray(matrix), jnp.asarray(few))
    assert np.any(used.used)
    assert jnp.max(found.num_matvecs) <= 3
    for value, z in zip(result.eigenvalues, found.solution, strict=True):
        exact = [vectors[i] / (value - vectors[i] @ matrix @ vectors[i]) for i in (7, 30)]
        assert_allclose(z, exact[0] - exact[1], atol=1e-7)

    _, _, _, plain, found = solve(jnp.asarray(matrix), jnp.asarray(many))
    assert int(jnp.sum(found.num_matvecs)) < 0.8 * int(jnp.sum(plain.num_matvecs))
    outside = np.eye(SIZE) - vectors[:K].T @ vectors[:K]
    for value, b, z in zip(result.eigenvalues, many, found.solution, strict=True):
        exact = np.linalg.pinv(outside @ (float(value) * np.eye(SIZE) - matrix) @ outside, rcond=1e-7) @ b
        assert_allclose(z, exact, rtol=0, atol=1e-7 * np.linalg.norm(exact))


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE", None])
def test_no_eigenvalue_left_out_is_nearer_than_the_gaps_say(which):
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=12)
        ends = np.argsort(-values)
        order = {
            "LA": ends,
            "SA": ends[::-1],
            "LM": np.argsort(-np.abs(values)),
            "BE": np.ravel(np.stack([ends, ends[::-1]], axis=1))[:12],
            None: np.argsort(np.abs(values - 0.3)),
        }[which]
        wanted, others = values[order[:5]], values[order[5:]]
        distances = np.abs(wanted[:, None] - others).min(axis=1)
        gaps = np.asarray(own_gaps(jnp.asarray(wanted), jnp.asarray(distances.min()), which))
        assert np.all(gaps <= distances * (1 + 1e-12))
        assert np.all(gaps >= distances.min() * (1 - 1e-12))


def test_what_would_make_the_system_larger_than_the_operator_is_not_eliminated():
    # The entry S E^-1 S^H = 0.3^2 / gap is compared with the operator norm, 2.
    values = jnp.array([1.0, 1.9, 1.99])
    pairs = Pairs(as_operator(jnp.eye(6)), jnp.array([2.0]), jnp.eye(6)[:1], jnp.array([1e-12]), None)
    recycled = RecycledPairs(
        values=values,
        coefficients=jnp.eye(3),
        coupling=jnp.full((1, 3), 0.3),
        residual_block=jnp.eye(6)[5:],
        basis=jnp.eye(6)[2:5],
    )
    assert deflation.deflate(pairs, recycled).used.tolist() == [[True, True, False]]
