"""Numbers of a report as files: `spectrum.json` with all results, `eigenpairs.npz` with the eigenvectors."""

import datetime
import importlib.metadata
import json
import math
import pathlib
import platform
from typing import Any

import jax
import numpy as np

from eigenjax.operators.base import LinearOperator
from eigenjax.report.analysis.extras import Additions
from eigenjax.report.analysis.layers import LayerSpectra
from eigenjax.report.analysis.solve import Solve
from eigenjax.report.analysis.tables import disagreement
from eigenjax.report.inputs.operators import NAMES
from eigenjax.report.inputs.problem import Problem, num_examples
from eigenjax.result import EigenResult, Status
from eigenjax.spectrum import SpectralDensity
from eigenjax.vectors.tree import PyTree

# Rounding errors of a Rayleigh quotient are at most this times eps times the largest eigenvalue.
_VALUE_ROUNDING = 4.0
# Number of points at which the distribution of all eigenvalues is tabulated, from the lowest to the largest.
_NUM_PLACES = 13

_PACKAGES = ("eigenjax", "jax", "jaxlib", "numpy", "flax", "optax", "scikit-learn", "matplotlib")


def document_of(
    *,
    arguments: dict[str, Any],
    problem: Problem,
    op: LinearOperator,
    solves: dict[str, Solve],
    additions: Additions,
    loss: float | None,
    seconds: float,
    files: list[str],
) -> dict[str, Any]:
    """Collect all results, arguments and versions, as `spectrum.json` and the page contain them.

    Args:
        arguments: arguments of the command, by name.
        problem: the problem.
        op: its operator.
        solves: results by the name of the algorithm.
        additions: results of the additional analyses.
        loss: loss at the parameters; None if it was not evaluated.
        seconds: wall time of the whole run.
        files: all file names in the folder.

    Returns:
        Nested dicts and lists of strings and numbers; None in place of NaN and Inf.
    """
    document = {
        "arguments": arguments,
        "operator": {"name": arguments["operator"], "title": NAMES[arguments["operator"]]},
        "problem": _problem_record(problem, op, loss),
        "versions": _versions(),
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
        },
        "algorithms": {name: _solve_record(solve) for name, solve in solves.items()},
        "relative_disagreement": _disagreements(solves),
        "density": additions.density and _density_record(additions.density),
        "layers": additions.layers and _layers_record(additions.layers),
        "gauss_newton": additions.gauss_newton and _solve_record(additions.gauss_newton),
        "notes": additions.notes,
        "history": problem.history and problem.history._asdict(),
        "seconds": seconds,
        "written": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "files": files,
    }
    return plain(document)


def write_json(path: pathlib.Path, document: dict[str, Any]) -> None:
    """Write a document as JSON, without NaN and Inf."""
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_eigenpairs(path: pathlib.Path, solve: Solve) -> None:
    """Write the pairs of one algorithm as an npz file, with eigenvectors as rows of n numbers.

    The arrays of the requested pairs are `eigenvalues` (k,), `eigenvectors` (k, n), `residuals` and `converged`.
    If the lowest pairs are a separate group, their arrays have the prefix `lowest_`. `layout` is JSON text: for each
    leaf, in the order of the numbers in a row, its path, shape and offset.

    Args:
        path: path of the file.
        solve: results of the algorithm; the first group holds the requested pairs.

    Example:
        From `pairs = numpy.load(path)`, extract one leaf of the first eigenvector:

            leaf = json.loads(str(pairs["layout"]))[0]
            size = math.prod(leaf["shape"])
            part = pairs["eigenvectors"][0, leaf["offset"] : leaf["offset"] + size].reshape(leaf["shape"])
    """
    arrays = {}
    for prefix, result in zip(("", "lowest_"), solve.results.values(), strict=False):
        arrays[f"{prefix}eigenvalues"] = result.eigenvalues
        arrays[f"{prefix}eigenvectors"] = rows(result.eigenvectors)
        arrays[f"{prefix}residuals"] = result.residuals
        arrays[f"{prefix}converged"] = result.converged
    first = next(iter(solve.results.values()))
    arrays["layout"] = np.asarray(json.dumps(layout(first.eigenvectors)))
    np.savez(path, allow_pickle=False, **arrays)


def rows(vectors: PyTree) -> np.ndarray:
    """Concatenate the leaves of a basis to a matrix (k, n).

    >>> rows({"bias": np.zeros((2, 1)), "kernel": np.ones((2, 2, 2))}).shape
    (2, 5)
    """
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(vectors)], axis=1)


def layout(vectors: PyTree) -> list[dict[str, Any]]:
    """List the path, shape and offset of each leaf of a basis within a row of its matrix.

    >>> layout({"bias": np.zeros((2, 1)), "kernel": np.ones((2, 2, 2))})
    [{'path': 'bias', 'shape': [1], 'offset': 0}, {'path': 'kernel', 'shape': [2, 2], 'offset': 1}]
    """
    entries, offset = [], 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(vectors)[0]:
        shape = list(leaf.shape[1:])
        entries.append(
            {"path": jax.tree_util.keystr(path, simple=True, separator="/"), "shape": shape, "offset": offset}
        )
        offset += math.prod(shape)
    return entries


