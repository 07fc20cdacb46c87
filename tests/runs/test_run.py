"""A run is `eigsh` in a host loop: equal pairs, optional progress on standard error, errors for unsupported calls."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from eigenjax import eigsh, hessian, run
from eigenjax.runs.progress import Moment, describe, time_left
from eigenjax.runs.solve import SolveProgress

from .conftest import SPECS, network_loss, same_bits


@pytest.mark.slow
def test_the_pairs_are_right(matrix):
    result = run(matrix, 3, krylov_dim=10, progress=False)
    truth = np.linalg.eigvalsh(np.asarray(matrix, "f8"))[::-1][:3]
    assert_allclose(result.eigenvalues, truth, rtol=0, atol=2e-6)
    assert result.converged.all()


def test_it_tells_on_standard_error_and_nowhere_else(matrix, capfd):
    shown_result = run(matrix, 3, krylov_dim=10)
    out, err = capfd.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert re.fullmatch(r"eigenjax: 3/3 pairs, worst residual \S+ \(wanted \S+\), \d+ matvecs, done \(0:\d\d\)", last)
    assert int(re.search(r"(\d+) matvecs", last)[1]) == int(shown_result.num_matvecs) - 1
    silent = run(matrix, 3, krylov_dim=10, progress=False)
    assert capfd.readouterr() == ("", "")
    # The frequency of progress reports does not change the result.
    assert same_bits(shown_result, silent)


def test_without_rich_it_tells_in_plain_lines(matrix, monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(matrix, 3, krylov_dim=10)
    assert "3/3 pairs" in capfd.readouterr().err
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    run(matrix, 3, krylov_dim=10)
    assert "eigenjax: 3/3 pairs" in capfd.readouterr().err


def test_the_time_left():
    assert time_left([], 10)[0] == float("inf")
    steady = [Moment(float(i), 2 * i, 10.0 - i) for i in range(6)]
    assert time_left(steady, 1000) == (5.0, False)
    assert time_left(steady, 12) == (1.0, True)
    assert time_left([*steady, Moment(6.0, 12, 50.0)], 112) == (50.0, True)
    assert describe(SolveProgress(3, 0, np.inf, 0.0, False), 2, (np.inf, True)) == "0/2 pairs, begun, 3 matvecs"
    assert "at most 1:01:05 left" in describe(SolveProgress(3, 0, 1.0, 0.1, False), 2, (3665.0, True))


@pytest.mark.parametrize("options", [{}, {"sigma": 0.31}, {"verify": True}, {"which": "BE"}], ids=str)
@pytest.mark.slow
def test_the_options_of_eigsh(matrix, options):
    # Two programs round differently: after seventy matvecs and some restarts, float32 differs by 7e-6.
    with jax.enable_x64(True):
        matrix = jnp.asarray(matrix, jnp.float64)
        result, inner = run(matrix, 2, progress=False, **options), eigsh(matrix, 2, **options)
    assert int(result.num_matvecs) == int(inner.num_matvecs)
    assert_allclose(result.eigenvalues, inner.eigenvalues, rtol=0, atol=1e-11)
    assert_allclose(result.eigenvectors, inner.eigenvectors, rtol=0, atol=1e-8)
    assert result.converged.all()


@pytest.mark.slow
def test_a_warm_start_costs_a_product_a_pair_and_one(matrix):
    before = run(matrix, 3, krylov_dim=10, progress=False)
    again = run(matrix, 3, krylov_dim=10, v0=before, verify=False, progress=False)
    assert int(again.num_matvecs) == 4
    assert again.converged.all()


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.slow
def test_results_are_sharded_like_the_parameters(network, mode):
    params, data = network
    out = None if mode == AxisType.Auto else P(None, None)

    def loss(p, batch):
        hidden = jnp.tanh(jnp.einsum("ni,ih->nh", batch[0], p["inner"]) + p["bias"][None, :])
        return jnp.mean((jnp.einsum("nh,ho->no", hidden, p["outer"], out_sharding=out) - batch[1]) ** 2)

    mesh = jax.make_mesh((8,), ("model",), axis_types=(mode,))
    placed = {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in params.items()}
    with jax.set_mesh(mesh):
        result = run(hessian(loss, placed, data), 2, krylov_dim=8, progress=False)
    dense = np.asarray(jax.jit(lambda p: eigsh(hessian(network_loss, p, data), 2, krylov_dim=8).eigenvalues)(params))
    assert_allclose(result.eigenvalues, dense, rtol=2e-5)
    for name, x in result.eigenvectors.items():
        assert x.addressable_shards[0].data.size == x.size // 8, name


def test_bad_arguments_are_named(matrix):
    with pytest.raises(ValueError, match="every=0"):
        run(matrix, 1, every=0)
    with pytest.raises(TypeError, match=r"every=2\.5"):
        run(matrix, 1, every=2.5)
    with pytest.raises(ValueError, match="krylov_dim=2"):
        run(matrix, 3, krylov_dim=2)
    with pytest.raises(TypeError, match="pass like="):
        run(lambda v: v, 3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"max_matvecs": 12, "tol": 1e-12}], ids=str)
def test_a_run_holds_no_nan_of_its_own(matrix, options, tmp_path):
    with jax.debug_nans(True):
        result = run(matrix, 3, krylov_dim=10, progress=False, checkpoint_dir=tmp_path, every=9, **options)
        again = run(matrix, 3, krylov_dim=10, progress=False, checkpoint_dir=tmp_path, every=9, **options)
    assert same_bits(result, again)
    assert result.converged.all() == (not options)


def test_a_nan_of_the_operator_is_found_by_debug_nans(matrix):
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        run(matrix.at[3, 3].set(jnp.nan), 2, krylov_dim=10, progress=False)
