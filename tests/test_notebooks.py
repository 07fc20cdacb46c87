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


CHECKS = {"hessian_spectrum": check_hessian_spectrum}


@pytest.fixture
def no_screen():
    """Figures are drawn in memory, and thrown away."""
    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.mark.usefixtures("no_screen")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_true(path):
    space = {}
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
