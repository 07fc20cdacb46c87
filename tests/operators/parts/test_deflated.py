"""Solves that keep away from known vectors, against dense problems on the complement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax import Status, deflate, eigsh, to_dense
from tests.conftest import normal, rotated

N, P, K = 40, 3, 2


def on_the_complement(a, b, known):
    """Return the eigenvalues of the pencil for the vectors x with Y^H B x = 0."""
    basis = scipy.linalg.null_space(known.conj() @ b)
    small = lambda m: basis.conj().T @ m @ basis
    return scipy.linalg.eigh(small(a), small(b), eigvals_only=True)


@pytest.mark.parametrize("which", ["SA", "LA"])
@pytest.mark.parametrize("is_pencil", [False, True])
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [np.float64, pytest.param(np.complex128, marks=pytest.mark.slow)])
def test_pairs_on_the_complement_of_any_vectors(kind, is_pencil, which, rng):
    is_complex = np.issubdtype(kind, np.complexfloating)
    a = rotated(np.linspace(1, 8, N), is_complex=is_complex)
    b = rotated(np.linspace(1, 2, N), 1, is_complex=is_complex) if is_pencil else np.eye(N, dtype=kind)
    known = normal(rng, (P, N), kind)
    shift, mass = {"SA": 20.0, "LA": 0.0}[which], jnp.asarray(b) if is_pencil else None
    op = deflate(jnp.asarray(a), jnp.asarray(known), shift=shift, b=mass)
    found = eigsh(op, K, which=which, b=mass)
    expected = on_the_complement(a, b, known)
    assert_allclose(found.eigenvalues, expected[:K] if which == "SA" else expected[::-1][:K], rtol=1e-9)
    assert_allclose(known.conj() @ b @ np.asarray(found.eigenvectors).T, 0, atol=1e-7)


@pytest.mark.usefixtures("float64")
def test_the_next_pairs_after_those_known():
    a, exact = jnp.asarray(rotated(np.arange(1.0, N + 1))), np.arange(1.0, N + 1)
    first = eigsh(a, P, which="SA")
    next_ones = eigsh(deflate(a, first.eigenvectors, shift=2.0 * N), K, which="SA")
    assert_allclose(next_ones.eigenvalues, exact[P : P + K], rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_trees_adjoints_and_derivatives(rng):
    square, known = rng.standard_normal((5, 5)), rng.standard_normal((2, 5))
    split = lambda x: {"a": x[..., :2], "b": x[..., 2:]}
    product = lambda v: split(jnp.asarray(square) @ jnp.concatenate([v["a"], v["b"]]))
    op = deflate(product, split(jnp.asarray(known)), shift=0.5, like=split(jnp.zeros(5)))
    away = np.eye(5) - known.T @ np.linalg.solve(known @ known.T, known)
    dense = away @ square @ away + 0.5 * (np.eye(5) - away)
    assert_allclose(to_dense(op), dense, atol=1e-13)
    assert_allclose(to_dense(op.H), dense.T, atol=1e-13)
    symmetric = jnp.asarray(square + square.T)
    value = lambda y: on_the_complement(np.asarray(symmetric), np.eye(5), y)[-1]
    top = lambda y: eigsh(deflate(symmetric, y, shift=-50.0), 1, which="LA").eigenvalues[0]
    gradient, direction = jax.grad(top)(jnp.asarray(known)), rng.standard_normal((2, 5))
    slope = (value(known + 1e-5 * direction) - value(known - 1e-5 * direction)) / 2e-5
    assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


def test_dependent_vectors_are_told_by_the_status():
    rows = jnp.ones((2, 6))
    assert jax.jit(lambda rows: eigsh(deflate(jnp.eye(6), rows, shift=0.0), 1).status)(rows) == Status.NONFINITE


def test_wrong_rows_are_named():
    with pytest.raises(TypeError, match="shift=2j is complex"):
        deflate(jnp.eye(6), jnp.ones((1, 6)), shift=2j)
    for rows, message in ((jnp.ones(6), "needs"), (jnp.ones((2, 5)), r"a row of vectors.*\(6,\)"), (1.0, "give rows")):
        with pytest.raises(ValueError, match=message):
            deflate(jnp.eye(6), rows, shift=0.0)
