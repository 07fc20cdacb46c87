"""What a reverse pass sets aside, by the compiler's account: vectors beside what the forward pass keeps for it."""

import jax
import jax.numpy as jnp
import pytest

from eigenjax import eigsh

SIZE, K = 10**5, 8


def temporary_vectors(**options):
    """Of the backward pass alone, given what the forward one kept and the cotangents of the eigenvectors."""
    solve = lambda diagonal: eigsh(lambda v: diagonal * v, K, v0=diagonal, krylov_dim=24, **options).eigenvectors
    diagonal, cotangents = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((SIZE,), (K, SIZE)))
    backward = jax.eval_shape(lambda diagonal: jax.vjp(solve, diagonal)[1], diagonal)
    compiled = jax.jit(lambda backward, cotangents: backward(cotangents)).lower(backward, cotangents).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * SIZE)


@pytest.mark.parametrize("which", ["LA", pytest.param("LM", marks=pytest.mark.slow)])
def test_a_reverse_pass_holds_the_vectors_that_its_docstring_says(which):
    assert temporary_vectors(which=which) <= {"LA": 4 * K + 10, "LM": 7 * K + 12}[which]
