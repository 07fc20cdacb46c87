"""Absolute tolerance beside the relative one: the looser of both ends a solve, in units of the eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, eigs, eigsh, shift_inverse

pytestmark = pytest.mark.usefixtures("float64")

N = 200
MATRIX = np.diag(np.linspace(1.0, 100.0, N)) + 0.01 * np.ones((N, N))


def test_a_loose_atol_saves_matvecs_and_a_tight_one_changes_nothing():
    solve = lambda **options: eigsh(MATRIX, 3, which="SA", **options)
    strict, loose = solve(tol=1e-10), solve(tol=1e-10, atol=1e-2)
    assert loose.status == Status.CONVERGED
    assert loose.num_matvecs < strict.num_matvecs
    assert jnp.max(loose.residuals) <= 1e-2
    same = solve(tol=1e-10, atol=1e-13)
    assert same.num_matvecs == strict.num_matvecs
    np.testing.assert_array_equal(same.eigenvalues, strict.eigenvalues)


def test_atol_alone():
    for scale in (1e-6, 1.0, 1e6):
        result = eigsh(scale * MATRIX, 3, tol=0.0, atol=1e-4 * scale)
        assert result.status == Status.CONVERGED
        assert jnp.max(result.residuals) <= 1e-4 * scale


OTHERS = [{"b": 2 * np.eye(N)}, {"sigma": 50.3}, {"preconditioner": np.eye(N), "which": "SA"}]


@pytest.mark.parametrize("options", OTHERS)
def test_other_methods_take_it(options):
    result = eigsh(MATRIX, 2, tol=1e-13, atol=1e-3, **options)
    strict = eigsh(MATRIX, 2, tol=1e-10, **options)
    assert result.status == Status.CONVERGED
    assert jnp.max(result.residuals) <= 1e-3 * 2
    assert result.num_matvecs < strict.num_matvecs


def test_with_an_inverse_it_bounds_the_error_of_the_eigenvalue():
    result = eigsh(MATRIX, 3, sigma=20.3, inverse=shift_inverse(MATRIX, 20.3), tol=1e-15, atol=1e-4)
    exact = np.linalg.eigvalsh(MATRIX)
    exact = exact[np.argsort(np.abs(exact - 20.3))[:3]]
    assert result.status == Status.CONVERGED
    assert np.all(np.abs(result.eigenvalues - exact) <= 1e-4)


@pytest.mark.usefixtures("dense_by_default")
def test_eigs_and_decompositions_take_it():
    result = eigs(jnp.asarray(MATRIX), 3, tol=0.0, atol=1e-3, dense=False)
    assert result.status == Status.CONVERGED
    assert jnp.max(result.residuals) <= 1e-3
    for solve in (eigs, eigsh):
        assert solve(MATRIX, 3, tol=0.0, atol=1e-6).status == Status.CONVERGED


def test_it_is_traced_and_checked():
    solve = jax.jit(lambda atol: eigsh(MATRIX, 1, tol=0.0, atol=atol).residuals[0])
    assert solve(1e-1) <= 1e-1
    assert solve(1e-5) <= 1e-5
    with pytest.raises(ValueError, match="atol=-1"):
        eigsh(MATRIX, 1, atol=-1.0)
