"""Wrong calls of solvers, estimators, dense functions and operators: each raises an error of this library.

An error names the function or the argument, and a remedy. It is raised before anything is computed.
"""

import inspect

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import pytest

import eigenjax

A = np.diag(np.arange(1.0, 9.0, dtype=np.float32))
WIDE = np.ones((3, 8), np.float32)
SPARSE = jax.experimental.sparse.BCOO.fromdense(A)
KEY = jax.random.key(0)
SOLVERS = ("eigsh", "lanczos", "deflated_power_iteration", "eigs", "svds")
ESTIMATORS = ("trace", "diagonal", "logdet", "frobenius_norm", "spectral_density")
DENSE = ("eigh", "eig", "svd")
# Words that introduce a remedy.
REMEDIES = (
    *("give", "choose", "pass", "write", "calls it", "leave", "use ", "did you mean", "takes", "call ", "need"),
    "expected a",
)
# Words of errors from the internals of JAX, NumPy or Python.
INTERNAL = (
    *("Tracer", "Traced<", "custom_vjp", "PjitFunction", "not inexact", "has no attribute", "unexpected keyword"),
    *("abstract array", "valid JAX type", "hashable type", "unsupported operand", "dot_general", "Incompatible shapes"),
    *("required positional", "subscriptable", "not iterable", "JAX array type", "could not convert", "broadcast"),
)


FOREIGN = {
    "ncv": 9,
    "maxiter": 9,
    "return_eigenvectors": False,
    "random_state": 0,
    "rng": 0,
    "seed": 1,
    "x0": A[0],
    "M": A,
    "Minv": A,
    "OPinv": A,
    "mode": "normal",
    "solver": "arpack",
    "verbosity": 2,
    "dtype": "float64",
    "krylovdim": 9,
    "n_components": 2,
    "toll": 1e-3,
    "Tol": 1e-3,
    "wich": "LA",
    "nothing_like_it": 1,
}
# Values that no solver accepts for these options.
REFUSED = {
    "tol": (-1.0, float("nan"), "1e-3", np.ones(2), 1j, True, [1e-3], np.float32(-1)),
    "key": (0, "seed", np.zeros(2), jax.random.PRNGKey(0)[None], jax.random.split(KEY)),
    "v0": ("ones", np.ones(5), {"w": np.ones(8)}, np.ones(8, bool).tolist()),
    "derivative": ("backward", None, 1),
    "adjoint_max_iter": (0, -3, 1.5, "few"),
    "adjoint_tol": (-1.0, "tight"),
}


def solver_cases():
    for function in SOLVERS:
        budget = "max_iter" if function == "deflated_power_iteration" else "krylov_dim"
        refused = REFUSED | {budget: (-1, 0.5, "many", np.ones(2))}
        yield from ((function, name, (A, 2), {name: value}) for name, value in FOREIGN.items())
        yield from ((function, name, (A, 2), {name: value}) for name, values in refused.items() for value in values)
        yield from ((function, "k", (A, k), {}) for k in (0, -1, 99, 2.0, "2", True, None, np.ones(2)))
        yield function, "op", (), {"k": 2}
        yield function, "op", (A, 2), {"op": A}
        yield function, function, (A, 2, "LA"), {}
        for op in (None, "matrix", 3.0, {"a": A}, np.ones((2, 3, 3)), np.ones(3), lambda v: v):
            yield function, "op", (op, 1), {}
    for function in SOLVERS[:4]:
        for which in ("la", "SMALLEST", None, 3, ["LA"]):
            yield function, "which", (A, 2), {"which": which}
        yield function, "square", (WIDE, 1), {}
    for function in ("lanczos", "deflated_power_iteration"):
        yield function, "which", (A, 2), {"which": "SM"}


def eigsh_cases():
    for sigma in (np.ones(2), "one", 1j, float("nan"), float("inf"), [1.0]):
        yield "eigsh", "sigma", (A, 2), {"sigma": sigma}
    for which in ("SA", "BE"):
        yield "eigsh", "which", (A, 2), {"sigma": 1.0, "which": which}
    for preconditioner in ("jacobi", np.ones(3), 2.0, np.eye(3, dtype=np.float32), lambda v: v[:2]):
        yield "eigsh", "preconditioner", (A, 2), {"preconditioner": preconditioner, "which": "SA"}
    for value in (0, -1, 1.5, "two"):
        yield "eigsh", "block_size", (A, 2), {"block_size": value}
        yield "eigsh", "max_matvecs", (A, 2), {"max_matvecs": value} if value != 0 else {"max_matvecs": 0.0}
    for value in (0, "1GB", 10, 2.5):
        yield "eigsh", "max_basis_bytes", (A, 2), {"max_basis_bytes": value}
    for basis in ("disk", None, 1):
        yield "eigsh", "basis", (A, 2), {"basis": basis}
    for dtype in ("float8", int, "narrow"):
        yield "eigsh", "basis_dtype", (A, 2), {"basis_dtype": dtype}
    yield "eigsh", "krylov_dim", (A, 2), {"krylov_dim": 2}
    yield "eigsh", "shift", (A, 2), {"shift": 1.0}
    for which in ("LA", "SA", "BE"):
        yield "eigs", "which", (A, 2), {"which": which}
    for momentum in ("some", np.ones(2), float("nan")):
        yield "deflated_power_iteration", "momentum", (A, 2), {"momentum": momentum}
    yield "svds", "adjoint", (A, 2), {"adjoint": lambda u: u}


