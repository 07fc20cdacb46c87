"""The numbers of a report as files: `spectrum.json` for reading, `eigenpairs.npz` for going on with."""

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

# Units of rounding of the largest eigenvalue, within which a Rayleigh quotient is that of the product as computed.
_ROUNDING = 4.0
# Where the distribution of all eigenvalues is tabulated, from the lowest to the largest.
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
    """Everything that was found, and what it was found with, as `spectrum.json` and the page hold it.

    Args:
        arguments: of the command, by name.
        problem: whose curvature it was.
        op: the operator.
        solves: by the name of the algorithm.
        additions: what there is beside the pairs.
        loss: at the parameters, where it was evaluated.
        seconds: of the whole run.
        files: all the names in the folder, so that a later run knows which to replace.

    Returns:
        Dicts, lists, texts and numbers; None for what is no finite number.
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
    """Writes `spectrum.json`."""
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_eigenpairs(path: pathlib.Path, solve: Solve) -> None:
    """Writes the pairs of one algorithm, eigenvectors as rows of n numbers.

    The wanted group gives `eigenvalues` (k,), `eigenvectors` (k, n), `residuals` and `converged`; the lowest pairs,
    where they are another group, the same with `lowest_` before the name. `layout` is JSON text: for each leaf, in the
    order of the numbers in a row, its path, shape and offset.

    Args:
        path: of the file.
        solve: its first group is the wanted one.

    Example:
        Of `pairs = numpy.load(path)`, the part of the sharpest eigenvector that belongs to one leaf:

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
    """A basis as a matrix (k, n), leaf after leaf.

    >>> rows({"bias": np.zeros((2, 1)), "kernel": np.ones((2, 2, 2))}).shape
    (2, 5)
    """
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(vectors)], axis=1)


def layout(vectors: PyTree) -> list[dict[str, Any]]:
    """Where each leaf of a basis lies in the rows of its matrix.

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
    """Bound the errors of eigenvalues by their residuals, and by the rounding of the largest eigenvalue."""
    values = np.asarray(result.eigenvalues)
    largest = max(operator_norm, float(np.max(np.abs(values.astype(np.float64)))))
    return np.maximum(np.asarray(result.residuals, np.float64), _ROUNDING * np.finfo(values.dtype).eps * largest)


def error_estimates(result: EigenResult, which: str, operator_norm: float = 0.0) -> np.ndarray:
    """Estimate the errors of eigenvalues: the residual r, or r^2 / gap where a pair stands apart (Kato-Temple).

    Of the largest or the lowest eigenvalues the gap is that to the others found, and there is none for the last pair,
    whose further neighbor is not known. It would be a bound if all eigenvalues were known.

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
    rounding = _ROUNDING * np.finfo(np.asarray(result.eigenvalues).dtype).eps
    return np.maximum(narrow, rounding * max(operator_norm, float(np.max(np.abs(values)))))


def plain(value: Any) -> Any:
    """Arrays as lists, and None for what JSON has no number for.

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
        "products": solve.num_matvecs,
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
        "products": result.num_matvecs,
    }


def _density_record(found: SpectralDensity) -> dict[str, Any]:
    nodes = np.asarray(found.nodes)
    places = np.linspace(nodes.min(), nodes.max(), _NUM_PLACES)
    shares, errors = found.cdf(places), found.cdf_standard_error(places)
    return {
        "products": found.num_matvecs,
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
            # A checkout on the path, or an extra that this run had no need of.
            continue
    return versions
