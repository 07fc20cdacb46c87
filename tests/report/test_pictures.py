"""Pictures: they show the given numbers, and refuse numbers that cannot be drawn."""

import struct
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.report import pictures
from eigenjax.report.analysis.landscape import survey
from eigenjax.report.analysis.solve import Solve
from eigenjax.report.inputs.problem import History, Problem
from eigenjax.report.output.manifest import own_files
from eigenjax.report.pictures.density import outliers
from eigenjax.result import EigenResult
from eigenjax.spectrum import SpectralDensity


def png_size(path):
    """Read the width and height from the 24-byte header of a PNG."""
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:])


def result_of(values, converged=True):
    values = np.asarray(values, np.float32)
    flags = np.full(values.shape, converged)
    return EigenResult(values, np.eye(len(values)), np.full(values.shape, 1e-6), flags, np.int32(0), np.int32(9))


def solve_of(values, converged=True):
    return Solve({"LA": result_of(values, converged)}, 9, 1.0, 0.5, {})


def density_of(values, num_probes=2):
    """Return the density of a complete decomposition: every eigenvalue is a node of equal weight."""
    nodes = np.tile(np.sort(np.asarray(values, np.float32)), (num_probes, 1))
    weights = np.full_like(nodes, 1 / nodes.shape[1])
    return SpectralDensity(jnp.asarray(nodes), jnp.asarray(weights), jnp.zeros_like(weights), jnp.int32(9))


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def saved(axes, tmp_path):
    """Save the picture, which lays out labels and takes logarithms; warnings are errors."""
    axes.figure.savefig(tmp_path / "picture.png", dpi=60)
    assert min(png_size(tmp_path / "picture.png")) > 100


@pytest.mark.parametrize(
    "values", [[3.0, 2.0], [1e3, 1.0, 1e-3], [-1.0, -2.0], [1.0, -1.0], [0.0], [np.nan], [2.0] * 20]
)
def test_eigenvalues_of_any_kind(tmp_path, values):
    solves = {"lanczos": solve_of(values), "power": solve_of(values, converged=False)}
    figure = pictures.draw_solves(solves, tol=1e-5)
    figure.savefig(tmp_path / "eigenvalues.png", dpi=pictures.DPI)
    width, height = png_size(tmp_path / "eigenvalues.png")
    assert 600 < width < 3000
    assert 400 < height < 2000
    drawn = lines_of(figure.axes[0])
    np.testing.assert_array_equal(drawn["Lanczos"].get_ydata(), np.asarray(values, np.float32))
    assert "deflated power iteration: not converged" in drawn


@pytest.mark.slow
def test_every_picture_of_a_run(run):
    options = ("--k", "3", "--algorithm", "lanczos", "--dtype", "float64", "--formats", "PDF, svg,png,svg")
    folder, report = run("digits_of_two_layers", *options, without=("density", "gauss-newton"))
    drawn = sorted(path.name for path in folder.glob("*.png"))
    assert drawn == ["convergence.png", "eigenvalues.png", "landscape.png", "layers.png", "training.png"]
    assert report["files"] == sorted(path.name for path in folder.iterdir())
    assert report["arguments"]["formats"] == ["pdf", "svg", "png"]
    assert set(report["files"]) == own_files(folder)
    for name in drawn:
        assert (folder / name).with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert ElementTree.parse((folder / name).with_suffix(".svg")).getroot().tag.endswith("svg")
        assert min(png_size(folder / name)) > 300
        assert (folder / name).stat().st_size > 5_000
    # Interlacing: the eigenvalues of a block lie between the extreme ones of the whole matrix.
    found = [record["eigenvalues"] for record in report["layers"]["found"].values()]
    pairs = report["algorithms"]["lanczos"]["pairs"]
    assert np.max(found) <= pairs["LA"]["eigenvalues"][0] + 1e-9
    assert np.min(found) >= pairs["SA"]["eigenvalues"][0] - 1e-9
    assert np.shape(found) == (2, 3)


@pytest.mark.slow
def test_one_pair_gives_one_slice(run):
    folder, _ = run("without_data", "--k", "1", "--algorithm", "lanczos")
    width, height = png_size(folder / "landscape.png")
    assert 400 < width < 1.5 * height


@pytest.mark.parametrize("losses", [[2.0, 1.0, 0.5], [1.0, 0.0, -1.0]])
def test_training(tmp_path, losses):
    history = History(np.arange(3), np.asarray(losses), np.asarray([1.0, 2.0, -0.5]), learning_rate=None)
    pictures.draw_training(history).savefig(tmp_path / "training.png")
    assert min(png_size(tmp_path / "training.png")) > 400


