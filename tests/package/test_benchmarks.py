"""Every benchmark runs, and records its results together with everything that they depend on."""

import importlib
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse.linalg

ROOT = Path(__file__).parents[2]
SLOW = (
    "adjoint_general",
    "adjoint_memory",
    "adjoint_products",
    "adjoint_triplets",
    "collectives",
    "convolutions",
    "curvature_memory",
    "curvature_products",
    "curvature_precision",
    "curvature_torch",
    "eigsh_blocks",
    "eigs_products",
    "eigs_shifts",
    "eigsh_compile",
    "eigsh_memory",
    "eigsh_primme",
    "eigsh_products",
    "eigsh_time",
    "eigsh_tracking",
    "estimates",
    "first_call",
    "generalized",
    "interval",
    "gradient_cost",
    "gradient_time",
    "lanczos_overhead",
    "low_rank",
    "large_operator",
    "planted_spectra",
    "processes",
    "products",
    "random_spectra",
    "small_matrices",
    "small_singular",
    "sparse_products",
    "spectral_density",
    "svds_products",
    "tracker",
    "tracker_time",
    "trace_estimators",
    "verify_products",
    "weak_scaling",
)
COLUMNS = {
    "adjoint_general": {"forward", "adjoint", "ratio", "converged", "condition"},
    "adjoint_memory": {"n", "k", "which", "promised", "temporary_vectors"},
    "adjoint_products": {"forward", "adjoint", "steps", "plain", "error"},
    "adjoint_triplets": {"forward", "adjoint", "steps", "plain", "error"},
    "collectives": {"program", "mode", "step", "passes", "rare", "others", "largest", "temporaries", "share"},
    "convolutions": {"network", "way", "product_s", "ratio"},
    "curvature_memory": {"program", "megabytes", "over_plain", "over_chunked"},
    "curvature_products": {"product", "ratio", "ratio_of_8"},
    "curvature_precision": {"parameters", "dtype", "rounding", "product", "pass", "narrow_sum", "wide_model"},
    "curvature_torch": {"product_difference", "eigenvalue_difference", "median_s", "ours_over_it"},
    "dense_batches": {"function", "batch", "median_s", "ratio", "agree", "finite"},
    "eigs_shifts": {"n", "method", "all", "plain", "arpack", "ratio", "residual", "error", "time"},
    "eigsh_blocks": {"products", "converged", "worst_error", "median_s", "ratio"},
    "eigs_products": {"eigs", "arpack", "ratio", "condition"},
    "eigsh_compile": {"k", "lower_s", "compile_s", "compiled_by_second_call"},
    "eigsh_memory": {"promised", "temporary_vectors", "resident_vectors"},
    "eigsh_primme": {"eigsh", "primme", "ratio", "eigsh_residual", "eigsh_right"},
    "eigsh_products": {"eigsh", "arpack", "ratio", "unrestarted", "over_unrestarted"},
    "eigsh_time": {"median_s", "ratio", "residual", "temporary_vectors"},
    "eigsh_tracking": {"warm", "cold", "ratio", "worst_error", "unconverged"},
    "estimates": {"parameters", "devices", "operator", "product", "solver", "total", "network"},
    "first_call": {"job", "first_s", "limit_s", "met"},
    "generalized": {"method", "all", "plain", "arpack", "residual", "time", "error_first"},
    "gradient_cost": {"products_forward", "products_both", "time_ratio", "error_float64"},
    "gradient_time": {"method", "seconds", "over_eigsh", "temporary_MB", "error"},
    "import_time": {"median_s", "ratio"},
    "interval": {"eigsh", "sigma", "ratio", "missed", "sigma_missed", "error"},
    "expm_products": {"matrix", "tol", "error", "over_bound", "matvecs", "scipy", "ratio", "converged"},
    "logdet_gradient": {"kernel", "matvecs", "deviation", "error", "ratio", "adjoint", "time"},
    "likelihoods": {"likelihood", "other", "difference", "ours_over_it"},
    "lanczos_overhead": {"median_s", "ratio", "beyond_one_product"},
    "low_rank": {"plain", "preconditioned", "ratio", "pairs"},
    "large_operator": {"parameters", "predicted", "peak", "products", "converged", "residual"},
    "small_matrices": {"solver", "problem", "first_s", "first_over_jax", "median_s", "over_jax", "over_scipy", "error"},
    "small_singular": {"problem", "k", "all", "plain", "arpack", "ratio", "residual", "error", "time", "converged"},
    "sparse_products": {
        "problem",
        "n",
        "entries",
        "convert_s",
        "product",
        "bcoo",
        "of_8",
        "error",
        "eigsh",
        "residual",
    },
    "processes": {"result", "processes", "devices", "difference"},
    "reading_cost": {"figure", "median", "largest"},
    "random_spectra": {"asked", "converged", "missed", "wrong"},
    "streamed_products": {"vectors", "median_s", "ratio", "difference", "reads", "device_batches"},
    "spectral_density": {"spectrum", "median", "worst", "near"},
    "trace_estimators": {"error", "matfree", "ratio", "scale", "over_hutchinson"},
    "svds_products": {"svds", "arpack", "ratio", "svds_residual", "svds_error"},
    "tracker": {"products_mean", "products_max", "searches", "worst_error", "converged"},
    "tracker_time": {"slow_down", "products_share"},
    "weak_scaling": {"devices", "n", "bytes", "sent", "own"},
    "planted_spectra": {"family", "solves", "converged", "missed", "outside", "matvecs", "missed_without"},
    "verify_products": {"verify", "without", "ratio", "scipy", "over_scipy", "converged", "right"},
    "products": {"products", "worst_residual", "found", "converged", "seconds"},
}


