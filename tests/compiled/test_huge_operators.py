"""Every solver is traced for more components than an int32 counts, as large language models have."""

import jax
import jax.numpy as jnp
import pytest

import eigenjax
from eigenjax import as_operator

HUGE = jax.ShapeDtypeStruct((2**17, 2**16), jnp.float32)
KEY = {"key": jax.random.key(0)}


def of_values(solve):
    return lambda op: jnp.sum(jnp.abs(solve(op).eigenvalues))


def of_vectors(solve):
    def loss(op):
        result = solve(op)
        return sum(jnp.sum(jnp.abs(x) ** 4) for x in jax.tree.leaves((result[0], result[1], result[2])))

    return loss


PROGRAMS = {
    "lanczos": lambda op: eigenjax.lanczos(op, 2),
    "deflated_power_iteration": lambda op: eigenjax.deflated_power_iteration(op, 2),
    "eigsh": lambda op: eigenjax.eigsh(op, 2),
    "eigsh, sigma": lambda op: eigenjax.eigsh(op, 2, sigma=0.5),
    "eigsh, block": lambda op: eigenjax.eigsh(op, 2, block_size=2),
    "eigsh, warm": lambda op: eigenjax.eigsh(op, 2, v0=eigenjax.eigsh(op, 2)),
    "eigsh, offload": lambda op: eigenjax.eigsh(op, 2, basis="offload"),
    "eigsh, bfloat16": lambda op: eigenjax.eigsh(op, 2, basis_dtype="bfloat16"),
    "eigsh, recompute": lambda op: eigenjax.eigsh(op, 2, basis="recompute"),
    "eigsh, preconditioner": lambda op: eigenjax.eigsh(op, 2, preconditioner=lambda v: v),
    "eigs": lambda op: eigenjax.eigs(op, 2),
    "left_eigenvectors": lambda op: eigenjax.left_eigenvectors(op, eigenjax.eigs(op, 2)),
    "svds": lambda op: eigenjax.svds(op, 2),
    "adjoint_info": lambda op: (lambda found: eigenjax.adjoint_info(op, found, found.eigenvectors))(
        eigenjax.eigsh(op, 2)
    ),
    "trace": lambda op: eigenjax.trace(op, num_matvecs=5, **KEY),
    "trace, hutch++": lambda op: eigenjax.trace(op, num_matvecs=5, method="hutch++", **KEY),
    "trace, hutchinson": lambda op: eigenjax.trace(op, num_matvecs=5, method="hutchinson", **KEY),
    "diagonal": lambda op: eigenjax.diagonal(op, num_matvecs=5, **KEY),
    "frobenius_norm": lambda op: eigenjax.frobenius_norm(op, num_matvecs=5, **KEY),
    "spectral_density": lambda op: eigenjax.spectral_density(op, num_probes=2, krylov_dim=5, **KEY),
    "spectral_density, deflated": lambda op: eigenjax.spectral_density(op, deflate=eigenjax.eigsh(op, 2), **KEY),
    "trace_of_function": lambda op: eigenjax.trace_of_function(op, jnp.exp, num_probes=2, krylov_dim=5, **KEY),
    "logdet": lambda op: eigenjax.logdet(op, num_probes=2, krylov_dim=5, **KEY),
    "expm_multiply": lambda op: eigenjax.expm_multiply(op, jnp.ones(HUGE.shape), krylov_dim=5),
    "matrix_function": lambda op: eigenjax.matrix_function(op, jnp.exp, jnp.ones(HUGE.shape), krylov_dim=5),
    "spectrum_tracker": lambda op: eigenjax.spectrum_tracker(2).update(op, eigenjax.spectrum_tracker(2).init(op)),
    "sharpness_penalty": lambda op: eigenjax.sharpness_penalty(op),
    "spectral_norm": lambda op: eigenjax.spectral_norm(op),
    "symmetry_error": lambda op: eigenjax.symmetry_error(op, KEY["key"]),
}
GRADIENTS = {
    "eigsh": of_vectors(lambda op: eigenjax.eigsh(op, 2)),
    "eigsh, sigma": of_vectors(lambda op: eigenjax.eigsh(op, 2, sigma=0.5)),
    "eigs": of_vectors(lambda op: eigenjax.eigs(op, 2)),
    "svds": of_vectors(lambda op: eigenjax.svds(op, 2)),
    "eigenvalues": of_values(lambda op: eigenjax.eigsh(op, 2)),
    "trace": lambda op: eigenjax.trace(op, num_matvecs=5, **KEY).estimate,
}


def operator(diagonal):
    return as_operator(lambda v: diagonal * v, like=diagonal)


# XLA's own indexing asks for int64 of an axis beyond int32, and warns that it gets an int32.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_is_traced(name):
    jax.eval_shape(lambda diagonal: PROGRAMS[name](operator(diagonal)), HUGE)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_traced(name):
    assert jax.eval_shape(jax.grad(lambda diagonal: GRADIENTS[name](operator(diagonal))), HUGE).shape == HUGE.shape


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
def test_results_are_of_the_operators_shape():
    found = jax.eval_shape(lambda diagonal: eigenjax.eigsh(operator(diagonal), 2), HUGE)
    assert found.eigenvectors.shape == (2, *HUGE.shape)
