"""Generalized problems of statistics and of graphs, against SciPy and against other formulas; on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from jax.sharding import NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from eigenjax import Status, as_operator, eigsh, precondition

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]


def test_linear_discriminants(rng):
    # Scatter between classes and within them, from products with the data alone.
    labels = np.repeat(np.arange(4), 50)
    data = rng.standard_normal((4, 30))[labels] + rng.standard_normal((200, 30)) @ rng.standard_normal((30, 30)) / 5
    means = np.stack([data[labels == i].mean(axis=0) for i in range(4)])
    inside, between = jnp.asarray(data - means[labels]), jnp.asarray((means - data.mean(axis=0)) * 50**0.5)
    result = eigsh(
        lambda v: between.T @ (between @ v), 3, b=lambda v: inside.T @ (inside @ v), like=jnp.zeros(30), tol=1e-10
    )
    assert result.status == Status.CONVERGED
    expected = scipy.linalg.eigh(between.T @ between, inside.T @ inside, eigvals_only=True)[::-1][:3]
    assert_allclose(result.eigenvalues, expected, rtol=1e-9)


def test_canonical_correlations(rng):
    first, hidden = rng.standard_normal((300, 12)), rng.standard_normal((300, 2))
    x = first + hidden @ rng.standard_normal((2, 12))
    y = rng.standard_normal((300, 8)) + hidden @ rng.standard_normal((2, 8))
    x, y = (jnp.asarray(data - data.mean(axis=0)) for data in (x, y))
    a = as_operator(lambda v: {"x": x.T @ (y @ v["y"]), "y": y.T @ (x @ v["x"])}, like={"x": x[0], "y": y[0]})
    b = as_operator(lambda v: {"x": x.T @ (x @ v["x"]), "y": y.T @ (y @ v["y"])}, like={"x": x[0], "y": y[0]})
    result = eigsh(a, 3, b=b, tol=1e-10)
    # The cosines of the angles between the two column spaces.
    expected = scipy.linalg.svdvals(np.linalg.qr(x)[0].T @ np.linalg.qr(y)[0])[:3]
    assert_allclose(result.eigenvalues, expected, rtol=1e-9)


def test_normalized_cuts_of_a_graph(rng):
    n = 120
    near = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :]) <= 3
    weights = np.triu(near * rng.uniform(0.5, 1.5, (n, n)), 1)
    weights[55:60, 60:65] *= 0.01
    weights = weights + weights.T
    degrees = weights.sum(axis=1)
    laplacian = scipy.sparse.csr_array(np.diag(degrees) - weights)
    mass = scipy.sparse.diags_array([degrees], offsets=[0]).tocsr()
    result = eigsh(laplacian, 3, which="SA", b=mass, tol=1e-10)
    assert result.status == Status.CONVERGED
    expected = scipy.linalg.eigh(laplacian.toarray(), np.diag(degrees), eigvals_only=True)[:3]
    assert_allclose(result.eigenvalues, expected, atol=1e-12)
    similar = eigsh(precondition(laplacian, jnp.asarray(degrees)), 3, which="SA", tol=1e-10)
    assert_allclose(result.eigenvalues, similar.eigenvalues, atol=1e-12)


@pytest.mark.parametrize("kind", ["a", "explicit"])
def test_vectors_on_several_devices(kind, rng):
    types = jax.sharding.AxisType
    mesh = jax.make_mesh((8,), ("x",), axis_types=(types.Explicit if kind == "explicit" else types.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    values, masses = np.linspace(1, 50, 64), rng.uniform(0.5, 2, 64)
    place = lambda x: jax.device_put(jnp.asarray(x), sharding)
    a, b = place(values), place(masses)
    like = jax.ShapeDtypeStruct((64,), jnp.float64, sharding=sharding)
    result = eigsh(
        as_operator(lambda v: a * v, like=like), 3, b=as_operator(lambda v: b * v, like=like), v0=place(np.ones(64))
    )
    assert result.status == Status.CONVERGED
    assert_allclose(result.eigenvalues, np.sort(values / masses)[::-1][:3], rtol=1e-7)
