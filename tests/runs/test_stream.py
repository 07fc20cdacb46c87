"""Streamed operators: equal to the operator of all data, one pass for each matvec, changed data are detected."""

import gc

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import RunError, as_operator, eigsh, hessian, memory_mapped_batches, run, stream

from .conftest import network_loss


def dense_hessian(params, data):
    """Compute the Hessian of the flat loss in float64, by automatic differentiation alone."""
    with jax.enable_x64(True):
        flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: jnp.asarray(np.asarray(x, "f8")), params))
        data = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, "f8")), data)
        return np.asarray(jax.hessian(lambda x: network_loss(unravel(x), data))(flat))


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def take(data, index):
    return jax.tree.map(lambda x: x[index], data)


class Counted:
    """Batches of 8, 8 and 5 examples, with counts of passes and of batches read."""

    def __init__(self, data, order=None):
        self.data, self.order, self.epochs, self.batches = data, order, 0, 0

    def __iter__(self):
        self.epochs += 1
        order = np.arange(21) if self.order is None else self.order()
        for part in np.split(order, [8, 16]):
            self.batches += 1
            yield take(self.data, part)


@pytest.mark.slow
def test_a_product_is_that_of_all_data_whatever_the_batches(network):
    params, data = network
    v = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    truth = dense_hessian(params, data) @ flat(v).astype("f8")
    batches = [take(data, slice(i, i + 8)) for i in range(0, 21, 8)]
    for source in (batches, Counted(data), memory_mapped_batches(data, 8)):
        assert_allclose(flat(stream(network_loss, params, source)(v)), truth, rtol=0, atol=3e-7 * abs(truth).max())
    generic = stream(lambda p, batch: hessian(network_loss, p, batch), params, batches)
    assert_allclose(flat(generic(v)), truth, rtol=0, atol=3e-7 * abs(truth).max())
    # Custom weights: the first batch only.
    first = stream(network_loss, params, batches, weight=lambda batch: float(batch[0] is batches[0][0]))
    alone = dense_hessian(params, batches[0]) @ flat(v).astype("f8")
    assert_allclose(flat(first(v)), alone, rtol=0, atol=3e-7 * abs(alone).max())


def test_select_and_microbatches_reach_the_hessian(network):
    params, data = network
    select = lambda path, _: "outer" in jax.tree_util.keystr(path)
    op = stream(network_loss, params, Counted(data), select=select, batch_size=3)
    assert op.structure["inner"] is None
    v = {"inner": None, "bias": None, "outer": jnp.ones((8, 2))}
    inside = np.flatnonzero(flat(jax.tree_util.tree_map_with_path(lambda p, x: jnp.full_like(x, select(p, x)), params)))
    truth = dense_hessian(params, data)[np.ix_(inside, inside)].sum(1)
    assert_allclose(flat(op(v)), truth, rtol=0, atol=3e-7 * abs(truth).max())
    assert (op.size, op.dtype) == (16, jnp.float32)