def test_sharpness_of_metrics_and_of_arrays_is_the_same_picture(tmp_path):
    values = np.array([[3.0, 1.0], [np.nan, 1.5], [5.0, -2.0]])
    metrics = [{"eigenvalue_0": jnp.float32(a), "eigenvalue_1": jnp.float32(b), "age": 0} for a, b in values]
    for eigenvalues in (values, values.tolist(), metrics):
        axes = pictures.draw_sharpness([0, 5, 10], eigenvalues, learning_rate=[0.5, 0.4, 0.25])
        drawn = lines_of(axes)
        np.testing.assert_array_equal(drawn["eigenvalue 1"].get_ydata(), values[:, 0])
        np.testing.assert_array_equal(drawn["eigenvalue 2"].get_ydata(), values[:, 1])
        np.testing.assert_allclose(drawn["2 / learning rate: unstable above"].get_ydata(), [4.0, 5.0, 8.0])
        assert axes.get_ylim()[0] < -2
    saved(axes, tmp_path)


def test_density_is_of_mass_one_with_outliers_as_lines(tmp_path):
    found = density_of([*np.linspace(0.0, 1.0, 96), 4.0, 7.0])
    np.testing.assert_allclose(outliers(found), [4.0, 7.0])
    axes = pictures.draw_density(found)
    curve = lines_of(axes)["density"]
    np.testing.assert_allclose(np.trapezoid(np.nan_to_num(curve.get_ydata()), curve.get_xdata()), 1.0, rtol=2e-2)
    segments = axes.collections[-1].get_segments()
    np.testing.assert_allclose([segment[0][0] for segment in segments], [4.0, 7.0])
    assert all(bottom[1] > 0 and top[1] > bottom[1] for bottom, top in segments)
    assert axes.get_yscale() == "log"
    saved(axes, tmp_path)


@pytest.mark.parametrize("values", [[2.0], [0.0, 0.0], [-1.0, 1.0]])
def test_density_of_few_eigenvalues(tmp_path, values):
    saved(pictures.draw_density(density_of(values)), tmp_path)


def test_layers_in_their_order_with_what_has_not_converged(tmp_path):
    results = {"first": result_of([3.0, 0.01]), "second": result_of([2.0], converged=False), "": result_of([1.0])}
    axes = pictures.draw_layers(results)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second", "(all)"]
    bottom, top = axes.get_ylim()
    assert bottom > top
    drawn = lines_of(axes)
    np.testing.assert_allclose(drawn["converged"].get_xydata(), [[3.0, 0], [0.01, 0], [1.0, 2]], rtol=1e-6)
    np.testing.assert_allclose(drawn["not converged"].get_xydata(), [[2.0, 1]])
    saved(axes, tmp_path)
    negative = pictures.draw_layers({"a": result_of([1.0, -1.0])})
    assert negative.get_xscale() == "linear"
    assert negative.get_xlim()[0] < -1


def test_convergence_shows_the_worst_and_leaves_out_what_is_unknown(tmp_path):
    residuals = [[1.0, np.inf], [0.1, 0.5], [0.0, 0.0]]
    axes = pictures.draw_convergence({"a": ([1, 2, 3], residuals), "b": ([10, 200], [1.0, 1e-9])}, tolerance=1e-6)
    drawn = lines_of(axes)
    np.testing.assert_allclose(drawn["a"].get_ydata()[:2], [np.nan, 0.5])
    assert drawn["a"].get_ydata()[2] > 0
    np.testing.assert_allclose(drawn["b"].get_ydata(), [1.0, 1e-9])
    saved(axes, tmp_path)


def test_overlaps_are_cosines_of_principal_angles(tmp_path):
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.normal(size=(6, 2)) + 1j * rng.normal(size=(6, 2)))[0].T for _ in range(3)]
    parts = [{"a": jnp.asarray(b[:, :2]), "b": jnp.asarray(b[:, 2:].reshape(2, 2, 2))} for b in bases]
    overlaps = pictures.subspace_overlaps(parts)
    cosines = [[np.linalg.svd(s.conj() @ t.T, compute_uv=False) for t in bases] for s in bases]
    np.testing.assert_allclose(overlaps, np.mean(np.square(cosines), axis=-1), atol=1e-6)
    saved(pictures.draw_overlaps(overlaps, steps=[0, 10, 20]), tmp_path)
    saved(pictures.draw_overlaps(np.eye(30)), tmp_path)


