"""Lowering for CPU, CUDA and TPU of everything but the symmetric solvers (`test_export`), without such a device."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import pytest

import eigenjax
from eigenjax import as_operator, fisher, gauss_newton, hessian, jacobian

PLATFORMS = ("cpu", "cuda", "tpu")
MATRIX = jax.ShapeDtypeStruct((8, 8), jnp.float32)
WEIGHTS = jax.ShapeDtypeStruct((4, 3), jnp.float32)
KEY = {"key": jax.random.key(0)}
DATA = (jnp.ones((6, 4)), jnp.arange(6, dtype=jnp.int32) % 3)


def lowers(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    return set(exported.platforms) == set(PLATFORMS)


def model(weights, inputs):
    return jnp.tanh(inputs @ weights)


def log_likelihood(logits, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def weighted(found):
    """Return one number that depends on all inexact entries of a result."""
    return sum(jnp.sum(jnp.abs(x) ** 4) for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.inexact))


# Each call takes a matrix or an operator and returns a pytree.
SOLVERS = {
    "eigs": functools.partial(eigenjax.eigs, k=2, krylov_dim=5),
    "eigs, smallest real": functools.partial(eigenjax.eigs, k=2, krylov_dim=6, which="SR"),
    "svds": functools.partial(eigenjax.svds, k=2, krylov_dim=5),
    "eigsh, recomputed basis": functools.partial(eigenjax.eigsh, k=2, basis="recompute", krylov_dim=6),
    "eigsh, bfloat16 basis": functools.partial(eigenjax.eigsh, k=2, krylov_dim=6, basis_dtype="bfloat16"),
    "eigsh, preconditioned": lambda a: eigenjax.eigsh(a, 1, preconditioner=jnp.eye(8)),
    "eigh": eigenjax.eigh,
    "eigh, generalised": lambda a: eigenjax.eigh(a, a @ a.T + jnp.eye(8)),
    "svd": eigenjax.svd,
}
FORWARD = {
    "left_eigenvectors": lambda a: eigenjax.left_eigenvectors(a, eigenjax.eigs(a, 1, krylov_dim=4)),
    "spectral_density": functools.partial(eigenjax.spectral_density, **KEY, num_probes=2, krylov_dim=4),
    "logdet": functools.partial(eigenjax.logdet, **KEY, num_probes=2, krylov_dim=4),
    "trace_of_function": lambda a: eigenjax.trace_of_function(a, jnp.exp, **KEY, num_probes=2, krylov_dim=4),
    "expm_multiply": lambda a: eigenjax.expm_multiply(a, jnp.ones(8), krylov_dim=4),
    "matrix_function": lambda a: eigenjax.matrix_function(a, jnp.exp, jnp.ones(8), krylov_dim=4),
}
# Calls whose derivatives exist and are cheap to lower.
ESTIMATORS = {
    **{
        f"trace, {method}": functools.partial(eigenjax.trace, **KEY, num_matvecs=6, method=method)
        for method in ("xtrace", "hutch++", "hutchinson")
    },
    "diagonal": functools.partial(eigenjax.diagonal, **KEY, num_matvecs=6),
    "frobenius_norm": functools.partial(eigenjax.frobenius_norm, **KEY, num_matvecs=6),
    "spectral_norm": lambda a: eigenjax.spectral_norm(lambda v: a @ v, jnp.ones(8)),
    "sharpness_penalty": eigenjax.sharpness_penalty,
}
OPERATORS = {
    "gauss_newton": lambda w: gauss_newton(model, log_likelihood, w, DATA, batch_size=4),
    "fisher, exact": lambda w: fisher(model, w, DATA),
    "fisher, monte_carlo": lambda w: fisher(model, w, DATA, kind="monte_carlo", key=jax.random.key(0)),
    "fisher, empirical": lambda w: fisher(model, w, DATA, kind="empirical", centered=True),
    "jacobian": lambda w: jacobian(model, w, DATA[0]),
    "linearize": lambda w: hessian(lambda w, x: jnp.mean(model(w, x) ** 2), w, DATA[0], mode="linearize"),
    "preconditioned": lambda w: eigenjax.precondition(fisher(model, w, DATA), 1 + w**2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SOLVERS))
def test_solvers_and_their_gradients(name):
    solve = SOLVERS[name]
    assert lowers(solve, MATRIX)
    assert lowers(jax.grad(lambda a: weighted(solve(a)[:2])), MATRIX)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FORWARD))
def test_what_has_no_gradient(name):
    assert lowers(FORWARD[name], MATRIX)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_estimators_and_their_gradients(name):
    assert lowers(jax.value_and_grad(lambda a: weighted(jax.tree.leaves(ESTIMATORS[name](a))[:1])), MATRIX)


@pytest.mark.parametrize("name", list(OPERATORS))
def test_products_and_their_gradients(name):
    product = lambda w: OPERATORS[name](w).mv(w)
    assert lowers(jax.value_and_grad(lambda w: weighted(product(w))), WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"every": 3, "between": "rayleigh"}, {"max_k": 3, "threshold": 1.0}])
def test_a_tracker(options):
    tracker = eigenjax.spectrum_tracker(2, **options)
    state = jax.eval_shape(lambda a: tracker.init(as_operator(a)), MATRIX)
    assert lowers(lambda a, state: tracker.update(as_operator(a), state), MATRIX, state)


def test_dense_eig_lowers_but_for_a_tpu_which_has_none():
    gradient = jax.jit(jax.grad(lambda a: weighted(eigenjax.eig(a).eigenvalues)))
    # Export is not used: JAX does not guarantee the calling convention of its GPU eigensolver across versions.
    gradient.trace(MATRIX).lower(lowering_platforms=("cpu", "cuda"))
    with pytest.raises(NotImplementedError, match="eig"):
        gradient.trace(MATRIX).lower(lowering_platforms=("tpu",))