def test_a_product_with_a_block_reads_the_data_once(network):
    params, data = network
    source = Counted(data)
    op = stream(network_loss, params, source)
    source.epochs = source.batches = 0
    rows = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), params)
    images = op.products(rows)
    assert (source.epochs, source.batches) == (1, 3)
    assert_allclose(flat(images["inner"][1]), 2 * flat(images["inner"][0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_run_on_a_stream_finds_the_pairs_of_all_data(network, block_size):
    params, data = network
    source = Counted(data)
    op = stream(network_loss, params, source)
    source.epochs = 0
    result = run(op, 3, block_size=block_size, krylov_dim=12, progress=False, verify=False)
    truth = np.linalg.eigvalsh(dense_hessian(params, data))[::-1][:3]
    assert_allclose(result.eigenvalues, truth, rtol=0, atol=2e-6 * truth[0])
    assert result.converged.all()
    # One pass reads the first batch only, to identify the data; another one verifies the residuals.
    assert source.epochs == 1 + (int(result.num_matvecs) - 1) // block_size + 1
    if block_size == 1:
        inner = eigsh(hessian(network_loss, params, data), 3, krylov_dim=12, verify=False)
        assert int(result.num_matvecs) == int(inner.num_matvecs)
    dense = dense_hessian(params, data)
    for i in range(3):
        vector = flat(take(result.eigenvectors, i)).astype("f8")
        true = np.linalg.norm(dense @ vector - float(result.eigenvalues[i]) * vector)
        assert abs(true - result.residuals[i]) < 1e-6 * truth[0]


@pytest.mark.slow
def test_an_operator_that_is_not_symmetric_is_audited_pair_by_pair(rng):
    skew = np.eye(12, dtype=np.float32) + rng.normal(size=(12, 12)).astype(np.float32)
    op = stream(lambda p, batch: as_operator(batch[0] + 0 * p, like=jnp.zeros(12)), jnp.zeros(()), [skew[None]] * 2)
    result = run(op, 2, krylov_dim=4, max_matvecs=40, progress=False)
    vectors = np.asarray(result.eigenvectors, "f8")
    true = np.linalg.norm(
        vectors @ skew.T.astype("f8") - np.asarray(result.eigenvalues, "f8")[:, None] * vectors, axis=1
    )
    assert_allclose(result.residuals, true, rtol=1e-4)
    assert not result.converged.any()


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 3])
def test_at_most_two_groups_of_batches_are_on_the_device(network, monkeypatch, group):
    params, data = network
    monkeypatch.setattr("eigenjax.runs.stream._GROUP", group)
    # Arrays that other tests keep alive are not counted.
    gc.collect()
    alive = jax.live_arrays()
    others = {id(array) for array in alive}
    most, put = 0, jax.device_put

    def device_put(x, *args):
        nonlocal most
        placed = put(x, *args)
        most = max(most, sum(array.shape == (3, 4) and id(array) not in others for array in jax.live_arrays()))
        return placed

    monkeypatch.setattr(jax, "device_put", device_put)
    op = stream(network_loss, params, memory_mapped_batches(data, 3))
    op(params)
    assert group <= most <= 2 * group


def test_a_source_that_shuffles_is_refused(network):
    params, data = network
    generator = np.random.default_rng(1)
    op = stream(network_loss, params, Counted(data, order=lambda: generator.permutation(21)))
    with pytest.raises(RunError, match="shuffle=True"):
        op(params)


def test_a_source_that_changes_later_is_refused_at_that_batch(network):
    params, data = network
    data = jax.tree.map(np.copy, data)
    source = Counted(data)
    op = stream(network_loss, params, source)
    op(params)
    data[0][16] += 1
    with pytest.raises(RunError, match="batch 2 is not what it was"):
        op(params)
    data[0][16] -= 1
    source.__class__ = type("Shorter", (Counted,), {"__iter__": lambda self: iter(list(Counted(data))[:2])})
    with pytest.raises(RunError, match="2 batches after one of 3"):
        op(params)


def test_what_gives_its_batches_once_is_refused_at_once(network):
    params, data = network
    with pytest.raises(TypeError, match="gives its batches once"):
        stream(network_loss, params, (data for _ in range(3)))
    with pytest.raises(TypeError, match="int is not iterable"):
        stream(network_loss, params, 3)
    with pytest.raises(ValueError, match="there are none"):
        stream(network_loss, params, [])


def test_arguments_that_make_no_sense(network):
    params, data = network
    with pytest.raises(TypeError, match="gives \\(21, 2\\)"):
        stream(lambda p, batch: batch[1], params, [data])
    with pytest.raises(ValueError, match="batch_size=4: of a loss"):
        stream(lambda p, batch: hessian(network_loss, p, batch), params, [data], batch_size=4)
    with pytest.raises(ValueError, match=r"weigh 0\.0"):
        stream(network_loss, params, [data], weight=lambda batch: 0.0)(params)
    with pytest.raises(TypeError, match=r"eigenjax.run\(stream, k\)"):
        jax.jit(stream(network_loss, params, [data]))(params)
    with pytest.raises(ValueError, match="leaves missing"):
        stream(network_loss, params, [data])({"inner": params["inner"]})
    with pytest.raises(ValueError, match="batch_size=None"):
        memory_mapped_batches(data, None)


def test_arrays_on_disk(tmp_path, network):
    params, data = network
    np.save(tmp_path / "inputs.npy", data[0])
    np.save(tmp_path / "targets.npy", data[1])
    batches = memory_mapped_batches((tmp_path / "inputs.npy", str(tmp_path / "targets.npy")), 8)
    assert isinstance(batches.arrays[0], np.memmap)
    assert len(batches) == 3
    assert_allclose(
        flat(stream(network_loss, params, batches)(params)),
        flat(hessian(network_loss, params, data)(params)),
        atol=1e-6,
    )


def test_batches_sharded_over_the_devices(network):
    params, data = network
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batches = memory_mapped_batches(take(data, slice(20)), 8)
    placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    op = stream(network_loss, placed, batches, sharding=sharding)
    expected = hessian(network_loss, params, take(data, slice(20)))(params)
    assert_allclose(flat(op(params)), flat(expected), atol=1e-6)
