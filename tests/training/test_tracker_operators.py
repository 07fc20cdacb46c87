"""The tracker for complex operators, and for vectors that are sharded over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

from eigenjax import as_operator, hessian, spectrum_tracker, to_dense

N, K = 24, 2
SPECS = {"inner": P(None, "model"), "bias": P("model"), "outer": P("model", None)}


def turning(steps):
    """Yield Hermitian matrices with two moving outliers and rotating eigenvectors."""
    sample = np.random.default_rng(1).normal(size=(2, N, N, 2)) @ np.array([1, 1j])
    basis, skew = np.linalg.qr(sample[0])[0], sample[1] - sample[1].conj().T
    rotation = np.linalg.solve(np.eye(N) + 0.0003 * skew, np.eye(N) - 0.0003 * skew)
    for step in range(steps):
        values = np.concatenate([[4 + 0.02 * step, 2.5 - 0.01 * step], np.linspace(-1, 1, N - 2)])
        yield values, (basis * values) @ basis.conj().T
        basis = rotation @ basis


@pytest.mark.slow
def test_a_complex_hermitian_operator_is_followed():
    # Without searches the tracker compiles quickly.
    tracker = spectrum_tracker(K, matvecs_per_update=K + 1)
    state = tracker.init(as_operator(jnp.eye(N, dtype=jnp.complex64)), jax.random.key(0))
    path = list(turning(30))
    for _, matrix in path:
        state, metrics = tracker.update(as_operator(jnp.asarray(matrix, jnp.complex64)), state)
    values, matrix = path[-1]
    assert_allclose([metrics["eigenvalue_0"], metrics["eigenvalue_1"]], values[:K], rtol=1e-2)
    assert state.eigenvectors.dtype == jnp.complex64
    vectors = np.asarray(state.eigenvectors, np.complex128)
    assert_allclose(vectors.conj() @ vectors.T, np.eye(K), atol=1e-5)
    recomputed = np.linalg.norm(matrix @ vectors.T - vectors.T * np.asarray(state.eigenvalues), axis=0)
    assert_allclose(state.residuals, recomputed, atol=2e-5)
    assert_array_equal(state.converged, recomputed <= 1e-2 * np.abs(values).max())
    assert state.converged.all()
    assert metrics["num_matvecs"] == K + 1


def loss(params, batch, out_sharding=None):
    hidden = jnp.tanh(batch[0] @ params["inner"] + params["bias"][None, :])
    outputs = jnp.einsum("nh,ho->no", hidden, params["outer"], out_sharding=out_sharding)
    return jnp.mean((outputs - batch[1]) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["Auto", "Explicit"])
def test_parameters_over_eight_devices_are_followed_where_they_lie(mode, rng):
    shapes = {"inner": (6, 16), "bias": (16,), "outer": (16, 4)}
    params = {name: 0.5 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    batch = rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
    dense = np.asarray(to_dense(hessian(loss, params, batch)), np.float64)
    expected = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1][:K]
    mesh = jax.make_mesh((8,), ("model",), axis_types=(getattr(AxisType, mode),))
    whole = P(None, None) if mode == "Explicit" else None
    placed = {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in params.items()}
    tracker = spectrum_tracker(K)

    @jax.jit
    def track(params, batch, state):
        op = hessian(lambda p, b: loss(p, b, whole), params, batch)
        return tracker.update(op, tracker.init(op, jax.random.key(0)) if state is None else state)

    with jax.set_mesh(mesh):
        state, _ = track(placed, batch, None)
        state, metrics = track(placed, batch, state)
    assert_allclose([metrics["eigenvalue_0"], metrics["eigenvalue_1"]], expected, rtol=1e-2)
    for rows in (state.eigenvectors, state.rows):
        for name, x in rows.items():
            assert x.sharding.is_equivalent_to(NamedSharding(mesh, P(None, *SPECS[name])), x.ndim), name
