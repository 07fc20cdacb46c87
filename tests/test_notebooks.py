"""The notebooks run as they are, and what they compute is true."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

pytest.importorskip("flax")
pytest.importorskip("sklearn")
matplotlib = pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def dense_sharpness(space):
    """The largest eigenvalue of the Hessian, written down in full and in float64."""
    flat, unravel = ravel_pytree(space["params"])
    dense = jax.jit(jax.hessian(lambda x: space["loss"](unravel(x), space["data"])))(flat)
    return np.linalg.eigvalsh(np.asarray(dense, np.float64))[-1]


def check_hessian_spectrum(space):
    truth = dense_sharpness(space)
    assert_allclose(space["sharpnesses"][-1], truth, rtol=1e-3)
    assert_allclose(space["final"].eigenvalues[0], truth, rtol=1e-4)
    assert space["losses"][-1] < 0.5 * space["losses"][0]
    assert_allclose(space["after"], space["predicted"], atol=0.2 * abs(space["before"] - space["predicted"]))
    assert space["after"] < space["before"]
    assert 0 < space["share"] < 1
    assert_allclose(space["length"], space["difference"], rtol=2e-2)
    curve = space["axes"].lines[0].get_ydata()
    assert np.isfinite(curve).all()
    assert len(curve) == space["RECORDS"]


def check_spectral_clustering(space):
    places = np.asarray(space["model"].apply(space["trained"], space["measurements"]), float)
    weights = np.exp(-np.sum((places[:, None] - places) ** 2, 2) / 2)
    root = np.sqrt(weights.sum(1))
    truth = np.linalg.eigvalsh(weights / root / root[:, None])[-3:][::-1]
    assert_allclose(space["last"].eigenvalues, truth, rtol=1e-5)
    assert_allclose(space["length"], space["difference"], rtol=5e-3)
    assert bool(space["info"].converged.all())
    assert bool(space["converged"].all())
    assert space["losses"][-1] < 0.1 * space["losses"][0]
    assert space["after"] > max(0.9, space["before"] + 0.2)


def check_schroedinger_design(space):
    n, spacing = len(space["points"]), space["spacing"]
    line = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) / (2 * spacing**2)
    values, vectors = np.linalg.eigh(line + np.diag(np.asarray(space["points"], float) ** 2 / 2))
    assert_allclose(space["oscillator"].eigenvalues[0], values[0], rtol=1e-5)
    assert_allclose(space["energy_slope"], vectors[:, 0] ** 2, atol=1e-4)
    assert_allclose([space["width"], space["width_slope"]], [0.5, -0.5], atol=5e-3)
    designed = np.linalg.eigh(line + np.diag(np.asarray(space["designed"], float)))[1][:, 0]
    assert np.abs(designed) @ np.sqrt(np.asarray(space["target"], float)) > 0.999
    assert space["error"] < 0.25 * np.ptp(np.asarray(space["hidden"])[space["seen"]])
    assert space["share"] > 0.95


def check_differentiable_pca(space):
    along, exact = space["along"], space["exact"]
    assert_allclose([along["eigh"], along["eigsh"]], [exact, exact], rtol=1e-4)
    assert np.isnan(along["jax"]), "jax has learned it: say so in the notebook"
    assert space["of_plane"] < 1e-5 < 0.1 < space["of_one"]
    assert np.isfinite(space["first_slope"]).all()
    assert space["history"][-1] < 0.7 * space["history"][0]
    assert_allclose(space["seen"], space["predicted"], rtol=0.1, atol=2e-6)


def check_edge_of_stability(space):
    rates, last = np.asarray(space["LEARNING_RATES"]), space["STEPS"] // 4
    assert_allclose(space["sharpness"][:, -last:].mean(axis=1), 2 / rates, rtol=0.05)
    losses = np.asarray(space["metrics"]["loss"])
    assert (losses[:, -1] < 0.1 * losses[:, 0]).all()
    # The tracker's last look, of the run with the largest step, is at the parameters of the step before the end.
    end = {"params": jax.tree.map(lambda x: x[-1], space["ends"]), "loss": space["loss"], "data": space["data"]}
    assert_allclose(space["sharpness"][-1, -1], dense_sharpness(end), rtol=0.05)
    assert (np.asarray(space["states"].num_matvecs) == 2 * space["STEPS"]).all()


CHECKS = {
    "differentiable_pca": check_differentiable_pca,
    "edge_of_stability": check_edge_of_stability,
    "hessian_spectrum": check_hessian_spectrum,
    "schroedinger_design": check_schroedinger_design,
    "spectral_clustering": check_spectral_clustering,
}
SLOW = ("differentiable_pca", "hessian_spectrum", "schroedinger_design", "spectral_clustering")


@pytest.fixture
def no_screen():
    """Figures are drawn in memory, and thrown away."""
    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.mark.usefixtures("no_screen")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ()) for path in NOTEBOOKS],
)
def test_notebook_runs_and_is_true(path):
    space = {}
    # As a reader runs it, and as optax needs it.
    with jax.numpy_dtype_promotion("standard"):
        for index, cell in enumerate(json.loads(path.read_text())["cells"]):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{path.name}[{index}]", "exec"), space)
    if "figure" in space:
        space["figure"].canvas.draw()
    CHECKS[path.stem](space)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_stores_no_outputs(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
