"""The notebooks run unchanged, and their results are correct."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

pytest.importorskip("flax")
pytest.importorskip("sklearn")
matplotlib = pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def dense_hessian(loss, params, data):
    """Compute the dense Hessian; its eigenvalues are to be taken in float64."""
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda x, data: loss(unravel(x), data))
    column = lambda x, data: lambda unit: jax.jvp(lambda x: gradient(x, data), (x,), (unit,))[1]
    # Batches of 64 columns bound the memory.
    columns = jax.jit(lambda x, data: jax.lax.map(column(x, data), np.eye(x.size, dtype=x.dtype), batch_size=64))
    dense = np.asarray(columns(flat, data), np.float64)
    return (dense + dense.T) / 2


def dense_sharpness(space):
    """Compute the largest eigenvalue of the Hessian."""
    return np.linalg.eigvalsh(dense_hessian(space["loss"], space["params"], space["data"]))[-1]


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
    assert space["of_plane"] < 1e-5
    # Each gauge residual depends on the computed basis of the plane.
    # Together they are half the length of the direction in the plane.
    assert_allclose(np.hypot(*space["of_each"]), (5 / 14) ** 0.5 / 2, rtol=1e-4)
    assert np.isfinite(space["first_slope"]).all()
    assert space["history"][-1] < 0.7 * space["history"][0]
    # Differences over steps of 0.01 have a relative error of 1e-3, and slopes are rounded to 1e-7.
    assert_allclose(space["seen"], space["predicted"], rtol=2e-3, atol=1e-6)


def check_edge_of_stability(space):
    rates, last = np.asarray(space["LEARNING_RATES"]), space["STEPS"] // 4
    assert_allclose(space["sharpness"][:, -last:].mean(axis=1), 2 / rates, rtol=0.05)
    losses = np.asarray(space["metrics"]["loss"])
    assert (losses[:, -1] < 0.1 * losses[:, 0]).all()
    # The last tracker update of the run with the largest step uses the parameters before the last step.
    end = {"params": jax.tree.map(lambda x: x[-1], space["ends"]), "loss": space["loss"], "data": space["data"]}
    assert_allclose(space["sharpness"][-1, -1], dense_sharpness(end), rtol=0.05)
    assert (np.asarray(space["states"].num_matvecs) == 2 * space["STEPS"]).all()


def check_adaptive_edge_of_stability(space):
    rates, momenta = np.asarray(space["LEARNING_RATES"]), np.asarray(space["MOMENTA"])
    edges = (2 + 2 * momenta) / ((1 - momenta) * rates)
    last = space["STEPS"] // 4
    assert_allclose(space["history"]["adaptive"][:, -last:].mean(axis=1), edges, rtol=0.05)
    # The sharpness stays far below the stability limit of gradient descent, 2 / rate.
    assert (space["history"]["raw"][:, last:].max(axis=1) < 0.2 * 2 / rates).all()
    for index in range(len(rates)):
        params, (moments, *_) = jax.tree.map(lambda x, index=index: x[index], (space["ends"], space["opt_states"]))
        second = np.asarray(ravel_pytree(moments.nu)[0], np.float64) / (1 - space["DECAY"] ** space["STEPS"])
        root = np.sqrt(np.sqrt(second) + 1e-8)
        truth = np.linalg.eigvalsh(dense_hessian(space["loss"], params, space["data"]) / root / root[:, None])
        assert_allclose(space["found"].eigenvalues[index], truth[:-4:-1], rtol=1e-3)
        assert_allclose(space["history"]["adaptive"][index, -1], truth[-1], rtol=0.05)


def check_hessian_density(space):
    assert len(space["counted"]) == 6
    for when, params in (("before training", space["before"]), ("after training", space["after"])):
        truth = np.linalg.eigvalsh(dense_hessian(space["loss"], params, space["data"]))
        size = truth[-1] - truth[0]
        assert_allclose(space["exact"][when], truth, atol=1e-5 * size)
        descending = truth[::-1][:20]
        assert_allclose(space["tops"][when].eigenvalues, descending, rtol=1e-3)
        outliers = 1 + max(i for i in range(19) if descending[i] > 1.25 * descending[i + 1])
        assert space["counts"][when] == outliers
        away = np.concatenate([np.linspace(1.1 * truth[0], -0.02 * size, 30), np.linspace(0.02 * size, truth[-1], 30)])
        share = np.searchsorted(truth, away, side="right") / len(truth)
        assert_allclose(space["densities"][when].cdf(away), share, atol=0.02)
    assert space["counts"]["after training"] == space["CLASSES"] - 1
    assert_allclose(space["refined_count"], space["CLASSES"] - 1, atol=0.01)
    for _, estimate, error, truth in space["counted"]:
        assert abs(estimate - truth) < 4 * error


def check_per_layer_spectra(space):
    dense = dense_hessian(space["loss"], space["params"], space["data"])
    sizes = [ravel_pytree(layer)[0].size for layer in space["params"]["params"].values()]
    assert list(space["params"]["params"]) == space["names"]
    for end, size, result in zip(np.cumsum(sizes), sizes, space["of_layers"].values(), strict=True):
        block = dense[end - size : end, end - size : end]
        truth = np.linalg.eigvalsh(block)[::-1][: space["K"]]
        assert_allclose(result.eigenvalues[-1], truth, atol=1e-3 * truth[0])
    truth = np.linalg.eigvalsh(dense)[::-1][: space["K"]]
    assert_allclose(space["of_all"].eigenvalues[-1], truth, atol=1e-3 * truth[0])
    assert space["converged"] == 1
    assert_allclose(sum(space["shares"]), 1, rtol=1e-4)


def dense_curvatures(model, params, data):
    """Compute the curvature matrices of the cross-entropy from dense Jacobians, in float64; means over positions."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: np.asarray(x, np.float64), params))
        inputs = np.asarray(data[0], np.float64) if data[0].dtype == np.float32 else data[0]
        targets = np.asarray(data[1]).reshape(len(inputs), -1)
        outputs = lambda x: model.apply(unravel(x), inputs).reshape(*targets.shape, -1)
        chosen = lambda x: jax.numpy.take_along_axis(jax.nn.log_softmax(outputs(x)), targets[..., None], axis=-1)
        logits, jac = np.asarray(outputs(flat)), np.asarray(jax.jacobian(outputs)(flat))
        hessian = np.asarray(jax.jacfwd(jax.grad(lambda x: -chosen(x).mean()))(flat))
        scores = np.asarray(jax.jacobian(lambda x: chosen(x).sum(axis=(1, 2)))(flat))
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    # g_y = J^T (p - e_y), and the Fisher is the mean of sum_y p_y g_y g_y^T.
    centred = jac - np.einsum("ntv,ntvp->ntp", probabilities, jac)[:, :, None]
    factors = (np.sqrt(probabilities)[..., None] * centred).reshape(-1, len(flat))
    exact = factors.T @ factors / targets.size
    return {
        "Hessian": hessian,
        "Gauss-Newton": exact,
        "Fisher": exact,
        "empirical Fisher": scores.T @ scores / targets.size,
    }


