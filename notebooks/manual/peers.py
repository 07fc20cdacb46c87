"""Figures beside other libraries, the lines of pages/comparison.md."""

from collections.abc import Callable

from figures import Line, Rows, column, inverses, listed, number, ratios, span, span_of, span_over, summary, where


def reached(rows: Rows) -> Rows:
    """Select the cases in which SciPy reaches residuals of 1e-8."""
    return [row for row in rows if row["arpack_residual"] <= 1e-8]


def searched(rows: Rows) -> str:
    """Write the range of matvecs with the search over ARPACK's, and the number of cases."""
    return f"{span(row['all'] / row['arpack'] for row in reached(rows))}, {len(reached(rows))} of {len(rows)} cases"


def finite(rows: Rows) -> str:
    """Write the number of finite gradients by this library and by JAX, and the number of matrices."""
    ours, theirs = ([row for row in rows if row["program"] == name] for name in ("eigenjax", "jax"))
    tried = sum(int(row["batch"].split()[0]) for row in ours)
    return " / ".join(number(sum(column(found, "finite"))) for found in (ours, theirs)) + f" of {tried:,}"


SCIPY: list[Line] = [
    ("matvecs of `eigsh(verify=False)` over ARPACK's, equal basis and true residual", "eigsh_products", ratios()),
    (
        "matvecs of `eigsh` with its missed-pair search over those of SciPy's defaults, which solve to rounding",
        "verify_products",
        ratios("over_scipy"),
    ),
    ("matvecs of `eigs(verify=False)` over ARPACK's, equal basis and true residual", "eigs_products", ratios()),
    ("matvecs of `svds(verify=False)` over SciPy's, equal basis and true residual", "svds_products", ratios()),
    (
        'matvecs of `svds(which="SM", verify=False)` over SciPy\'s, where that reaches residuals of 1e-8',
        "small_singular",
        lambda rows: summary(column(reached(rows), "ratio")),
    ),
    ('matvecs of `svds(which="SM")` with the search over SciPy\'s', "small_singular", searched),
    (
        "time of the top 5 / 10 pairs of a network's Hessian to 1e-4 over SciPy's, 85,002 parameters",
        "eigsh_time",
        inverses(problem="of the digits", program="ARPACK"),
    ),
    (
        "time of the top 5 / 10 pairs over SciPy's, Hessian of a convolutional network, 9,930 parameters",
        "eigsh_time",
        inverses(problem="conv", program="ARPACK"),
    ),
    (
        "shift-invert for ten modes of finite elements, without the search: solves over ARPACK's",
        "generalized",
        span_over("plain", "arpack", method="inverse"),
    ),
    (
        "shift-invert for ten modes of finite elements, with the search: solves over ARPACK's",
        "generalized",
        span_over("all", "arpack", method="inverse"),
    ),
    (
        "shift-invert for modes inside the spectrum, without the search: solves over ARPACK's",
        "generalized",
        span_over("plain", "arpack", method="inside"),
    ),
    (
        "shift-invert for modes inside the spectrum, with the search: solves over ARPACK's",
        "generalized",
        span_over("all", "arpack", method="inside"),
    ),
    (
        "modes of finite elements without a factorization of A: matvecs over ARPACK's",
        "generalized",
        span_over("plain", "arpack", method="matvecs"),
    ),
    (
        "modes of finite elements, LOBPCG with factors of A as preconditioner: matvecs over those of SciPy's LOBPCG",
        "generalized",
        span_over("plain", "arpack", method="precond"),
    ),
    ("finite elements, with the search: time of a second call over SciPy's", "generalized", span_of("time")),
    (
        "solves of `eigs` near a shift without the search over ARPACK's, real",
        "eigs_shifts",
        span_of("ratio", method="real"),
    ),
    (
        "solves of `eigs` near a shift without the search over ARPACK's, complex",
        "eigs_shifts",
        span_of("ratio", method="complex"),
    ),
    (
        "`eigs` over ARPACK, A x = lambda B x: solves with B for the largest / matvecs for the smallest eigenvalues",
        "eigs_shifts",
        lambda rows: " / ".join(map(number, column(where(rows, n=81)[2:], "ratio"))),
    ),
    ("time of a second call of `eigs` over ARPACK's, these four problems", "eigs_shifts", span_of("time")),
    (
        "time of a matvec with a sparse matrix over SciPy's, n about 100,000",
        "sparse_products",
        lambda rows: span(column(rows[:4], "product")),
    ),
    (
        "time of a matvec with a sparse matrix over SciPy's, n = 1,000,000",
        "sparse_products",
        span_of("product", n=1000000),
    ),
    ("time of a solve with sparse matrices over SciPy's, without the search", "sparse_products", span_of("eigsh")),
    (
        "time of a solve with sparse matrices over SciPy's, with the search",
        "sparse_products",
        span_of("eigsh_searched"),
    ),
    ("matvecs of `expm_multiply` over SciPy's, which always computes to rounding", "expm_products", ratios()),
    (
        "time of `eigsh`, `eigs` and `svds` for single dense matrices, n = 50 to 300, over SciPy's of the same name",
        "small_matrices",
        span_of("over_scipy"),
    ),
]
PRIMME: list[Line] = [
    ("matvecs of `eigsh(verify=False)` over PRIMME's GD+k, equal basis and true residual", "eigsh_primme", ratios()),
]
MATFREE: list[Line] = [
    (
        "time of the top 5 / 10 pairs of a network's Hessian to 1e-4 over matfree's, 85,002 parameters",
        "eigsh_time",
        inverses(problem="of the digits", program="matfree"),
    ),
    (
        "time of the top 5 / 10 pairs over matfree's, Hessian of a convolutional network",
        "eigsh_time",
        inverses(problem="conv", program="matfree"),
    ),
    (
        "time of the gradient of a loss of five eigenvectors over matfree's, dense, n = 500 / 1,000 / 2,000",
        "gradient_time",
        inverses("over_eigsh", problem="dense", method="matfree"),
    ),
    (
        "time of the gradient of a loss of five eigenvectors over matfree's, 2-D Laplacian, n = 2,000",
        "gradient_time",
        inverses("over_eigsh", problem="Laplacian", method="matfree"),
    ),
    (
        "error of `trace` and `diagonal` over that of matfree's estimators, equal matvecs",
        "trace_estimators",
        ratios(),
    ),
    (
        "error of the gradient of `logdet` of a kernel over matfree's, 200 matvecs",
        "logdet_gradient",
        span_of("ratio", matvecs=200),
    ),
    (
        "error of the gradient of `logdet` of a kernel over matfree's, 600 matvecs",
        "logdet_gradient",
        span_of("ratio", matvecs=600),
    ),
    ("time of the gradient of `logdet` of a kernel over matfree's", "logdet_gradient", span_of("time")),
]
TORCH: list[Line] = [
    (
        "time of a Hessian / Gauss-Newton / empirical Fisher matvec over curvlinops', perceptron, 0.67 M parameters",
        "curvature_torch",
        listed("ours_over_it", package="curvlinops"),
    ),
    (
        "time of a Hessian / Gauss-Newton / empirical Fisher matvec over hessian-eigenthings'",
        "curvature_torch",
        listed("ours_over_it", package="eigenthings"),
    ),
    (
        "time of a Hessian matvec over torch's double backward pass",
        "curvature_torch",
        listed("ours_over_it", package="torch"),
    ),
    (
        "largest relative difference of matvecs from those of these torch libraries, in float64",
        "curvature_torch",
        lambda rows: number(max(column(rows, "product_difference"))),
    ),
    (
        "time of a Bernoulli / Poisson Fisher matvec over curvlinops'",
        "likelihoods",
        listed("ours_over_it", other="curv"),
    ),
    (
        "error of `trace` over that of hessian-eigenthings' estimators, equal matvecs",
        "trace_estimators",
        ratios("torch_ratio"),
    ),
]
JAX: list[Line] = [
    (
        "time of value and gradient of `eigh` / `eig` over JAX's, 4,096 of 16 x 16",
        "dense_batches",
        listed("ratio", batch="4096", program="eigenjax"),
    ),
    (
        "time of value and gradient of `eigh` / `eig` over JAX's, 1,024 of 32 x 32",
        "dense_batches",
        listed("ratio", batch="1024", program="eigenjax"),
    ),
    (
        "finite gradients of `eigh` and `eig` at matrices with repeated eigenvalues, ours / JAX's",
        "dense_batches",
        finite,
    ),
    (
        "time of `eigsh`, `eigs` and `svds` over a decomposition by JAX: single matrices, and batches with gradients",
        "small_matrices",
        span_of("over_jax"),
    ),
    (
        "time of the first call over a decomposition by JAX, single matrices",
        "small_matrices",
        span_of("first_over_jax"),
    ),
    (
        "time of the gradient of a loss of five eigenvectors over that by `jnp.linalg.eigh`, n = 500 / 1,000 / 2,000",
        "gradient_time",
        inverses("over_eigsh", problem="dense", method="eigh"),
    ),
    (
        "time of this gradient over backpropagation through a Lanczos iteration, n = 500 / 1,000 / 2,000",
        "gradient_time",
        inverses("over_eigsh", problem="dense", method="unrolled"),
    ),
]