def test_the_axes_given_are_the_ones_drawn_on_and_nothing_else_is_touched():
    from matplotlib import _pylab_helpers
    from matplotlib.figure import Figure

    mine = Figure().subplots()
    assert pictures.draw_convergence({"a": ([1, 2], [1.0, 0.1])}, axes=mine) is mine
    other = Figure().subplots()
    assert pictures.draw_overlaps(np.eye(2), axes=other) is other
    assert not _pylab_helpers.Gcf.figs


REFUSED = {
    "axes": (lambda: pictures.draw_overlaps(np.eye(2), axes=3), "axes=3: give one matplotlib Axes"),
    "figure": (
        lambda: pictures.draw_training(History([0], [1.0], [1.0]), figure=[]),
        r"figure=\[\]: give a matplotlib Figure",
    ),
    "lengths": (lambda: pictures.draw_sharpness([0, 1], [1.0]), "eigenvalues has 1 rows and steps 2"),
    "rates": (lambda: pictures.draw_sharpness([0], [1.0], learning_rate=0.0), "learning_rate=0.0: give positive"),
    "labels": (lambda: pictures.draw_sharpness([0], [1.0], labels=[]), "labels has 0 texts for 1"),
    "metrics": (lambda: pictures.draw_sharpness([0], [{"loss": 1.0}]), "dicts without eigenvalue_0"),
    "words": (lambda: pictures.draw_losses([0], ["low"]), "losses=.*give an array of real numbers"),
    "nothing": (lambda: pictures.draw_losses([], []), "steps is empty"),
    "density": (lambda: pictures.draw_density([1.0]), "found is a list: give what spectral_density"),
    "not finite": (lambda: pictures.draw_density(density_of([np.nan])), "found holds NaN or Inf"),
    "width": (lambda: pictures.draw_density(density_of([1.0]), width=-1.0), "width=-1.0: give a positive"),
    "layers": (lambda: pictures.draw_layers([]), "results is a list: give what block_spectra"),
    "no layers": (lambda: pictures.draw_layers({}), "results is empty"),
    "results": (lambda: pictures.draw_eigenvalues({}), "results holds 0 results: give one to 4"),
    "histories": (lambda: pictures.draw_convergence([]), "histories is a list: give a dict"),
    "history": (lambda: pictures.draw_convergence({"a": 3}), "'a'.* is not a pair"),
    "looks": (lambda: pictures.draw_convergence({"a": ([1], [1.0, 2.0])}), "residuals of 'a' has 2 rows"),
    "square": (lambda: pictures.draw_overlaps(np.ones((2, 3))), r"overlaps has the shape \(2, 3\): give a square"),
    "bases": (lambda: pictures.subspace_overlaps([np.eye(2), np.eye(3)]), "bases differ in shape"),
    "no plane": (
        lambda: pictures.draw_loss_across(survey(BOWL, np.array([2.0]), jnp.eye(2)[:1])),
        "landscape.plane is None: survey two",
    ),
}
BOWL = Problem(lambda w: 1.0 + jnp.sum(w**2), jnp.zeros(2))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_said(case):
    draw, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        draw()


def test_the_parabola_touches_the_loss():
    problem = Problem(lambda w: jnp.sum(jnp.cosh(w)) + w[0], jnp.array([0.3, -0.2]))
    values = np.cosh([0.3, -0.2])
    landscape = survey(problem, values, jnp.eye(2))
    for line in landscape.slices:
        near = np.abs(line.positions) < 0.1
        np.testing.assert_allclose(line.losses[near], line.parabola[near], rtol=2e-4)
        assert np.abs(line.losses - line.parabola).max() > 1e-2
    np.testing.assert_allclose(landscape.center, np.cosh(0.3) + np.cosh(0.2) + 0.3, rtol=1e-6)


def test_the_plane_is_the_loss_with_the_first_direction_to_the_right():
    problem = Problem(lambda w: 1 + w[0] ** 2 + 2 * w[1] ** 2 + w[1] ** 3, jnp.zeros(2))
    landscape = survey(problem, np.array([4.0, 2.0]), jnp.array([[0.0, 1.0], [1.0, 0.0]]))
    first, second = np.meshgrid(*landscape.axes)
    np.testing.assert_allclose(landscape.plane, 1 + second**2 + 2 * first**2 + first**3, rtol=1e-5)
