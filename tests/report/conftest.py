"""Small problems with dense reference solutions, as a module that the command can import."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eigenjax.__main__ import main
from eigenjax.operators.curvature.hessian import hessian
from eigenjax.report.analysis.extras import Additions
from eigenjax.report.analysis.landscape import Landscape, Slice
from eigenjax.report.analysis.layers import LayerSpectra
from eigenjax.report.analysis.solve import Solve
from eigenjax.report.command import Request
from eigenjax.report.output import record
from eigenjax.report.output.page import write_page
from eigenjax.report.output.panels import draw_panels
from eigenjax.result import EigenResult
from eigenjax.spectrum import SpectralDensity

SOURCE = """
import numpy as np
import jax
import jax.numpy as jnp
import eigenjax
import eigenjax.report.inputs.problem

def loss(params, batch):
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["first"] + params["bias"][None, :])
    return jnp.mean((hidden @ params["second"] - targets) ** 2)

def small():
    rng = np.random.default_rng(3)
    params = {"first": rng.normal(size=(4, 3)), "bias": rng.normal(size=3), "second": rng.normal(size=3)}
    data = (rng.normal(size=(20, 4)), rng.normal(size=20))
    return eigenjax.Problem(loss, params, data)

def one_leaf():
    rng = np.random.default_rng(4)
    loss = lambda w, inputs: jnp.mean(jnp.cos(inputs @ w))
    return eigenjax.Problem(loss, rng.normal(size=6), rng.normal(size=(20, 6)))

def without_data():
    return eigenjax.Problem(lambda w: jnp.sum(w**4) + jnp.sum(w) ** 2, np.arange(1.0, 5.0))

def with_integers():
    scale = lambda params: params["count"].astype(params["w"].dtype)
    loss = lambda params: scale(params) * jnp.sum(params["w"] ** 4) - params["w"][0]
    return eigenjax.Problem(loss, {"w": np.arange(1.0, 5.0), "count": np.arange(3, 4)[0]})

def digits_of_two_layers():
    rng = np.random.default_rng(5)
    first = {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}
    params = {"<b>first</b> & \\"co\\"": first, "second": {"w": rng.normal(size=(4, 3))}}
    data = (rng.normal(size=(30, 3)), rng.integers(0, 3, size=30))

    def model(params, inputs):
        first, second = params.values()
        return jnp.tanh(inputs @ first["w"] + first["b"][None, :]) @ second["w"]

    def loss_of_output(logits, labels):
        log_shares = logits - jax.scipy.special.logsumexp(logits, axis=1, keepdims=True)
        return -jnp.mean(jnp.take_along_axis(log_shares, labels[:, None], axis=1))

    loss = lambda params, batch: loss_of_output(model(params, batch[0]), batch[1])
    history = eigenjax.report.inputs.problem.History([0, 1, 2], [2.0, 1.0, 0.5], [1.0, 2.0, 4.5], 0.5)
    return eigenjax.Problem(loss, params, data, model, loss_of_output, history)

def module():
    from flax import nnx
    layers = nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(1)), nnx.Linear(4, 1, rngs=nnx.Rngs(2))
    inputs = np.random.default_rng(6).normal(size=(20, 3))
    mean = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
    loss = lambda model, batch: mean(model(batch[0]), batch[1])
    model = lambda model, inputs: model(inputs)
    return eigenjax.Problem(loss, nnx.Sequential(*layers), (inputs, np.sin(inputs[:, :1])), model, mean)

def not_a_problem():
    return 3

def failing():
    raise RuntimeError("no such file\\nand more")

def vector_loss():
    return eigenjax.Problem(lambda w: 2 * w, np.ones(3))

def integer_params():
    return eigenjax.Problem(lambda w: jnp.sum(w), np.arange(3))

def ragged_data():
    return eigenjax.Problem(lambda w, batch: jnp.sum(w), np.ones(3), (np.ones(2), np.ones(3)))

def broken_loss():
    return eigenjax.Problem(lambda w: w @ jnp.ones(7), np.ones(3))

def complex_params():
    return eigenjax.Problem(lambda w: jnp.sum(jnp.abs(w) ** 2), np.ones(3, np.complex64))

def infinite():
    return eigenjax.Problem(lambda w: jnp.inf * jnp.sum(w**2), np.ones(3))

def infinite_curvature():
    # Zero at zero, and so is the slope; the second derivative is infinite.
    return eigenjax.Problem(lambda w: jnp.sum(jnp.abs(w) ** 1.5), np.zeros(3))

def infinite_slope():
    return eigenjax.Problem(lambda w: jnp.sum(jnp.sqrt(w["a"])) + jnp.sum(w["b"]), {"a": np.zeros(2), "b": np.ones(3)})

def no_parameter():
    params = {"a": np.ones(2), "b": np.array([1.0, np.nan, -np.inf])}
    return eigenjax.Problem(lambda w: jnp.sum(w["a"] ** 2), params)

def too_large():
    return eigenjax.Problem(lambda w: jnp.sum(w["b"]), {"a": np.ones(2), "b": np.full(3, 1e200)})

def _inputs(bad):
    inputs = np.random.default_rng(6).normal(size=(20, 4))
    inputs[13, 2] = bad
    return inputs

def no_data():
    return eigenjax.Problem(lambda w, batch: jnp.mean((batch["x"] @ w) ** 2), np.ones(4), {"x": _inputs(np.nan)})

def masked_data():
    def loss(w, inputs):
        known = jnp.isfinite(inputs)
        return jnp.mean((jnp.where(known, inputs, 0) @ w) ** 2)
    return eigenjax.Problem(loss, np.ones(4), _inputs(np.inf))

def _with(**parts):
    return eigenjax.Problem(lambda w: jnp.sum(w**4), np.arange(1.0, 4.0))._replace(**parts)