def error_bounds(result: EigenResult, operator_norm: float = 0.0) -> np.ndarray:
    """Bound the errors of eigenvalues by the residual, or by the rounding error of the largest eigenvalue."""
    values = np.asarray(result.eigenvalues)
    largest = max(operator_norm, float(np.max(np.abs(values.astype(np.float64)))))
    return np.maximum(np.asarray(result.residuals, np.float64), _VALUE_ROUNDING * np.finfo(values.dtype).eps * largest)


def error_estimates(result: EigenResult, which: str, operator_norm: float = 0.0) -> np.ndarray:
    """Estimate the errors of eigenvalues by the residual r, or by r^2 / gap for a separated pair (Kato-Temple).

    The gap is the smallest distance to another eigenvalue found, less its residual. The last of the largest or lowest
    pairs has no gap, because its next neighbor is unknown. The estimate is a bound if no eigenvalue is missing.

    >>> residuals, flags = np.array([1e-3, 1e-3, 1e-3]), np.ones(3, bool)
    >>> print(error_estimates(EigenResult(np.array([3.0, 2.0, 1.0]), None, residuals, flags, 0, 9), "LA").round(7))
    [1.e-06 1.e-06 1.e-03]
    """
    bounds = error_bounds(result, operator_norm)
    if which not in ("LA", "SA") or not np.all(result.converged):
        return bounds
    values, residuals = np.asarray(result.eigenvalues, np.float64), np.asarray(result.residuals, np.float64)
    apart = np.abs(values[:, None] - values[None, :]) - residuals[None, :]
    np.fill_diagonal(apart, np.inf)
    gaps = apart.min(axis=1)
    gaps[-1] = 0.0
    narrow = np.where(gaps > residuals, residuals**2 / np.where(gaps > 0, gaps, 1.0), residuals)
    rounding = _VALUE_ROUNDING * np.finfo(np.asarray(result.eigenvalues).dtype).eps
    return np.maximum(narrow, rounding * max(operator_norm, float(np.max(np.abs(values)))))


def plain(value: Any) -> Any:
    """Convert arrays to lists, and NaN and Inf to None, for JSON.

    >>> plain({"a": np.array([1.0, np.nan]), "b": (np.int32(2), True)})
    {'a': [1.0, None], 'b': [2, True]}
    """
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _problem_record(problem: Problem, op: LinearOperator, loss: float | None) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(op.structure)[0]
    return {
        "num_parameters": op.size,
        "num_examples": num_examples(problem.data),
        "dtype": str(op.dtype),
        "loss": loss,
        "leaves": {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves},
    }


def _solve_record(solve: Solve) -> dict[str, Any]:
    largest = max(float(np.max(np.abs(result.eigenvalues))) for result in solve.results.values())
    return {
        "num_matvecs": solve.num_matvecs,
        "seconds": solve.seconds,
        "compile_seconds": solve.compile_seconds,
        "pairs": {which: _result_record(result, which, largest) for which, result in solve.results.items()},
    }


def _result_record(result: EigenResult, which: str, operator_norm: float = 0.0) -> dict[str, Any]:
    status = Status(int(result.status))
    return {
        "eigenvalues": result.eigenvalues,
        "residuals": result.residuals,
        "error_bounds": error_bounds(result, operator_norm),
        "error_estimates": error_estimates(result, which, operator_norm),
        "converged": result.converged,
        "status": status.name,
        "advice": status.advice,
        "num_matvecs": result.num_matvecs,
    }


def _density_record(found: SpectralDensity) -> dict[str, Any]:
    nodes = np.asarray(found.nodes)
    places = np.linspace(nodes.min(), nodes.max(), _NUM_PLACES)
    shares, errors = found.cdf(places), found.cdf_standard_error(places)
    return {
        "num_matvecs": found.num_matvecs,
        "nodes": nodes,
        "weights": found.weights,
        "residuals": found.residuals,
        "cdf": list(zip(places.tolist(), np.asarray(shares).tolist(), np.asarray(errors).tolist(), strict=True)),
    }


def _layers_record(found: LayerSpectra) -> dict[str, Any]:
    record = lambda name, result: {"size": found.sizes[name]} | _result_record(result, "LA")
    return {
        "found": {name: record(name, result) for name, result in found.results.items()},
        "left_out": found.left_out,
    }


def _disagreements(solves: dict[str, Solve]) -> dict[str, Any]:
    groups = next(iter(solves.values())).results
    return {which: disagreement([solve.results[which] for solve in solves.values()]) for which in groups}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # The package is not installed: a source checkout, or an extra that this run does not need.
            continue
    return versions
