"""Lowering of every symmetric solver and its gradient for CPU, CUDA and TPU, without such a device."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import pytest

from eigenjax import deflated_power_iteration, eigsh, hessian, lanczos

PLATFORMS = ("cpu", "cuda", "tpu")
SOLVERS = {
    "lanczos": functools.partial(lanczos, k=2, krylov_dim=6),
    "lanczos without reorthogonalisation": functools.partial(lanczos, k=2, krylov_dim=6, reorthogonalize=False),
    "eigsh": functools.partial(eigsh, k=2, krylov_dim=5, verify=True),
    "eigsh near a number, in blocks": functools.partial(eigsh, k=2, krylov_dim=6, block_size=2, sigma=0.5),
    "power": functools.partial(deflated_power_iteration, k=2, which="BE", momentum=0.9),
}


def network_hessian(params):
    return hessian(lambda p, b: jnp.mean(jnp.tanh(b @ p["w"]) ** 2), params, jnp.ones((6, 4)), batch_size=4)


OPERATORS = {
    "dense": (lambda a: a, jax.ShapeDtypeStruct((8, 8), jnp.float32)),
    "hermitian": (lambda a: a, jax.ShapeDtypeStruct((8, 8), jnp.complex64)),
    "bfloat16": (lambda a: a, jax.ShapeDtypeStruct((8, 8), jnp.bfloat16)),
    "hessian": (network_hessian, {"w": jax.ShapeDtypeStruct((4, 3), jnp.float32)}),
}


def lowers(function, argument):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(argument)
    return set(exported.platforms) == set(PLATFORMS)


@pytest.mark.slow
@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("operator", list(OPERATORS))
def test_every_solver_and_its_gradient_lowers_everywhere(solver, operator):
    make, argument = OPERATORS[operator]
    solve = lambda theta: SOLVERS[solver](make(theta))
    assert lowers(solve, argument)

    def loss(theta):
        result = solve(theta)
        moduli = sum(jnp.sum(jnp.abs(x) ** 4) for x in jax.tree.leaves(result.eigenvectors))
        return jnp.sum(result.eigenvalues) + moduli

    assert lowers(jax.grad(loss), argument)
    assert lowers(
        jax.vmap(jax.grad(loss)), jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), argument)
    )
