"""Pictures are pictures, and the landscape under them is the loss."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.report import pictures
from eigenjax.report.landscape import survey
from eigenjax.report.problem import History, Problem
from eigenjax.report.solve import Solve
from eigenjax.result import EigenResult


def png_size(path):
    """Width and height in the header of a PNG, which is 24 bytes long."""
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:])


def solve_of(values, converged=True):
    values = np.asarray(values, np.float32)
    flags = np.full(values.shape, converged)
    result = EigenResult(values, np.eye(len(values)), np.full(values.shape, 1e-6), flags, np.int32(0), np.int32(9))
    return Solve({"LA": result}, 9, 1.0, 0.5)


@pytest.mark.parametrize(
    "values", [[3.0, 2.0], [1e3, 1.0, 1e-3], [-1.0, -2.0], [1.0, -1.0], [0.0], [np.nan], [2.0] * 20]
)
def test_eigenvalues_of_any_kind(tmp_path, values):
    solves = {"lanczos": solve_of(values), "power": solve_of(values, converged=False)}
    pictures.draw_eigenvalues(tmp_path / "eigenvalues.png", solves, tol=1e-5)
    width, height = png_size(tmp_path / "eigenvalues.png")
    assert 600 < width < 3000
    assert 400 < height < 2000


def test_every_picture_of_a_run(run):
    folder, report = run("one_leaf", "--k", "3", "--algorithm", "lanczos")
    drawn = sorted(path.name for path in folder.glob("*.png"))
    assert drawn == ["eigenvalues.png", "landscape.png"]
    assert report["files"] == sorted(path.name for path in folder.iterdir())
    for name in drawn:
        assert min(png_size(folder / name)) > 400
        assert (folder / name).stat().st_size > 10_000


def test_one_pair_gives_one_slice(run):
    folder, _ = run("without_data", "--k", "1", "--algorithm", "lanczos")
    width, height = png_size(folder / "landscape.png")
    assert 400 < width < 1.5 * height


@pytest.mark.parametrize("losses", [[2.0, 1.0, 0.5], [1.0, 0.0, -1.0]])
def test_training(tmp_path, losses):
    history = History(np.arange(3), np.asarray(losses), np.asarray([1.0, 2.0, -0.5]), learning_rate=None)
    pictures.draw_training(tmp_path / "training.png", history)
    assert min(png_size(tmp_path / "training.png")) > 400


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
