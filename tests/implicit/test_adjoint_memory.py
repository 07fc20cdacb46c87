"""Temporary memory of a reverse pass as the compiler reports it, in vectors, beside the saved forward results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator, eigsh
from eigenjax.implicit.systems import complement
from eigenjax.implicit.systems.pairs import pairs_of
from eigenjax.solvers.symmetric.eigsh import eigsh as solver

K = 10


def temporary_vectors(size, **options):
    """Count the temporary vectors of the backward pass, given the saved forward results and eigenvector cotangents."""
    solve = lambda diagonal: eigsh(lambda v: diagonal * v, K, v0=diagonal, krylov_dim=24, **options).eigenvectors
    diagonal, cotangents = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size,), (K, size)))
    backward = jax.eval_shape(lambda diagonal: jax.vjp(solve, diagonal)[1], diagonal)
    compiled = jax.jit(lambda backward, cotangents: backward(cotangents)).lower(backward, cotangents).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes / (4 * size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "size", "vectors"),
    [
        ({"which": "LM"}, 10**6, 3 * K + 8),
        pytest.param({"which": "LA"}, 10**6, 3 * K + 8, marks=pytest.mark.slow),
        pytest.param({"which": "LM"}, 10**5, 4 * K + 11, marks=pytest.mark.slow),
        pytest.param({"sigma": 1.0}, 10**6, 3 * K + 8, marks=pytest.mark.slow),
        pytest.param({"sigma": 1.0}, 10**5, 8 * K + 11, marks=pytest.mark.slow),
    ],
)
def test_a_reverse_pass_holds_the_vectors_that_its_docstring_says(options, size, vectors):
    small_arrays = 0.1
    assert temporary_vectors(size, **options) <= vectors + small_arrays


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("which", "k", "definite"),
    [("LM", 7, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("LM", 7, False), ("LA", 5, True)))],
)
def test_systems_in_turn_are_solved_as_well_as_all_at_once(which, k, definite, rng, monkeypatch):
    n, tol = 60, 1e-6
    values = np.r_[np.linspace(-3, 3, n - 8), 9, -8, 7, -6.5, 6, 5.5, 5, 4.5]
    vectors, _ = np.linalg.qr(rng.normal(size=(n, n)))
    matrix, rhs = (vectors * values) @ vectors.T, rng.normal(size=(k, n))
    rhs[1] = 0

    def solved():
        result, recycled = solver(as_operator(jnp.asarray(matrix)), k, which=which, tol=tol)
        pairs = pairs_of(as_operator(jnp.asarray(matrix)), result, which)
        options = {"adjoint_tol": None, "max_iter": None, "definite": definite}
        return pairs, [complement.iterate(pairs, jnp.asarray(rhs), recycled=x, **options) for x in (None, recycled)]

    pairs, at_once = jax.jit(solved)()
    monkeypatch.setattr(complement, "_ALL_AT_ONCE", 0)
    _, in_turn = jax.jit(lambda: solved())()
    wanted = np.argsort(-np.abs(values) if which == "LM" else -values)[:k]
    left, others = np.delete(vectors, wanted, axis=1), np.delete(values, wanted)
    exact = (rhs @ left) / (values[wanted][:, None] - others) @ left.T
    share = np.asarray(pairs.residuals) / np.asarray(pairs.gaps)
    allowed = np.linalg.norm(np.minimum(1, share) * np.linalg.norm(exact, axis=1))
    for whole, parts in zip(at_once, in_turn, strict=True):
        assert np.linalg.norm(project(pairs, whole.solution) - exact) <= 2 * allowed
        assert np.linalg.norm(project(pairs, parts.solution) - exact) <= 2 * allowed
        # The stopping test of one system depends on results of the others, which come in another order here.
        assert np.max(np.abs(np.asarray(whole.num_matvecs - parts.num_matvecs))) <= 1
        assert parts.num_matvecs[1] == 0


def project(pairs, solutions):
    return complement.project_out(pairs.vectors, solutions)
