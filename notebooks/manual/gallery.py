"""Gallery of the manual: the notebooks, and an index with the first picture of each."""

import base64
import json
import pathlib
import re
import shutil
from typing import Any

# One line for each notebook, in the order of the index.
NOTEBOOKS = {
    "hessian_spectrum": "The largest Hessian eigenvalue of a network, inside its jitted training loop.",
    "hessian_density": "The density of a Hessian before and after training, compared with all eigenvalues.",
    "per_layer_spectra": "The spectrum of each layer while a network trains.",
    "curvature_of_two_networks": "Hessian, Gauss-Newton and Fisher matrices of a convolutional and a language model.",
    "edge_of_stability": "Gradient descent at the edge of stability, for three step sizes at once.",
    "adaptive_edge_of_stability": "Adam at its own edge of stability, that of the preconditioned Hessian.",
    "laplace_digits": "Laplace approximations of a classifier, and natural-gradient steps.",
    "gaussian_process": "A Gaussian process fitted with the gradient of a log-determinant.",
    "differentiable_pca": "Principal components with a gradient, also where two variances are equal.",
    "spectral_clustering": "A network trained through the eigenvectors of a graph.",
    "schroedinger_design": "A potential that has a given ground state, found by gradient.",
}


def cells(notebook: pathlib.Path) -> list[dict[str, Any]]:
    """Read the cells of a notebook."""
    return json.loads(notebook.read_text())["cells"]


def title(notebook: pathlib.Path) -> str:
    """Return the heading of the first cell."""
    return "".join(cells(notebook)[0]["source"]).splitlines()[0].removeprefix("# ")


def needs(notebook: pathlib.Path) -> str:
    """Return the packages and data that the first cell names."""
    (found,) = re.findall(r"^\*Needs (.*)\*$", "".join(cells(notebook)[0]["source"]), re.MULTILINE)
    return found


def picture(notebook: pathlib.Path) -> bytes:
    """Return the first picture that is stored in the notebook."""
    outputs = [output for cell in cells(notebook) for output in cell.get("outputs", [])]
    stored = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return base64.b64decode("".join(stored[0]))


def write(notebooks: pathlib.Path, folder: pathlib.Path) -> None:
    """Copy the notebooks, and write the index and its pictures."""
    found = {path.stem for path in notebooks.glob("*.ipynb")}
    if found != set(NOTEBOOKS):
        raise ValueError(f"NOTEBOOKS of the gallery and the folder differ in {sorted(found ^ set(NOTEBOOKS))}")
    folder.mkdir()
    installed = 'In a clone, `pip install -e ".[training,report,demo]"` installs what they need.'
    lines = ["# Gallery", "", f"The tests run all notebooks and check their results. {installed}", ""]
    for name, line in NOTEBOOKS.items():
        notebook = notebooks / f"{name}.ipynb"
        shutil.copy(notebook, folder)
        (folder / f"{name}.png").write_bytes(picture(notebook))
        lines += [f"## [{title(notebook)}]({name}.ipynb)", "", f"{line} Needs {needs(notebook)}", ""]
        lines += [f"[![{title(notebook)}]({name}.png){{ width=480 loading=lazy }}]({name}.ipynb)", ""]
    (folder / "index.md").write_text("\n".join(lines))
