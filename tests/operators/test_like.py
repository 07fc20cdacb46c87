"""Bare callables need no start vector: `like` gives the shape of their argument, in every function with an operator."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import eigenjax

KEY = jax.random.key(0)
VALUES = np.array([5.0, 1.0, -2.0, 0.5], np.float32)
LIKE = {"a": jax.ShapeDtypeStruct((3,), jnp.float32), "b": jnp.zeros(1)}


def product(v):
    return {"a": VALUES[:3] * v["a"], "b": VALUES[3:] * v["b"]}


# Each entry: a call that returns one number, and its exact value.
CALLS = {
    "eigsh": (lambda: eigenjax.eigsh(product, 1, like=LIKE).eigenvalues[0], 5.0),
    "lanczos": (lambda: eigenjax.lanczos(product, 1, like=LIKE).eigenvalues[0], 5.0),
    "deflated_power_iteration": (
        lambda: eigenjax.deflated_power_iteration(product, 1, like=LIKE, tol=1e-6).eigenvalues[0],
        5.0,
    ),
    "eigs": (lambda: eigenjax.eigs(product, 1, like=LIKE).eigenvalues[0].real, 5.0),
    "svds": (lambda: eigenjax.svds(product, 2, like=LIKE).values[1], 2.0),
    "trace": (lambda: eigenjax.trace(product, key=KEY, num_matvecs=12, like=LIKE).estimate, VALUES.sum()),
    "frobenius_norm": (
        lambda: eigenjax.frobenius_norm(product, key=KEY, num_matvecs=12, like=LIKE).estimate,
        np.linalg.norm(VALUES),
    ),
    "diagonal": (lambda: eigenjax.diagonal(product, key=KEY, num_matvecs=4, like=LIKE).estimate["b"][0], 0.5),
    "logdet": (lambda: eigenjax.logdet(lambda v: 4 * v, key=KEY, like=LIKE["a"]).estimate, 3 * np.log(4)),
    "trace_of_function": (
        lambda: (
            eigenjax.trace_of_function(
                product, jnp.square, key=KEY, deflate=eigenjax.eigsh(product, 4, like=LIKE), like=LIKE
            ).estimate
        ),
        (VALUES**2).sum(),
    ),
    "spectral_density": (lambda: eigenjax.spectral_density(product, key=KEY, like=LIKE).nodes.max(), 5.0),
    "eigenvalue_count": (lambda: eigenjax.eigenvalue_count(product, (0.0, 2.0), key=KEY, like=LIKE).estimate, 2.0),
    "matrix_function": (
        lambda: eigenjax.matrix_function(product, jnp.exp, {"a": jnp.eye(3)[1], "b": jnp.zeros(1)}, like=LIKE).vector[
            "a"
        ][1],
        np.e,
    ),
    "expm_multiply": (
        lambda: eigenjax.expm_multiply(product, {"a": jnp.eye(3)[1], "b": jnp.zeros(1)}, like=LIKE).vector["a"][1],
        np.e,
    ),
    "symmetry_error": (lambda: eigenjax.symmetry_error(product, KEY, like=LIKE), 0.0),
    "check_operator": (lambda: eigenjax.check_operator(product, KEY, like=LIKE).change, 0.0),
    "to_dense": (lambda: eigenjax.to_dense(product, like=LIKE)[3, 3], 0.5),
    "restrict": (lambda: eigenjax.to_dense(eigenjax.restrict(product, "b", like=LIKE))[0, 0], 0.5),
    "blocks": (lambda: eigenjax.to_dense(eigenjax.blocks(product, by=1, like=LIKE)["a"])[2, 2], -2.0),
    "block_spectra": (lambda: eigenjax.block_spectra(product, 1, by=1, like=LIKE)["b"].eigenvalues[0], 0.5),
    "precondition": (
        lambda: eigenjax.to_dense(eigenjax.precondition(product, {"a": 4 * jnp.ones(3), "b": jnp.ones(1)}, like=LIKE))[
            0, 0
        ],
        1.25,
    ),
    "deflate": (
        lambda: eigenjax.to_dense(
            eigenjax.deflate(product, {"a": jnp.eye(3)[:1], "b": jnp.zeros((1, 1))}, shift=7.0, like=LIKE)
        )[0, 0],
        7.0,
    ),
    "run": (lambda: eigenjax.run(product, 1, progress=False, like=LIKE).eigenvalues[0], 5.0),
    "estimate": (lambda: eigenjax.estimate(product, 2, like=LIKE).num_matvecs[0], 4),
    "left_eigenvectors": (
        lambda: abs(
            eigenjax.left_eigenvectors(product, eigenjax.eigs(product, 1, like=LIKE), like=LIKE).vectors["a"][0, 0]
        ),
        1.0,
    ),
    "sharpness_penalty": (lambda: eigenjax.sharpness_penalty(product, like=LIKE), 5.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_bare_callable_with_like(name):
    call, expected = CALLS[name]
    assert_allclose(call(), expected, rtol=2e-4, atol=1e-5)


def test_every_function_of_an_operator_takes_like():
    of_operators = {
        name
        for name in eigenjax.__all__
        if inspect.isfunction(function := getattr(eigenjax, name)) and "op" in inspect.signature(function).parameters
    }
    assert {
        name for name in of_operators if "like" not in inspect.signature(getattr(eigenjax, name)).parameters
    } == set()
    assert of_operators - {"adjoint_info"} <= set(CALLS)


def test_a_start_vector_goes_with_like():
    start = {"a": jnp.array([1.0, 1.0, 1.0]), "b": jnp.ones(1)}
    result = eigenjax.eigsh(product, 4, like=LIKE, v0=start)
    assert_allclose(result.eigenvalues, np.sort(VALUES)[::-1], atol=1e-4)


@pytest.mark.slow
def test_without_like_it_is_asked_for():
    for call in (
        lambda: eigenjax.eigsh(product, 1),
        lambda: eigenjax.trace(product, key=KEY),
        lambda: eigenjax.svds(product, 1),
    ):
        with pytest.raises(TypeError, match="like="):
            call()