def estimator_cases():
    for function in ESTIMATORS:
        yield function, "key", (A,), {}
        yield function, "op", (), {"key": KEY}
        for key in (0, "seed", np.zeros(2)):
            yield function, "key", (A,), {"key": key}
        for name in ("seed", "rng", "random_state", "maxiter", "num_sample", "nothing_like_it"):
            yield function, name, (A,), {"key": KEY, name: 3}
        for value in (0, "many", 2.5, None):
            name = "num_probes" if function in ("logdet", "spectral_density") else "num_matvecs"
            yield function, name, (A,), {"key": KEY, name: value}
            yield function, "probe_batch", (A,), {"key": KEY, "probe_batch": value}
        for op in (None, "matrix", np.ones((2, 3)), lambda v: v):
            yield function, "op", (op,), {"key": KEY}
    for method in ("Hutchinson", "exact", None):
        yield "trace", "method", (A,), {"key": KEY, "method": method}
    for dim in (0, 1.5, "all"):
        yield "spectral_density", "krylov_dim", (A,), {"key": KEY, "krylov_dim": dim}
        yield "matrix_function", "krylov_dim", (A, jnp.exp, A[0]), {"krylov_dim": dim}
        yield "expm_multiply", "krylov_dim", (A, A[0]), {"krylov_dim": dim}
    yield "matrix_function", "f", (A,), {"v": A[0]}
    yield "matrix_function", "v", (A, jnp.exp), {}
    yield "expm_multiply", "v", (A,), {}
    yield "expm_multiply", "v", (A, A[0, :3]), {}
    for t in ("late", np.ones(2), 1j, float("nan")):
        yield "expm_multiply", "t", (A, A[0], t), {}
    for tol in (-1.0, "small", np.ones(2)):
        yield "expm_multiply", "tol", (A, A[0]), {"tol": tol}
        yield "matrix_function", "tol", (A, jnp.exp, A[0]), {"tol": tol}
    yield "trace_of_function", "f", (A,), {"key": KEY}


def dense_cases():
    for function in DENSE:
        for a in (
            "matrix",
            None,
            SPARSE,
            A.astype(np.int32),
            np.ones(3, np.float32),
            {"a": A},
            eigenjax.as_operator(A),
        ):
            yield function, "a", (a,), {}
        for tol in (-1.0, float("nan"), "small", np.ones(2), 1j):
            yield function, "degeneracy_tol", (A,), {"degeneracy_tol": tol}
        for name in ("UPLO", "eigvals_only", "subset_by_index", "full_matrices", "compute_uv", "hermitian", "tol", "k"):
            yield function, name, (A,), {name: 1}
        yield function, "a", (), {}
        yield function, function, (A, A, A), {}
    for function in ("eigh", "eig", "eigenvalue_condition"):
        yield function, "square", (WIDE,), {}
    yield "eigh", "b", (A, A[:3, :3]), {}
    yield "eigh", "b", (A, A.astype(np.complex64)), {}
    yield "eigh", "b", (A, "identity"), {}


PARAMS, BATCH = {"w": np.ones(3, np.float32)}, (np.ones((6, 3), np.float32), np.ones(6, np.float32))


def model(params, inputs):
    return inputs @ params["w"]


def classifier(params, inputs):
    return jnp.outer(model(params, inputs), jnp.ones(2))


def loss(params, batch=BATCH):
    return jnp.mean((model(params, batch[0]) - batch[1]) ** 2)