def check_curvature_of_two_networks(space):
    for name, network in space["networks"].items():
        found = space["spectra"][name]
        for kind, dense in dense_curvatures(*network).items():
            truth = np.linalg.eigvalsh(dense)[::-1][: space["K"]]
            assert found[kind].converged.all()
            assert_allclose(found[kind].eigenvalues, truth, rtol=1e-3, atol=1e-4 * truth[0])
        assert_allclose(found["Gauss-Newton"].eigenvalues, found["Fisher"].eigenvalues, rtol=1e-4)
        assert space["by_differences"][name].max() < 2e-3
        for kind in ("Gauss-Newton", "empirical Fisher"):
            assert (space["overlaps"][name, kind].sum(axis=1) < 1 + 1e-3).all()
    whole = space["spectra"]["text"]["Hessian"].eigenvalues[0]
    for result in space["layered"].values():
        assert result.converged.all()
        assert result.eigenvalues[0] < whole * (1 + 1e-3)


def check_gaussian_process(space):
    x, y = (np.asarray(space[name], float) for name in ("x", "y"))

    def likelihood(flat_theta):
        amplitude, lengths, noise = flat_theta[0], flat_theta[1:11], flat_theta[11]
        scaled = x / np.exp(lengths)
        squares = np.sum((scaled[:, None] - scaled[None]) ** 2, 2)
        kernel = np.exp(amplitude - squares / 2) + np.exp(noise) * np.eye(len(y))
        sign, determinant = np.linalg.slogdet(kernel)
        assert sign == 1
        return (y @ np.linalg.solve(kernel, y) + determinant) / (2 * len(y)) + np.log(2 * np.pi) / 2

    fitted, longer = (np.asarray(space["flat"](space[name]), float) for name in ("fitted", "longer"))
    optimum = scipy.optimize.minimize(likelihood, longer, method="L-BFGS-B", options={"maxiter": 20}).fun
    assert_allclose(space["reached"], likelihood(fitted), rtol=1e-3)
    assert_allclose(likelihood(fitted), optimum, rtol=1e-2)
    assert np.all(space["deviations"] < 3.5)
    assert np.mean(space["deviations"] < 2) > 0.8
    assert space["explained"] > 0.3
    assert 0.9 < space["covered"] < 1


