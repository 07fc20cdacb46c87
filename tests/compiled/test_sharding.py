"""Solvers on eight simulated devices: equal values, no large collective, results sharded like the parameters."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from eigenjax import deflated_power_iteration, eigs, eigsh, hessian, lanczos

SPECS = {"inner": P(None, "model"), "bias": P("model"), "outer": P("model", None)}
MODES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
GATHERS = re.compile(r" (all-gather|all-to-all|collective-permute|ragged-all-to-all)(-start)?\(")

SOLVERS = {
    "lanczos": functools.partial(lanczos, k=3, krylov_dim=12),
    "lanczos, smallest, warm": functools.partial(lanczos, k=2, krylov_dim=12, which="SA"),
    "eigsh, verified": functools.partial(eigsh, k=3, which="LM", krylov_dim=12, verify=True),
    "eigsh, near, warm": functools.partial(eigsh, k=2, krylov_dim=12, sigma=0.1, max_matvecs=60),
    "eigsh, block": functools.partial(eigsh, k=2, krylov_dim=12, block_size=2),
    "power": functools.partial(deflated_power_iteration, k=2, max_iter=30, momentum=0.9),
}


def loss(params, batch, out_sharding):
    inputs, targets = batch
    hidden = jnp.tanh(jnp.einsum("ni,ih->nh", inputs, params["inner"]) + params["bias"][None, :])
    outputs = jnp.einsum("nh,ho->no", hidden, params["outer"], out_sharding=out_sharding)
    return jnp.mean((outputs - targets) ** 2)


LOSSES = {
    "auto": functools.partial(loss, out_sharding=None),
    "explicit": functools.partial(loss, out_sharding=P(None, None)),
}


@pytest.fixture
def problem(rng):
    shapes = {"inner": (6, 16), "bias": (16,), "outer": (16, 4)}
    params = {name: 0.5 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return params, (rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32))


def place(params, mode):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(MODES[mode],))
    return mesh, {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in params.items()}


def expected_sharding(mesh, name):
    return NamedSharding(mesh, P(None, *SPECS[name]))


# Each case takes 30 s, so that it runs in the slow run only.
# The other case is the gradient; `test_collectives` covers `eigsh` on two axes.
SLOW_IN_AUTO = [pytest.param("auto", marks=pytest.mark.slow), "explicit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("mode", MODES)
def test_solvers_on_sharded_parameters(problem, name, mode):
    params, batch = problem
    warm = "warm" in name
    solve = lambda params, batch, loss: SOLVERS[name](hessian(loss, params, batch), v0=params if warm else None)
    alone = jax.jit(functools.partial(solve, loss=LOSSES["auto"]))(params, batch)
    mesh, placed = place(params, mode)
    with jax.set_mesh(mesh):
        compiled = jax.jit(functools.partial(solve, loss=LOSSES[mode])).lower(placed, batch).compile()
        together = compiled(placed, batch)
    assert not GATHERS.findall(compiled.as_text())
    assert " all-reduce(" in compiled.as_text() or "all-reduce-start(" in compiled.as_text()
    # Sums in another order differ by rounding proportional to ||A||, for every eigenvalue.
    assert_allclose(together.eigenvalues, alone.eigenvalues, atol=2e-5 * np.abs(alone.eigenvalues).max())
    for leaf, x in together.eigenvectors.items():
        assert x.sharding.is_equivalent_to(expected_sharding(mesh, leaf), x.ndim), leaf
        assert x.addressable_shards[0].data.size == x.size // 8


@pytest.mark.slow
@pytest.mark.parametrize("mode", SLOW_IN_AUTO)
def test_gradients_on_sharded_parameters(problem, mode):
    params, batch = problem

    def objective(params, batch, loss):
        result = lanczos(hessian(loss, params, batch), k=2, krylov_dim=40)
        return jnp.sum(result.eigenvalues) + jnp.sum(result.eigenvectors["bias"] ** 2)

    alone = jax.jit(jax.grad(functools.partial(objective, loss=LOSSES["auto"])))(params, batch)
    mesh, placed = place(params, mode)
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(functools.partial(objective, loss=LOSSES[mode]))).lower(placed, batch).compile()
        together = compiled(placed, batch)
    assert not GATHERS.findall(compiled.as_text())
    for name, x in together.items():
        assert_allclose(x, alone[name], rtol=1e-3, atol=1e-4 * np.abs(alone[name]).max())
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, SPECS[name]), x.ndim), name


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_without_a_jit_of_the_users_own(problem, mode):
    params, batch = problem
    mesh, placed = place(params, mode)
    with jax.set_mesh(mesh):
        result = lanczos(hessian(LOSSES[mode], placed, batch), k=1, krylov_dim=12)
    assert result.eigenvectors["outer"].sharding.is_equivalent_to(expected_sharding(mesh, "outer"), 3)


@pytest.mark.slow
def test_data_sharded_over_its_examples(problem):
    params, _ = problem
    inputs, targets = np.ones((16, 6), np.float32), np.arange(64, dtype=np.float32).reshape(16, 4)
    solve = jax.jit(lambda params, batch: lanczos(hessian(LOSSES["auto"], params, batch), k=2, krylov_dim=12))
    alone = solve(params, (inputs, targets))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batch = jax.device_put((inputs, targets), NamedSharding(mesh, P("data")))
    compiled = solve.lower(params, batch).compile()
    assert not GATHERS.findall(compiled.as_text())
    assert_allclose(compiled(params, batch).eigenvalues, alone.eigenvalues, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [eigsh, eigs])
def test_explicit_axes_without_a_mesh_in_context(solver):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Explicit,))
    start = np.linspace(0.5, 2.0, 16)
    params = jax.device_put({"a": jnp.asarray(start, jnp.float32)}, NamedSharding(mesh, P("model")))
    cubic = lambda p: jnp.sum(p["a"] ** 3)
    top = lambda p: jnp.sum(solver(hessian(cubic, p), 2).eigenvalues.real)
    value, gradient = jax.jit(jax.value_and_grad(top))(params)
    # The Hessian is diagonal, 6 a.
    assert_allclose(value, 6 * (start[-1] + start[-2]), rtol=1e-5)
    assert_allclose(gradient["a"], np.where(start > start[-3], 6, 0), atol=1e-3)
    assert gradient["a"].sharding.spec == P("model")