def over(problem: str, ours: str, theirs: str) -> Callable[[Rows], str]:
    """Return the function that writes our time over that of another program."""

    def figure(rows: Rows) -> str:
        found = {row["program"]: row for row in rows if row["problem"] == problem}
        missed = (
            ""
            if found[ours]["enough"]
            else f", with {number(found[ours]['residual'] / found[ours]['target'])} times the residual asked for"
        )
        return number(found[ours]["seconds"] / found[theirs]["seconds"]) + missed

    return figure


GPU: list[Line] = [
    (
        "a graph, six pairs to 1e-4: time over CuPy's `eigsh`",
        "accelerator_peers",
        over("graph, pairs", "eigenjax.eigsh", "CuPy eigsh"),
    ),
    (
        "a graph, six pairs to 1e-4: time over `torch.lobpcg`",
        "accelerator_peers",
        over("graph, pairs", "eigenjax.eigsh", "torch.lobpcg"),
    ),
    (
        "a graph, six pairs to 1e-4: time over SciPy's `eigsh` on the host",
        "accelerator_peers",
        over("graph, pairs", "eigenjax.eigsh", "SciPy eigsh, on the host"),
    ),
    (
        "a graph, six singular triplets: time over CuPy's `svds`",
        "accelerator_peers",
        over("graph, triplets", "eigenjax.svds", "CuPy svds"),
    ),
    (
        "Hessian of a perceptron, 1 M parameters, to 1e-3: time over a Lanczos method in torch, float32",
        "accelerator_peers",
        over("perceptron, 1 M", "eigenjax.eigsh, float32", "torch Lanczos, float32"),
    ),
    (
        "dense, n = 2,000: time of `eigsh` over `jnp.linalg.eigh`",
        "accelerator_peers",
        over("dense, 2000", "eigenjax.eigsh", "jnp.linalg.eigh"),
    ),
    (
        "dense, n = 4,000: time of `eigsh` over `jnp.linalg.eigh`",
        "accelerator_peers",
        over("dense, 4000", "eigenjax.eigsh", "jnp.linalg.eigh"),
    ),
    (
        "time of `eigh` over `jnp.linalg.eigh`, 4,096 of 32 x 32",
        "accelerator_peers",
        over("batch, 4096 x 32 x 32", "eigenjax.eigh", "jnp.linalg.eigh"),
    ),
]

SECTIONS: dict[str, list[Line]] = {
    "SciPy and ARPACK, two cores": SCIPY,
    "PRIMME, two cores": PRIMME,
    "matfree, two cores": MATFREE,
    "curvlinops, hessian-eigenthings and torch, two cores": TORCH,
    "jnp.linalg, two cores": JAX,
    "On one H100": GPU,
}