@pytest.fixture
def benchmark(monkeypatch):
    """Return an import function for the modules of benchmarks/, by their short names."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module((PROGRAMS | SUPPORT)[name])


def modules_in(folders):
    """Map the short name of each module in these folders to its full name."""
    paths = sorted(path for folder in folders for path in (ROOT / "benchmarks" / folder).glob("*.py"))
    return {path.stem: f"benchmarks.{path.parent.name}.{path.stem}" for path in paths}


PROGRAMS = modules_in(("eigen", "singular", "derivative", "curvature", "spectrum", "training", "scale"))
SUPPORT = modules_in(("support",))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PROGRAMS]
)
def test_quick_run_writes_what_it_measured(name, benchmark, tmp_path, capsys):
    module = benchmark(name)
    module.main(["--quick", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    assert path.name == f"{name}-cpu.json"
    assert document["device"] in capsys.readouterr().out
    assert {"date", "versions", "arguments", "cores"} <= document.keys()
    assert document["arguments"]["quick"] is True
    assert all(COLUMNS[name] <= row.keys() for row in document["rows"])
    CHECKS.get(name, lambda rows: None)(document["rows"])


def check_products(rows):
    for row in rows:
        assert row["converged"] == f"{row['found']} of 1"
        assert row["products"] > 0


def check_gradient_cost(rows):
    for row in rows:
        assert row["error_float64"] < 1e-6
        # Three pairs are differentiated; only a loss of the eigenvectors needs a further solve.
        assert (row["products_both"] == row["products_forward"] + 3) == (row["loss"] == "of_eigenvalues")


def check_eigsh_products(rows):
    assert len({row["problem"] for row in rows}) >= 12
    for row in rows:
        assert row["eigsh_right"] == row["starts"]
        assert row["eigsh_residual"] <= 1


def check_svds_products(rows):
    assert len({row["problem"] for row in rows}) >= 10
    assert all(row["svds_residual"] <= 1 for row in rows)


def check_small_singular(rows):
    assert all(row["converged"] and row["residual"] <= 1e-8 and row["error"] < 1e-13 for row in rows)
    assert all(row["plain"] <= row["all"] for row in rows)


def check_planted_spectra(rows):
    assert sum(row["missed"] + row["outside"] for row in rows) == 0
    assert sum(row["missed_without"] for row in rows) > 0


def check_verify_products(rows):
    assert len({row["problem"] for row in rows}) >= 12
    for row in rows:
        assert row["converged"] == row["right"] == row["starts"]
        assert row["without"] < row["verify"] < 3 * row["without"]


def check_random_spectra(rows):
    assert {row["dtype"] for row in rows} == {"float32", "float64"}
    assert sum(row["wrong"] for row in rows) == 0


def check_dense_batches(rows):
    for row in rows:
        assert row["agree"] < 1e-3
        assert row["finite"] == 8 or row["program"] == "jax"


def check_small_matrices(rows):
    assert all(row["error"] < 1e-4 for row in rows)
    assert {row["solver"] for row in rows} == {"eigsh", "eigs", "svds"}


def check_generalized(rows):
    *cubes, membrane = rows
    assert all(row["converged"] and row["residual"] < 1e-6 for row in cubes)
    assert all(row["plain"] <= row["all"] for row in cubes)
    assert membrane["error_first"] < 1e-3


def check_eigs_shifts(rows):
    assert {row["method"] for row in rows} == {"real", "complex", "largest", "smallest"}
    assert all(row["residual"] < 1e-6 and row["error"] < 1e-6 and row["plain"] <= row["all"] for row in rows)


def check_interval(rows):
    assert {row["matrix"] for row in rows} == {"random", "laplacian"}
    assert all(row["converged"] and row["missed"] == 0 and row["error"] < 1e-12 for row in rows)


def check_sparse_products(rows):
    assert all(row["error"] < 1e-5 * row["n"] and row["residual"] < 1e-4 for row in rows)


def check_adjoint_general(rows):
    assert all(row["converged"] == 6 and row["adjoint"] > 0 for row in rows)


def check_likelihoods(rows):
    assert {row["likelihood"] for row in rows} == {"bernoulli", "poisson"}
    assert all(row["difference"] < 1e-10 for row in rows)


def check_logdet_gradient(rows):
    assert {row["kernel"] for row in rows} == {"RBF", "Matern 3/2"}
    assert all(row["error"] < 0.2 for row in rows)


def check_expm_products(rows):
    # At 1e-12 the bound may be rounding times the growth of the errors, and more than the tolerance.
    assert all(row["over_bound"] <= 1 and (row["converged"] or row["tol"] < 1e-6) for row in rows)


def check_adjoint_products(rows):
    for row in rows:
        assert row["converged"]
        assert 0 < row["steps"] <= row["adjoint"] <= 10 * row["steps"]
        assert row["error"] < 1


def check_eigsh_time(rows):
    assert {"eigsh", "ARPACK", "bare products"} <= {row["program"] for row in rows}
    assert all(row["residual"] <= 1e-4 for row in rows)


def check_eigsh_compile(rows):
    assert all(row["compiled_by_second_call"] == 0 for row in rows)


def check_processes(rows):
    assert len(rows) >= 6
    assert all(row["difference"] < 2e-4 for row in rows)


def check_streamed_products(rows):
    for row in rows:
        assert row["difference"] < 1e-6
        if row["program"] == "streamed":
            assert row["reads"] == 1
            assert row["device_batches"] <= 2


def check_large_operator(rows):
    for row in rows:
        assert row["converged"] == row["k"]
        assert row["residual"] <= row["tol"]


def check_weak_scaling(rows):
    assert max(row["bytes"] for row in rows) <= 1.05 * min(row["bytes"] for row in rows)


def check_tracker(rows):
    assert all(row["worst_error"] < 0.01 for row in rows if row["which"] == "LA")
    assert all(row["worst_error_of_norm"] < 0.01 for row in rows)


def check_low_rank(rows):
    assert max(row["ratio"] for row in rows) < 0.5
    assert all(row["ratio"] <= 1 / 3 for row in rows if row["problem"] == "0 to 2")


CHECKS = {
    "adjoint_general": check_adjoint_general,
    "adjoint_products": check_adjoint_products,
    "dense_batches": check_dense_batches,
    "eigsh_compile": check_eigsh_compile,
    "eigsh_products": check_eigsh_products,
    "eigsh_time": check_eigsh_time,
    "generalized": check_generalized,
    "interval": check_interval,
    "gradient_cost": check_gradient_cost,
    "likelihoods": check_likelihoods,
    "expm_products": check_expm_products,
    "logdet_gradient": check_logdet_gradient,
    "large_operator": check_large_operator,
    "low_rank": check_low_rank,
    "processes": check_processes,
    "products": check_products,
    "planted_spectra": check_planted_spectra,
    "random_spectra": check_random_spectra,
    "small_matrices": check_small_matrices,
    "small_singular": check_small_singular,
    "sparse_products": check_sparse_products,
    "streamed_products": check_streamed_products,
    "svds_products": check_svds_products,
    "verify_products": check_verify_products,
    "tracker": check_tracker,
    "weak_scaling": check_weak_scaling,
}


@pytest.mark.parametrize(
    ("values", "alone"),
    [([1.0, 2.0], 0), ([2.0, 2.0], 1), ([3.0, 3.0], 0), ([1.0, 2.5], 1), ([], 0), ([3.0, 3.0, 3.0], 1)],
)
def test_an_eigenvalue_served_twice_is_seen(benchmark, values, alone):
    unmatched = benchmark("random_spectra").unmatched
    assert unmatched(np.asarray(values), np.asarray([1.0, 2.0, 3.0, 3.0]), slack=0.1) == alone


def test_a_missed_pair_is_seen(benchmark):
    is_wanted = benchmark("random_spectra").is_wanted
    eigenvalues = np.asarray([-6.0, 0.0, 1.0, 2.0, 3.0, 4.0, 4.0])
    assert is_wanted(np.asarray([4.0, 4.0, 3.0, 2.0, 1.0]), eigenvalues, "LA", 0.1)
    assert not is_wanted(np.asarray([4.0, 3.0, 2.0, 1.0, 0.0]), eigenvalues, "LA", 0.1)
    assert is_wanted(np.asarray([-6.0, 4.0, 4.0, 3.0, 2.0]), eigenvalues, "LM", 0.1)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_the_wanted_end_of_a_spectrum(benchmark, which):
    problem = benchmark("spectra").Spectrum("four", which, None, np.asarray([-3.0, -1.0, 2.0, 2.5]))
    wanted = {"LA": [-1.0, 2.0, 2.5], "SA": [-3.0, -1.0, 2.0], "LM": [-3.0, 2.0, 2.5], "BE": [-3.0, 2.0, 2.5]}
    assert problem.wanted(3).tolist() == wanted[which]
    assert problem.norm == 3.0


def test_products_of_scipys_solvers_are_counted(benchmark, rng):
    matrix, calls = rng.normal(size=(9, 6)), []
    recorded = lambda a: lambda v: calls.append(1) or a @ v
    operator = benchmark("counted_operator").CountedOperator(matrix.shape, recorded(matrix), recorded(matrix.T))
    values = scipy.sparse.linalg.svds(operator, 2, v0=np.ones(6), return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(values)[::-1], np.linalg.svd(matrix, compute_uv=False)[:2], rtol=1e-10)
    assert operator.products == len(calls) > 0


def test_every_benchmark_is_in_the_readme():
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"python -m {module}" in readme for module in (*PROGRAMS.values(), "benchmarks.accelerator"))


def test_programs_take_turns_and_warmup_is_thrown_away(benchmark):
    timing = benchmark("timing")
    order = []
    clock = lambda program: program() or float(len(order))
    timings = timing.interleaved(
        {name: lambda name=name: order.append(name) for name in "ab"}, repeats=3, warmup=1, measure=clock
    )
    assert "".join(order) == "abababab"
    assert timings["a"].samples == (3.0, 5.0, 7.0)
    assert timings["b"] == (6.0, 4.0, 8.0, (4.0, 6.0, 8.0))
    assert timing.ratio(timings["b"], timings["a"]) == statistics.median([4 / 3, 6 / 5, 8 / 7])


def test_a_failed_write_leaves_nothing(benchmark, tmp_path):
    timing = benchmark("timing")
    args = timing.arguments("what for", 3, ["--quick", "--out", str(tmp_path)])
    with pytest.raises(TypeError, match="not JSON serializable"):
        timing.record("broken", [{"value": object()}], args)
    assert list(tmp_path.iterdir()) == []