def swapped():
    return eigenjax.Problem(np.ones(3), lambda w: jnp.sum(w))

def params_of_text():
    return _with(params={"w": "ones"})

def data_of_text():
    return _with(data="digits.npy")

def data_of_objects():
    return _with(data=np.array([{}, {}], object))

def model_of_words():
    return _with(model="mlp")

def loss_of_words():
    return _with(loss_of_output="mse")

def history_of_words():
    return _with(history="none")

def history_of_other_keys():
    return _with(history={"steps": [0], "loss": [1.0], "eigenvalues": [2.0]})

def with_a_dict():
    return _with(history={"steps": [0, 1], "losses": [2.0, 1.0], "eigenvalues": [1.0, 2.0]})

def ragged_history():
    return _with(history=eigenjax.report.inputs.problem.History([0, 1], [1.0], [2.0]))

def history_of_text():
    return _with(history=eigenjax.report.inputs.problem.History(["a"], [1.0], [2.0]))

def history_without_records():
    return _with(history=eigenjax.report.inputs.problem.History([], [], []))

def history_of_negative_rate():
    return _with(history=eigenjax.report.inputs.problem.History([0], [1.0], [2.0], -0.1))

def wants_arguments(seed):
    return _with()

constant = 7
"""


@pytest.fixture(scope="session")
def dense():
    """Return the ascending eigenvalues and the dense Hessian of the problem `small`, by NumPy in float64."""
    namespace = {}
    exec(SOURCE, namespace)
    with jax.enable_x64(True):
        problem = namespace["small"]()
        params, data = jax.tree.map(jnp.asarray, (problem.params, problem.data))
        flat, unravel = ravel_pytree(params)
        matrix = jax.hessian(lambda flat: problem.loss(unravel(flat), data))(flat)
        return np.linalg.eigvalsh(np.asarray(matrix)), np.asarray(matrix)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Return an empty working folder from which the module `small_problems` can be imported."""
    (tmp_path / "small_problems.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    # These variables make rich treat any output as a terminal.
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    sys.modules.pop("small_problems", None)


@pytest.fixture
def run(workplace):
    """Return a function that runs the command, for the pairs alone, and returns its folder and `spectrum.json`."""

    def run(function, *options, out="out", without=("density", "layers", "gauss-newton")):
        words = ["spectrum", "--problem", f"small_problems:{function}", "--out", out, *options]
        words += ["--without", *without] if without else []
        assert main(words) == 0
        return workplace / out, json.loads((workplace / out / "spectrum.json").read_text())

    return run


@pytest.fixture(scope="session")
def full_report(tmp_path_factory):
    """Return a report with all its sections: the folder, its `spectrum.json`, and the problem."""
    place = tmp_path_factory.mktemp("full")
    (place / "full_problems.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = ["spectrum", "--problem", "full_problems:digits_of_two_layers", "--out", "out", "--k", "3"]
        assert main([*words, "--dtype", "float64", "--algorithm", "lanczos"]) == 0
        problem = sys.modules.pop("full_problems").digits_of_two_layers()
    return place / "out", json.loads((place / "out" / "spectrum.json").read_text()), problem


def _result(*values):
    values = np.asarray(values, np.float32)
    flags = np.arange(len(values)) < 2
    return EigenResult(values, None, np.abs(values) * np.float32(1e-6), flags, np.int32(not flags.all()), np.int32(9))


def _landscape():
    along = np.linspace(-1.0, 1.0, 9)
    line = Slice(along, 1 + along**2 + along**3, 1 + along**2)
    plane = 1 + along[:, None] ** 2 + 2 * along**2
    return Landscape([line, line], plane, (along, along), 1.0)


@pytest.fixture(scope="session")
def made_report(tmp_path_factory):
    """Return a page with all its sections, of invented numbers: folder, document and problem."""
    namespace = {}
    exec(SOURCE, namespace)
    problem = namespace["digits_of_two_layers"]()
    to_float32 = lambda x: jnp.asarray(x, jnp.float32 if np.issubdtype(x.dtype, np.floating) else jnp.int32)
    params, data = jax.tree.map(to_float32, (problem.params, problem.data))
    problem = problem._replace(params=params, data=data)
    checks = [(5, np.array([1.0, 0.5, 0.1])), (10, np.array([0.1, 0.01, 1e-6]))]
    groups = {"LA": _result(3.5, 2.25, 1.125), "SA": _result(-0.75, -0.5)}
    solves = {"lanczos": Solve(groups, 19, 1.5, 0.5, {"LA": checks, "SA": checks[:1]})}
    beside = Solve({"LA": _result(3.25, 2.125, 1.0625)}, 12, 1.0, 0.5, {"LA": checks})
    nodes = jnp.tile(jnp.r_[jnp.linspace(-0.75, 1.0, 20), 2.25, 3.5], (2, 1))
    density = SpectralDensity(nodes, jnp.full(nodes.shape, 1 / 22), jnp.zeros(nodes.shape), jnp.int32(44))
    layers = LayerSpectra({name: _result(1.75, 0.875) for name in params}, dict.fromkeys(params, 14), ["<left> out"])
    found = Additions(density, layers, beside, {})
    panels = draw_panels(solves, 1e-5, found, _landscape(), np.array([3.5, 2.25]), problem.history)
    document = record.document_of(
        arguments=Request(problem="made.up:<problem>")._asdict(),
        problem=problem,
        op=hessian(problem.loss, params, data),
        solves=solves,
        additions=found,
        loss=1.0,
        seconds=2.0,
        files=["report.html"],
    )
    folder = tmp_path_factory.mktemp("made")
    write_page(folder / "report.html", document, panels)
    return folder, document, problem
