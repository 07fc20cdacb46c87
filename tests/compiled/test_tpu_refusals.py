"""Refusals on a TPU: each names the cause, and the remedy in its message works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eigenjax

SOLVES = {
    "eigsh": lambda a: eigenjax.eigsh(a, 2),
    "lanczos": lambda a: eigenjax.lanczos(a, 2),
    "eigs": lambda a: eigenjax.eigs(a, 2),
    "svds": lambda a: eigenjax.svds(a, 2),
    "trace": lambda a: eigenjax.trace(a, key=jax.random.key(0)),
}


@pytest.fixture
def on_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


@pytest.mark.parametrize("name", SOLVES)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_numbers_of_64_bits_are_refused(name, dtype, on_tpu):
    with jax.enable_x64(True), pytest.raises(TypeError, match=rf"{name}.*{np.dtype(dtype)}.*float32.*default_device"):
        SOLVES[name](jnp.eye(30, dtype=dtype))


def test_the_remedy_for_64_bits_works(on_tpu):
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        found = eigenjax.eigsh(jnp.diag(jnp.arange(30.0)), 2)
    np.testing.assert_allclose(found.eigenvalues, [29, 28], rtol=1e-10)


def test_numbers_of_32_bits_are_not_refused(on_tpu):
    assert eigenjax.as_operator(jnp.eye(3, dtype=jnp.float32)).size == 3


@pytest.mark.parametrize("function", [eigenjax.eig, eigenjax.eigenvalue_condition])
def test_general_decompositions_are_refused(function, on_tpu):
    with pytest.raises(NotImplementedError, match="TPU has no eigensolver for general matrices"):
        function(jnp.eye(3))


def test_the_remedy_for_general_decompositions_works(on_tpu):
    with jax.default_device(jax.devices("cpu")[0]):
        found = eigenjax.eig(jnp.diag(jnp.array([1.0, 2.0])))
    np.testing.assert_allclose(np.sort(found.eigenvalues.real), [1, 2], rtol=1e-6)
