"""Costs of compilation: traces, compilations, constants and temporaries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eigenjax import as_operator, deflated_power_iteration, eigsh, hessian, lanczos
from eigenjax.operators.base import matvec

SOLVERS = {
    "lanczos": functools.partial(lanczos, k=3),
    "eigsh": functools.partial(eigsh, k=3),
    "power": functools.partial(deflated_power_iteration, k=3, max_iter=10),
}


class Counted:
    """Function that counts how often Python runs it."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def network_loss(params, batch):
    hidden = batch
    for kernel in params:
        hidden = jnp.tanh(hidden @ kernel)
    return jnp.mean(hidden**2)


def network(width, rng):
    params = [jnp.asarray(rng.normal(size=(width, width)).astype(np.float32)) / width**0.5 for _ in range(3)]
    return params, jnp.asarray(rng.normal(size=(16, width)).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_trace_of_the_matvec_per_solver(solver):
    product = Counted(lambda v: jnp.arange(8.0) * v)
    SOLVERS[solver](product, v0=jnp.ones(8))
    assert product.calls == 1


@pytest.mark.parametrize("solver", [pytest.param(s, marks=() if s == "eigsh" else pytest.mark.slow) for s in SOLVERS])
def test_one_trace_of_the_matvec_per_gradient(solver):
    product = Counted(lambda theta, v: theta * v)
    top = lambda theta: jnp.sum(SOLVERS[solver](lambda v: product(theta, v), v0=jnp.ones(8)).eigenvectors ** 3)
    jax.jit(jax.grad(top))(jnp.arange(8.0))
    assert product.calls == 1


@pytest.mark.parametrize("solver", [pytest.param(s, marks=() if s == "eigsh" else pytest.mark.slow) for s in SOLVERS])
def test_one_trace_of_the_loss_per_solver(solver, rng):
    params, batch = network(8, rng)
    loss = Counted(network_loss)
    jax.jit(lambda params: SOLVERS[solver](hessian(loss, params, batch)))(params)
    assert loss.calls == 1


@pytest.mark.slow
@pytest.mark.parametrize("jit_by_user", [True, False])
def test_ten_training_steps_are_one_compilation(jit_by_user, rng, counted_compilations):
    params, batch = network(8, rng)
    optimizer = optax.sgd(0.1, momentum=0.9)
    opt_state = optimizer.init(params)
    loss = Counted(network_loss)

    def sharpness(params, batch):
        return lanczos(hessian(loss, params, batch), k=1, krylov_dim=5).eigenvalues[0]

    solve = jax.jit(sharpness) if jit_by_user else sharpness
    values, programs = [], []
    for _ in range(10):
        gradient = jax.grad(network_loss)(params, batch)
        updates, opt_state = optimizer.update(gradient, opt_state)
        params = optax.apply_updates(params, updates)
        values.append(float(solve(params, batch)))
        programs.append(counted_compilations())
    # Outside jit every step traces the loss, so that its current values are used; nothing is compiled again.
    assert loss.calls == (1 if jit_by_user else 10)
    assert programs[1] == programs[-1]
    assert len(set(values)) == 10


def test_parameters_and_data_are_no_constants_of_the_program(rng):
    params, batch = network(64, rng)
    matrix = jnp.asarray(rng.normal(size=(64, 64)).astype(np.float32))
    with_data = jax.jit(lambda op: lanczos(op, 1)).lower(hessian(network_loss, params, batch)).as_text()
    with_closure = (
        jax.jit(lambda op: lanczos(op, 1)).lower(as_operator(lambda v: matrix @ v, like=jnp.ones(64))).as_text()
    )
    # A constant of 64 x 64 numbers would be printed in full as a tensor<64x64xf32>.
    for text in (with_data, with_closure):
        assert not [line for line in text.splitlines() if "stablehlo.constant" in line and "tensor<64x64xf32>" in line]


def temporaries(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_lanczos_holds_one_basis_and_six_vectors(reorthogonalize, rng):
    op = hessian(network_loss, *network(200, rng))
    vector_bytes = 4 * op.size
    vector = jax.tree.map(jnp.zeros_like, op.varying)
    product = temporaries(matvec, op, vector)
    solve = lambda op: lanczos(op, k=5, krylov_dim=32, reorthogonalize=reorthogonalize)
    assert temporaries(solve, op) <= 1.25 * 32 * vector_bytes + product + 6 * vector_bytes


# Memory bound of the documentation, in vectors: m + k + m / 5 + 6.
EIGSH = {
    "at an end": {},
    "verified": {"verify": True},
    "near a number": {"sigma": 0.1},
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case == "at an end" else pytest.mark.slow) for case in EIGSH]
)
def test_eigsh_holds_one_basis(case, rng):
    op = hessian(network_loss, *network(200, rng))
    vector_bytes = 4 * op.size
    product = temporaries(matvec, op, jax.tree.map(jnp.zeros_like, op.varying))
    solve = lambda op: eigsh(op, k=5, krylov_dim=32, **EIGSH[case])
    assert temporaries(solve, op) <= (32 + 5 + 32 / 5 + 6) * vector_bytes + product


def test_power_iteration_holds_its_results_and_six_vectors(rng):
    op = hessian(network_loss, *network(200, rng))
    vector_bytes = 4 * op.size
    product = temporaries(matvec, op, jax.tree.map(jnp.zeros_like, op.varying))
    solve = lambda op: deflated_power_iteration(op, k=5)
    assert temporaries(solve, op) <= 1.25 * 5 * vector_bytes + product + 6 * vector_bytes
