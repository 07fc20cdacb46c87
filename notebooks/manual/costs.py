"""Figures of the costs of this library alone, the lines of pages/costs.md."""

from figures import Line, Rows, column, listed, mean, number, rows_of, span, span_of, where


def spectra(rows: Rows) -> str:
    """Write the number of wrong pairs; each spectrum is solved for both ends, with the search and without."""
    total = lambda name: sum(column(rows, name))
    return f"{total('wrong')} of {total('converged'):,}, in {total('spectra') // 4:,} spectra"


def missed(rows: Rows) -> str:
    """Write the copies missed with the search and without."""
    found = sum(column(rows, "missed")), sum(column(rows, "missed_without")), sum(column(rows, "solves"))
    return "{} / {:,} in {:,} solves".format(*found)


def transformer(rows: Rows) -> str:
    """Write the memory, matvecs and residual of the large solve."""
    (row,) = rows
    return f"{row['peak']:.1f} GB, {row['products']} matvecs, residuals of {number(row['residual'])} at most"


def drifts(problem: str):
    """Return the function that writes matvecs of a warm start over those of a cold one."""
    return listed("ratio", problem=problem)


def adjoint(problem: str, **conditions: object):
    """Return the function that writes matvecs of the reverse pass over those of the forward pass."""
    return listed("ratio", problem=problem, loss="random", **conditions)


def triplets(rows: Rows) -> str:
    """Write the range at each tolerance."""
    return " / ".join(span(column(where(rows, tol=tol), "ratio")) for tol in (1e-4, 1e-8))


def tracked(rows: Rows) -> str:
    """Write the matvecs of the updates at every step, and those of a cold solve."""
    largest = where(rows, every=1, which="LA")
    cold = span(column(largest, "cold"))
    return f"{' / '.join(map(number, column(largest, 'products_mean')))}, a cold solve {cold}"


def one(name: str, of: str, **conditions: object) -> float:
    """Return one number of a result."""
    (value,) = column(where(rows_of(name), **conditions), of)
    return value


def front() -> list[str]:
    """Return the lines of the table on the front page."""
    arpack = column(rows_of("eigsh_products"), "ratio")
    scipy = one("eigsh_time", "ratio", problem="top 10 of the digits", program="ARPACK")
    first, second = (one("first_call", "first_s", job=f"callable 2000 {job}") for job in ("eigsh", "second"))
    slower = lambda method: one("gradient_time", "over_eigsh", problem="dense, n=2000", method=method)
    lines = {
        "on two cores, without an accelerator": "",
        "---": "---",
        "matvecs (products A v) of `eigsh(verify=False)` relative to ARPACK, equal basis and residual": (
            f"{number(mean(arpack))} in the geometric mean of {len(arpack)} cases, at worst {number(max(arpack))}"
        ),
        "pairs marked converged that are inaccurate, not orthonormal, returned twice or not wanted": spectra(
            rows_of("random_spectra")
        ),
        "top 10 of a network's Hessian, 85,002 parameters": f"{number(1 / scipy)} of the time of SciPy",
        "first `eigsh` in a process": f"{first:.1f} s",
        "first `eigsh` of a second operator of the same size": f"{second:.1f} s",
        "gradient of a loss of five eigenvectors, dense matrix, n = 2,000, relative to `jnp.linalg.eigh`": (
            f"{number(slower('eigh'))} times as fast"
        ),
        "the same gradient, relative to matfree": f"{slower('matfree'):.1f} times as fast",
    }
    return [f"| {what} | {figure} |".replace("|  |", "| |").replace(" --- ", "---") for what, figure in lines.items()]