def check_laplace_digits(space):
    params, data = space["params"], space["data"]
    flat, unravel = ravel_pytree(params)
    logits = space["model"].apply(params, data[0])
    probabilities = np.asarray(jax.nn.softmax(logits), np.float64)
    jac = np.asarray(jax.jacobian(lambda x: space["model"].apply(unravel(x), data[0]))(flat), np.float64)
    centred = np.sqrt(probabilities)[..., None] * (jac - np.einsum("nc,ncp->np", probabilities, jac)[:, None])
    dense = np.einsum("ncp,ncq->pq", centred, centred, optimize=True)  # of the sum over images, as N times the mean
    truth = np.linalg.eigvalsh(dense)[::-1]
    assert_allclose(space["pairs"].eigenvalues, truth[: space["K"]], rtol=1e-3, atol=1e-4 * truth[0])
    size, precision = space["part"].size, float(space["precisions"]["last layer, exact"])
    block = dense[-size:, -size:] + precision * np.eye(size)  # the last layer's leaves are the last
    op = space["low_rank"](space["pairs_of_part"], damping=precision)
    assert_allclose(op.logdet(), np.linalg.slogdet(block)[1], rtol=1e-3)
    found = ravel_pytree(op.inverse().diagonal())[0]
    assert_allclose(found, np.diag(np.linalg.inv(block)), rtol=1e-2)
    curves = space["curves"]
    assert curves["natural gradient"][20] < 0.5 * curves["gradient descent"][20]
    scores = space["scores"]
    assert all(score["log-likelihood"] >= scores["MAP"]["log-likelihood"] for score in scores.values())


CHECKS = {
    "adaptive_edge_of_stability": check_adaptive_edge_of_stability,
    "curvature_of_two_networks": check_curvature_of_two_networks,
    "differentiable_pca": check_differentiable_pca,
    "edge_of_stability": check_edge_of_stability,
    "gaussian_process": check_gaussian_process,
    "hessian_density": check_hessian_density,
    "hessian_spectrum": check_hessian_spectrum,
    "laplace_digits": check_laplace_digits,
    "per_layer_spectra": check_per_layer_spectra,
    "schroedinger_design": check_schroedinger_design,
    "spectral_clustering": check_spectral_clustering,
}
QUICK = ("edge_of_stability",)

# Values that are smaller here than in the notebook: each replaces a whole line `NAME = value`.
SIZES = {
    "adaptive_edge_of_stability": {"LEARNING_RATES": "[0.01, 0.001]", "MOMENTA": "[0.9, 0.0]", "STEPS": "1200"},
    "curvature_of_two_networks": {
        "IMAGES, FILTERS, IMAGE_STEPS": "64, 4, 40",
        "CONTEXT, WIDTH, BLOCKS, TEXT_STEPS, SEQUENCES": "8, 8, 2, 40, 8",
    },
    "hessian_density": {"CLASSES, EXAMPLES, WIDTH, STEPS": "10, 1797, 10, 200"},
    "per_layer_spectra": {"EXAMPLES, RECORDS, STEPS_BETWEEN, K": "128, 3, 8, 3"},
}
MAX_BYTES = 400_000


@pytest.fixture
def no_screen():
    """Draw figures in memory and discard them."""
    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def cells_of(path):
    return json.loads(path.read_text())["cells"]


def code_of(path):
    """Return the code of each cell, with the smaller values of `SIZES`."""
    sources = ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "code"]
    for names, value in SIZES.get(path.stem, {}).items():
        line = re.compile(rf"^{re.escape(names)} = .*$", re.MULTILINE)
        assert sum(len(line.findall(source)) for source in sources) == 1, f"one line {names} = ... in {path.name}"
        sources = [line.sub(f"{names} = {value}", source) for source in sources]
    return sources


@pytest.mark.slow
@pytest.mark.usefixtures("no_screen")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow) for path in NOTEBOOKS],
)
def test_notebook_runs_and_is_true(path):
    from matplotlib import pyplot

    space = {}
    # Standard promotion is the default of JAX, and optax needs it.
    with jax.numpy_dtype_promotion("standard"):
        for index, source in enumerate(code_of(path)):
            # Figures are drawn at the end of the test, not by plt.show().
            exec(compile(source.replace("plt.show()", ""), f"{path.name}[{index}]", "exec"), space)
        CHECKS[path.stem](space)
    for number in pyplot.get_fignums():
        pyplot.figure(number).canvas.draw()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_stores(path):
    """Check that stored cells ran in order without errors, that each picture is there, and no times are stored."""
    cells = cells_of(path)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(cell["metadata"] == {} for cell in cells)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert pictures == sum("".join(cell["source"]).count("plt.show()") for cell in code) >= 1
    assert path.stat().st_size < MAX_BYTES
