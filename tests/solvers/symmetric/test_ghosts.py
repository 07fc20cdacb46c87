"""Spurious copies of a Ritz vector, distinguished from the vectors of a multiple eigenvalue."""

import jax.numpy as jnp
import numpy as np

from eigenjax.solvers.symmetric.ghosts import distinct_ritz_vectors


def distinct(vectors, residuals, valid=None):
    # The basis consists of the vectors themselves, so that the coefficients are the identity.
    vectors = jnp.asarray(vectors, jnp.float32)
    valid = jnp.ones(len(vectors), bool) if valid is None else jnp.asarray(valid)
    found, lengths = distinct_ritz_vectors(vectors, jnp.eye(len(vectors)), jnp.asarray(residuals, jnp.float32), valid)
    return list(np.asarray(found)), np.asarray(lengths)


def test_of_parallel_vectors_the_one_with_the_least_residual_stays():
    vectors = [[1, 0, 0], [0, 1, 0], [1, 0.1, 0], [-1, 0, 0]]
    assert distinct(vectors, [0.3, 0.1, 0.2, 0.4])[0] == [False, True, True, False]
    assert distinct(vectors, [0.1, 0.3, 0.2, 0.4])[0] == [True, True, False, False]


def test_orthogonal_vectors_all_stay():
    assert distinct(np.eye(3), [0.0, 0.0, 0.0])[0] == [True, True, True]


def test_what_is_not_valid_neither_stays_nor_displaces():
    assert distinct([[1, 0], [1, 0]], [0.1, 0.2], [False, True])[0] == [False, True]


def test_lengths_are_the_vectors_own_and_residuals_are_judged_by_them():
    # The residual of the short vector is the larger one after normalization.
    found, lengths = distinct([[1, 0], [0.01, 0]], [0.05, 0.01])
    np.testing.assert_allclose(lengths, [1, 0.01], rtol=1e-5)
    assert found == [True, False]


def test_a_vector_of_no_length_does_not_divide():
    found, lengths = distinct([[1, 0], [0, 0]], [0.1, 0.0])
    assert np.all(np.isfinite(lengths))
    assert found[0]