SECTIONS: dict[str, list[Line]] = {
    "Correctness": [
        (
            "pairs marked converged that are inaccurate, not orthonormal, returned twice or not wanted, random spectra",
            "random_spectra",
            spectra,
        ),
        ("copies missed by default / without the search, planted spectra", "planted_spectra", missed),
        (
            "missed eigenvalues of an interval: of 50 of a random matrix / of 51 of a 2-D Laplacian",
            "interval",
            listed("missed"),
        ),
    ],
    "Compilation and first calls": [
        (
            "seconds to compile `eigsh` of a dense operator under jit, k = 1 / 10 / 50",
            "eigsh_compile",
            listed("total_s"),
        ),
        (
            "seconds of the first `eigsh` of a callable in a process, n = 2,000 / 40,000",
            "first_call",
            lambda rows: " / ".join(
                number(column(where(rows, job=f"callable {n} eigsh"), "first_s")[0]) for n in (2000, 40000)
            ),
        ),
        (
            "seconds of the first `eigsh` of a second callable of the same size, n = 2,000 / 40,000",
            "first_call",
            lambda rows: " / ".join(
                number(column(where(rows, job=f"callable {n} second"), "first_s")[0]) for n in (2000, 40000)
            ),
        ),
        (
            "seconds of the first `eigsh` of the Hessian of a residual network of 2 / 8 / 32 / 128 leaves",
            "first_call",
            lambda rows: " / ".join(
                number(row["first_s"]) for row in rows if "residual" in row["job"] and "eigsh" in row["job"]
            ),
        ),
        (
            "seconds of the first `eigsh` and its gradient, Hessian of a residual network of 2 / 8 / 32 / 128 leaves",
            "first_call",
            lambda rows: " / ".join(
                number(row["first_s"]) for row in rows if "residual" in row["job"] and "gradient" in row["job"]
            ),
        ),
        ("seconds of first calls for dense matrices, n = 50 to 300", "small_matrices", span_of("first_s")),
    ],
    "Time and matvecs of solves": [
        (
            "time of a solve divided by that of its matvecs, 1.03 M parameters, matvecs of 0.05 / 0.2 s",
            "eigsh_time",
            listed("ratio", problem="overhead", program="eigsh"),
        ),
        (
            "time of a solve divided by that of its matvecs, 1.03 M parameters, one H100",
            "accelerator_overhead",
            listed("ratio", problem="1 M", solver="eigsh"),
        ),
        (
            "time of a solve divided by that of its matvecs, GPT-2 small, 124 M parameters, one H100",
            "accelerator_overhead",
            listed("ratio", problem="GPT-2", solver="eigsh"),
        ),
        (
            "matvecs of a warm start over a cold one through 100 changes of 1e-8 / 1e-6 / 1e-4 / 1e-3, ten outliers",
            "eigsh_tracking",
            drifts("ten outliers"),
        ),
        (
            "matvecs of a warm start over a cold one, the same changes, a 2-D Laplacian",
            "eigsh_tracking",
            drifts("Laplacian"),
        ),
        (
            "time with blocks of 2 / 4 / 8 over single vectors, dense, n = 4,000",
            "eigsh_blocks",
            lambda rows: " / ".join(map(number, [row["ratio"] for row in rows if row["problem"] == "dense"][1:])),
        ),
        (
            "time with a block of 8 over that with the missed-pair search, eight copies of an eigenvalue",
            "eigsh_blocks",
            listed("ratio", problem="eight copies", way="block_size"),
        ),
        (
            "time with blocks of 2 / 4 over single vectors, Hessian of a network",
            "eigsh_blocks",
            lambda rows: " / ".join(map(number, column(where(rows, problem="network"), "ratio")[1:])),
        ),
        ("matvecs of an interval over `sigma` at five shifts, random / Laplacian", "interval", listed("ratio")),
        (
            "shift-invert inside the spectrum: matvecs of `eigsh(sigma=)` without an inverse over solves with one",
            "generalized",
            lambda rows: span(row["without"] / row["all"] for row in where(rows, method="inside")),
        ),
        (
            "shift-invert inside the spectrum: time without an inverse over that with one",
            "generalized",
            span_of("time_without", method="inside"),
        ),
    ],
    "Memory": [
        (
            'vectors of `eigsh`, n = 10,000,000, k = 10: basis of 30; 30 / 60 in 16 bits; 30 offloaded; "recompute"',
            "eigsh_memory",
            listed("temporary_vectors"),
        ),
        ("three pairs of the Hessian of a transformer with 200 M parameters, to 1e-3", "large_operator", transformer),
        (
            "vectors of the reverse pass beside those of the forward pass, n = 10,000,000, k = 5 / 10 / 20",
            "adjoint_memory",
            listed("temporary_vectors", n=10000000, which="LA"),
        ),
        (
            "memory of a Gauss-Newton / Hessian matvec over a gradient, transformer, V = 50,257, with a `LinearHead`",
            "curvature_memory",
            lambda rows: " / ".join(number(row["over_plain"]) for row in rows[3:9] if row["logits are"] == "chunked"),
        ),
        (
            "memory of a Gauss-Newton / Hessian matvec over a gradient, transformer, V = 50,257, logits formed",
            "curvature_memory",
            lambda rows: " / ".join(number(row["over_plain"]) for row in rows[3:9] if row["logits are"] == "plain"),
        ),
    ],
    "Gradients: matvecs of the reverse pass over the forward pass": [
        (
            "ten eigenvectors to 1e-4 / 1e-8, 2-D Laplacian, lowest",
            "adjoint_products",
            adjoint("Laplacian", which="SA"),
        ),
        (
            "ten eigenvectors to 1e-4 / 1e-8, 2-D Laplacian, largest magnitude",
            "adjoint_products",
            adjoint("Laplacian", which="LM"),
        ),
        ("ten eigenvectors to 1e-4 / 1e-8, ten outliers", "adjoint_products", adjoint("ten outliers")),
        ("ten eigenvectors to 1e-4 / 1e-8, a network", "adjoint_products", adjoint("digits")),
        ("six eigenvectors without symmetry to 1e-6: random", "adjoint_general", span_of("ratio", problem="random")),
        (
            "six eigenvectors without symmetry to 1e-6: Brusselator",
            "adjoint_general",
            span_of("ratio", problem="Brusselator"),
        ),
        ("six eigenvectors without symmetry to 1e-6: Grcar", "adjoint_general", span_of("ratio", problem="Grcar")),
        (
            "six eigenvectors without symmetry to 1e-6: convection-diffusion",
            "adjoint_general",
            span_of("ratio", problem="convection"),
        ),
        ("ten singular triplets, ten problems, to 1e-4 / 1e-8", "adjoint_triplets", triplets),
    ],
    "Curvature: time of a matvec over a gradient": [
        (
            "Hessian / Gauss-Newton / empirical Fisher, perceptron",
            "curvature_products",
            listed("ratio", network="multilayer"),
        ),
        (
            "Hessian / Gauss-Newton / empirical Fisher, convolutional network",
            "curvature_products",
            listed("ratio", network="eval"),
        ),
        (
            "Hessian / Gauss-Newton / empirical Fisher, transformer",
            "curvature_products",
            listed("ratio", network="transformer"),
        ),
        (
            "Hessian of a convolutional network on a CPU, a matvec in a solver over a single one",
            "convolutions",
            span_of("ratio", way="lanczos"),
        ),
        (
            "Hessian of a convolutional network on a CPU, in microbatches over a single one",
            "convolutions",
            span_of("ratio", way="microbatches"),
        ),
        (
            "Hessian of a convolutional network on a CPU, in a plain loop over a single one",
            "convolutions",
            span_of("ratio", way="bare loop"),
        ),
    ],
    "Training": [
        (
            "matvecs per update of `spectrum_tracker(3)`, 1,000 steps: gradient descent / Adam / Adam with minibatches",
            "tracker",
            tracked,
        ),
        (
            "largest relative error of an eigenvalue of `spectrum_tracker(3)` in these trainings",
            "tracker",
            lambda rows: number(max(column(where(rows, every=1, which="LA"), "worst_error"))),
        ),
        (
            "time of training on all data with a tracker over that without, updates at every 10th step",
            "tracker_time",
            lambda rows: span(column(where(rows, every=10)[:2], "slow_down")),
        ),
        (
            "time of training on all data with a tracker over that without, updates at every 50th step",
            "tracker_time",
            lambda rows: span(column(where(rows, every=50)[:2], "slow_down")),
        ),
        (
            "the same, training on minibatches of 64, tracker on all 1,797 examples, 10th / 50th step",
            "tracker_time",
            listed("slow_down", training="minibatches"),
        ),
    ],
}
