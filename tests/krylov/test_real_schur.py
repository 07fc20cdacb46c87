"""Real Schur form of small matrices: backward stable, orthogonal, in a given order, with conjugate pairs intact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax.krylov.general.real_schur import block_eigenvalues, real_schur, reorder_blocks

SIZE = 11
# Bound UNITS * eps on backward errors relative to the norm.
UNITS = 100.0
DECOMPOSE, REORDER = jax.jit(real_schur), jax.jit(reorder_blocks)


def cases(n=SIZE):
    rng = np.random.default_rng(3)
    normal = lambda: rng.normal(size=(n, n))
    decay = np.diag(10.0 ** -np.arange(n))
    return {
        "random": normal(),
        "Jordan block, lower": np.eye(n) + np.eye(n, k=-1),
        "cyclic permutation": np.roll(np.eye(n), 1, axis=0),
        "companion": np.vstack([-np.ones(n), np.eye(n)[:-1]]),
        "orthogonal": np.linalg.qr(normal())[0],
        "graded": decay @ normal() @ decay,
        "zero": np.zeros((n, n)),
        "symmetric": (lambda a: a + a.T)(normal()),
        "triangular": np.triu(np.arange(n * n * 1.0).reshape(n, n)),
        "quarter turns": scipy.linalg.block_diag(*[[[0, 1], [-1, 0]]] * (n // 2), 1),
        "convection": 2 * np.eye(n) - 1.9 * np.eye(n, k=-1) - 0.1 * np.eye(n, k=1),
        "Grcar": np.eye(n) - np.eye(n, k=-1) + sum(np.eye(n, k=i) for i in (1, 2, 3)),
        "tiny": 1e-20 * normal(),
    }


def check_form(form, matrix):
    eps = np.finfo(matrix.dtype).eps
    triangular, orthogonal = (np.asarray(x).astype(np.float64) for x in form[:2])
    second = np.asarray(form.second)
    assert bool(form.converged)
    below = np.tril(triangular, -1)
    assert not (below - np.diag(np.where(second[1:], np.diag(below, -1), 0), -1)).any()
    assert not (second[1:] & second[:-1]).any()
    size = max(np.linalg.norm(matrix.astype(np.float64)), np.finfo(float).tiny)
    assert np.linalg.norm(orthogonal @ triangular @ orthogonal.T - matrix) <= UNITS * eps * size
    assert np.linalg.norm(orthogonal.T @ orthogonal - np.eye(len(matrix))) <= UNITS * eps
    return size * eps


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_form_and_order(name, dtype):
    matrix = cases()[name].astype(dtype)
    form = DECOMPOSE(jnp.asarray(matrix))
    check_form(form, matrix)
    values = np.asarray(block_eigenvalues(form))
    assert np.array_equal(np.sort_complex(values), np.sort_complex(values.conj()))
    keys = -np.abs(values)
    other = REORDER(form, jnp.asarray(keys))
    rounding = check_form(other, matrix)
    sizes = np.abs(np.asarray(block_eigenvalues(other)))
    # Magnitudes descend, except where rounding exchanges neighbors.
    assert np.all(np.maximum.accumulate(sizes[::-1])[::-1] - sizes <= UNITS * rounding)


@pytest.mark.usefixtures("float64")
def test_eigenvalues_are_those_of_lapack():
    for name in ("random", "orthogonal", "symmetric"):
        values = np.asarray(block_eigenvalues(DECOMPOSE(jnp.asarray(cases()[name]))))
        truth = np.linalg.eigvals(cases()[name])
        assert np.abs(values[:, None] - truth).min(axis=0).max() < 1e-13 * np.abs(truth).max()


def test_leading_vectors_are_those_of_the_keys():
    # Two pairs and a real eigenvalue, coupled: the leading subspace equals that of LAPACK's reordered form.
    blocks = np.asarray(scipy.linalg.block_diag([[1.0, 2], [-2, 1]], [[-3.0]], [[2.0, 0.5], [-0.5, 2]]))
    matrix = (blocks + np.triu(np.ones((5, 5)), 2)).astype(np.float32)
    form = DECOMPOSE(jnp.asarray(matrix))
    other = REORDER(form, -block_eigenvalues(form).real)
    assert other.second.tolist() == [False, True, False, True, False]
    values, vectors = np.linalg.eig(matrix.astype(np.float64))
    pair = np.asarray(vectors, complex)[:, np.argmax(np.real(values))]
    truth = np.linalg.qr(np.stack([np.real(pair), np.imag(pair)], axis=1))[0]
    overlap = np.linalg.svd(truth.T @ np.asarray(other.orthogonal)[:, :2], compute_uv=False)
    assert_allclose(overlap, 1, atol=1e-5)


def test_a_batch_and_nan_in_its_lane():
    matrices = np.stack([cases()[name] for name in ("random", "Grcar", "zero")]).astype(np.float32)
    matrices[2, 3, 4] = np.nan
    together = jax.jit(jax.vmap(real_schur))(jnp.asarray(matrices))
    assert together.converged.tolist() == [True, True, False]
    assert np.isnan(together.triangular[2]).all()
    assert np.isnan(together.orthogonal[2]).all()
    for i in range(2):
        check_form(jax.tree.map(lambda x, i=i: x[i], together), matrices[i])