def squares(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def operator_cases():
    curvature = {
        "hessian": (loss, PARAMS, BATCH),
        "gauss_newton": (model, squares, PARAMS, BATCH),
        "fisher": (classifier, PARAMS, (BATCH[0], np.arange(6) % 2)),
        "jacobian": (model, PARAMS, BATCH[0]),
        "neural_tangent_kernel": (model, PARAMS, BATCH[0]),
    }
    options = {
        "batch_size": (0, -1, 2.5, "all"),
        "select": ("nowhere", 3, [], lambda path, leaf: False),
        "weights": ("uniform", np.ones(5, np.float32), 1j),
        "has_aux": ("yes", 1.0),
        "nothing_like_it": (1,),
        "batch": (2,),
    }
    for function, args in curvature.items():
        for count in range(len(args) - (function == "hessian")):
            yield function, function, args[:count], {}
        for name, values in options.items():
            for value in values:
                yield function, name, args, {name: value}
        yield function, "params", tuple({"w": np.arange(3)} if x is PARAMS else x for x in args), {}
        yield function, "params", tuple("weights" if x is PARAMS else x for x in args), {}
        yield function, "params", tuple({} if x is PARAMS else x for x in args), {}
        yield function, function, tuple(None if callable(x) else x for x in args), {}
        yield function, function, (*args, 1, 2), {}
    for mode in ("both", None, 1):
        yield "hessian", "mode", curvature["hessian"], {"mode": mode}
    for name, values in {
        "kind": ("monte carlo", 1),
        "likelihood": ("laplace", None, 3, {"a": "laplace"}),
        "centered": ("yes",),
    }.items():
        for value in values:
            yield "fisher", name, curvature["fisher"], {name: value}
    yield "fisher", "key", curvature["fisher"], {"kind": "monte_carlo"}
    yield "hessian", "scalar", (lambda p, batch: p["w"], PARAMS, BATCH), {}
    yield "hessian", "real", (lambda p, batch: jnp.sum(jax.lax.complex(p["w"], p["w"])), PARAMS, BATCH), {}
    yield "gauss_newton", "loss", (model, lambda outputs, targets: outputs, PARAMS, BATCH), {}
    yield "hvp", "v", (loss, PARAMS), {}
    yield "hvp", "v", (loss, PARAMS, np.ones(3, np.float32)), {}
    yield "hvp", "v", (loss, PARAMS, {"w": np.ones(4, np.float32)}), {}
    for function in ("check_operator", "symmetry_error"):
        yield function, "key", (A,), {}
        yield function, "key", (A, 0), {}
        yield function, "op", (None, KEY), {}
        yield function, "like", (lambda v: v, KEY), {}
    yield "to_dense", "like", (lambda v: v,), {}
    yield "to_dense", "op", (), {}
    yield "as_operator", "a", (), {}
    for a in (None, "matrix", 3.0, np.ones(3), WIDE, {"w": A}, lambda v: v):
        yield "as_operator", "a", (a,), {}
    yield "blocks", "by", (eigenjax.hessian(loss, PARAMS, BATCH),), {"by": 1.5}
    yield "block_spectra", "by", (eigenjax.hessian(loss, PARAMS, BATCH),), {"by": "nowhere"}
    yield "restrict", "select", (eigenjax.hessian(loss, PARAMS, BATCH),), {}
    yield "restrict", "select", (eigenjax.hessian(loss, PARAMS, BATCH), "nowhere"), {}
    yield "precondition", "diagonal", (A,), {}
    yield "deflate", "vectors", (A, np.ones(2, np.float32)), {"shift": 0.0}
    yield "deflate", "b", (A, A[:1]), {"shift": 0.0, "b": "mass"}
    yield "deflate", "shift", (A, A[:1]), {"shift": "far"}
    yield "precondition", "diagonal", (A, np.ones(3, np.float32)), {}
    yield "diagonal_operator", "diagonal", (), {}
    yield "diagonal_operator", "diagonal", ("ones",), {}
    yield "raise_if_failed", "result", (3,), {}
    yield "raise_if_failed", "result", (eigenjax.trace(A, key=KEY),), {}


def low_rank_cases():
    pairs = eigenjax.EigenResult(*np.zeros((6, 0)))._replace(
        eigenvalues=A[0, :2], eigenvectors=A[:2], converged=np.ones(2, bool)
    )
    for result in (None, A, eigenjax.trace(A, key=KEY)):
        yield "low_rank", "result", (result,), {"damping": 1.0}
    yield "low_rank", "damping", (pairs,), {}
    for damping in (None, "small", 0.0, -1.0, np.nan, 1j, np.ones(3), {"w": 1.0}, [1.0]):
        yield "low_rank", "damping", (pairs,), {"damping": damping}
    for negative in ("drop", None, True):
        yield "low_rank", "negative", (pairs,), {"damping": 1.0, "negative": negative}
    yield "low_rank", "like", (pairs,), {"damping": 1.0, "like": np.ones(3, np.float32)}


CASES = [*solver_cases(), *eigsh_cases(), *estimator_cases(), *dense_cases(), *operator_cases(), *low_rank_cases()]


def error_text(function, args, options):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(eigenjax, function)(*args, **options)
    return str(caught.value).split("\n--------------------")[0]


def test_there_are_many():
    assert len(CASES) > 700


@pytest.mark.slow
@pytest.mark.parametrize("function", sorted({case[0] for case in CASES}))
def test_a_wrong_call_names_the_argument_and_the_remedy(function):
    unclear, call = [], getattr(eigenjax, function)
    for name, word, args, options in CASES:
        if name == function:
            text = error_text(name, args, options)
            # The word is the name of an argument, or describes the mistake.
            named = function in text and (word in text or word not in inspect.signature(call).parameters)
            clear = named and any(remedy in text for remedy in REMEDIES)
            if not clear or any(part in text for part in INTERNAL):
                unclear.append((word, options, text[:200]))
    assert not unclear, "\n".join(map(str, unclear))
