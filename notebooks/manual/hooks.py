"""Source folder of the manual: pages, notebooks, changelog, and a page of the reference for each group of names.

The figures of the pages in `comparison.PAGES` are computed anew from benchmarks/results, and the gallery takes its
pictures from the notebooks. `typeset` finishes each page; `docstrings` and `formulas` prepare docstrings for the
reference.
"""

import inspect
import pathlib
import re
import shutil
import sys
import tempfile
from typing import Any

import eigenjax

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import comparison  # noqa: E402
import gallery  # noqa: E402
import typeset  # noqa: E402

ROOT = HERE.parents[1]
# Each public name is in one group; a build fails if one is missing.
GROUPS = {
    "solvers": (
        "Solvers and results",
        (
            "eigsh lanczos deflated_power_iteration eigs svds block_spectra eigh eig svd eigenvalue_condition "
            "left_eigenvectors LeftEigenvectors EigenResult SingularResult Status raise_if_failed EigenError"
        ),
    ),
    "gradients": ("Information on gradients", "gauge_residual adjoint_info AdjointInfo"),
    "operators": (
        "Operators",
        (
            "LinearOperator as_operator to_dense check_operator symmetry_error hessian hvp gauss_newton fisher "
            "Likelihood jacobian neural_tangent_kernel LinearHead softmax_cross_entropy blocks restrict precondition "
            "diagonal_operator deflate shift_inverse low_rank LowRankPlusDiagonal"
        ),
    ),
    "spectrum": (
        "The whole spectrum, and functions of operators",
        (
            "spectral_density SpectralDensity eigenvalue_count trace TraceResult diagonal DiagonalResult "
            "frobenius_norm logdet trace_of_function matrix_function expm_multiply FunctionResult EstimateStatus"
        ),
    ),
    "training": (
        "Training",
        (
            "spectrum_tracker SpectrumTracker TrackerState scale_by_sharpness scale_by_natural_gradient "
            "sharpness_penalty spectral_norm adam_preconditioner"
        ),
    ),
    "runs": ("Runs, streams and the command", "run RunError stream memory_mapped_batches estimate Estimate Problem"),
}


def on_config(config: Any) -> Any:
    """Assemble the source folder in a temporary one."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="manual-"))
    shutil.copytree(HERE / "pages", folder, dirs_exist_ok=True)
    for name in comparison.PAGES:
        (folder / name).write_text(comparison.page(name))
    gallery.write(ROOT / "notebooks", folder / "gallery")
    for notebook in (folder / "gallery").glob("*.ipynb"):
        typeset.typeset_notebook(notebook)
    (folder / "index.md").write_text(comparison.readme().replace("notebooks/manual/pages/", ""))
    for page in folder.glob("*.md"):
        page.write_text(linked_to_gallery(page.read_text()))
    shutil.copy(ROOT / "eigenjax" / "CHANGELOG.md", folder / "changelog.md")
    write_reference(folder / "reference")
    config["docs_dir"] = str(folder)
    config["extra"]["targets"] = targets()
    return config


def linked_to_gallery(text: str) -> str:
    """Replace the links to notebooks, which lead to their places in the repository, by links to the gallery.

    >>> linked_to_gallery("[a](notebooks/edge_of_stability.ipynb), [b](../../hessian_density.ipynb)")
    '[a](gallery/edge_of_stability.ipynb), [b](gallery/hessian_density.ipynb)'
    """
    return re.sub(r"\]\((?:notebooks|\.\./\.\.)/(\w+\.ipynb)\)", r"](gallery/\1)", text)


def targets() -> dict[str, str]:
    """Return the page and the anchor of each public name."""
    return {
        name: f"reference/{page}.html#{identifier(name)}"
        for page, (_, group) in GROUPS.items()
        for name in group.split()
    }


def identifier(name: str) -> str:
    """Return the path of a name in the reference: a class has that of its module."""
    found = getattr(eigenjax, name)
    return f"{found.__module__}.{name}" if inspect.isclass(found) else f"eigenjax.{name}"


def write_reference(folder: pathlib.Path) -> None:
    """Write one page for each group."""
    names = [name for _, group in GROUPS.values() for name in group.split()]
    wrong = set(names) ^ set(eigenjax.__all__)
    if wrong or len(names) != len(set(names)):
        raise ValueError(
            f"GROUPS of the manual and eigenjax.__all__ differ in {sorted(wrong)}, or a name is there twice"
        )
    folder.mkdir()
    for page, (title, group) in GROUPS.items():
        blocks = "\n\n".join(map(block, group.split()))
        (folder / f"{page}.md").write_text(f"# {title}\n\n{blocks}\n")


def block(name: str) -> str:
    """Return the directive for one name: functions are inspected, and the fields of classes read from the source."""
    if not inspect.isclass(getattr(eigenjax, name)):
        return f"::: {identifier(name)}"
    options = "    options: { force_inspection: false, filters: ['!^_'], heading_level: 2 }"
    return f"::: {identifier(name)}\n{options}"
