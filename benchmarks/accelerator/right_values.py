"""Cases of values: the solvers in each dtype, repeated eigenvalues, NaN, batches, a basis in host memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import eigenjax
from benchmarks.accelerator.checks import Check, host, outliers, pair_checks, symmetric
from eigenjax import Status, as_operator

N, K = 160, 5
_F32 = float(np.finfo(np.float32).eps)


def float32() -> list[Check]:
    """Check a dense matrix in float32, to the default tolerance and to a tight one."""
    matrix = symmetric(outliers(N), "float32")
    exact = np.linalg.eigvalsh(matrix.astype(np.float64))[::-1][:K]
    checks = []
    solve = jax.jit(lambda a, tol: eigenjax.eigsh(a, K, tol=tol, dense=False))
    for tol in (3e-4, 1e-6):
        checks += pair_checks(f"tol={tol}", host(matrix), solve(jnp.asarray(matrix), tol), exact, tol=tol, unit=_F32)
    return checks


def float64() -> list[Check]:
    """Check a dense matrix in double precision."""
    matrix = symmetric(outliers(N))
    with jax.enable_x64(True):
        result = jax.jit(lambda a: eigenjax.eigsh(a, K, tol=1e-12, dense=False))(jnp.asarray(matrix))
        unit = float(np.finfo(np.float64).eps)
        return pair_checks("eigsh", matrix, result, np.linalg.eigvalsh(matrix)[::-1][:K], tol=1e-12, unit=unit)


def complex64() -> list[Check]:
    """Check a Hermitian matrix."""
    matrix = symmetric(outliers(N), "complex64")
    result = jax.jit(lambda a: eigenjax.eigsh(a, K, tol=1e-5, dense=False))(jnp.asarray(matrix))
    return pair_checks("eigsh", host(matrix), result, np.linalg.eigvalsh(host(matrix))[::-1][:K], tol=1e-5, unit=_F32)


def bfloat16() -> list[Check]:
    """Check a 16-bit operator, whose vectors are wider: the eigenvalues are those of the rounded matrix."""
    matrix = jnp.asarray(symmetric(outliers(N), "float32"), jnp.bfloat16)
    exact = np.linalg.eigvalsh(host(matrix.astype(jnp.float32)))[::-1][:K]
    result = jax.jit(lambda a: eigenjax.eigsh(a, K, tol=2e-2, dense=False))(matrix)
    gram = host(result.eigenvectors) @ host(result.eigenvectors).T
    return [
        Check("eigenvalues, over the norm", float(np.abs(host(result.eigenvalues) - exact).max() / 10), 1e-2),
        Check("orthonormality", float(np.abs(gram - np.eye(K)).max()), 20 * _F32),
    ]


def repeated_eigenvalues() -> list[Check]:
    """Check that all copies of a triple eigenvalue, and of the identity, are found."""
    values = np.concatenate([[10.0, 10.0, 10.0, 6.0], outliers(N)[8:]])
    matrix = symmetric(values, "float32")
    result = jax.jit(lambda a: eigenjax.eigsh(a, 4, tol=1e-5, verify=True, dense=False))(jnp.asarray(matrix))
    exact = np.linalg.eigvalsh(host(matrix))[::-1][:4]
    ones = jax.jit(lambda a: eigenjax.eigsh(a, 3, dense=False))(jnp.eye(40))
    return [
        *pair_checks("triple, verify=True", host(matrix), result, exact, tol=1e-5, unit=_F32),
        Check("identity: eigenvalues", float(np.abs(host(ones.eigenvalues) - 1).max()), 20 * _F32),
    ]


def nan_operator() -> list[Check]:
    """Check that one NaN in a matrix sets the status, and that no pair is converged."""
    matrix = jnp.asarray(symmetric(outliers(N), "float32")).at[3, 7].set(jnp.nan)
    result = jax.jit(lambda a: eigenjax.eigsh(a, K, dense=False))(matrix)
    is_told = int(result.status) == Status.NONFINITE
    return [
        Check("status is NONFINITE (0: yes)", float(not is_told), 0),
        Check("pairs called converged", float(result.converged.sum()), 0),
    ]


def default_precision() -> list[Check]:
    """Check matvecs at the device's default precision (TF32 on some).

    The reported residuals are those of the matvec at this precision, and the vectors are orthonormal to float32. The
    eigenvalues have the accuracy of the matvec: 2^-11 of the norm.
    """
    matrix = symmetric(outliers(N), "float32")
    exact = np.linalg.eigvalsh(host(matrix))[::-1][:K]
    multiply = lambda a, v: (a @ v[:, None])[:, 0]

    @jax.jit
    def solve(a):
        op = as_operator(functools.partial(multiply, a), like=jax.ShapeDtypeStruct((N,), jnp.float32))
        result = eigenjax.eigsh(op, K, tol=3e-3, dense=False)
        v = result.eigenvectors
        return result, jax.vmap(op)(v) - result.eigenvalues[:, None] * v

    result, rests = solve(jnp.asarray(matrix))
    gram = host(result.eigenvectors) @ host(result.eigenvectors).T
    return [
        Check("orthonormality", float(np.abs(gram - np.eye(K)).max()), 20 * _F32),
        Check("eigenvalues, over the norm", float(np.abs(host(result.eigenvalues) - exact).max() / 10), 2e-3),
        Check(
            "residuals by the same products, over the norm", float(np.linalg.norm(host(rests), axis=1).max() / 10), 6e-3
        ),
        Check("status", float(result.status), 0),
    ]


def offloaded_basis() -> list[Check]:
    """Check a Krylov basis in host memory."""
    matrix = symmetric(outliers(N), "float32")
    exact = np.linalg.eigvalsh(host(matrix))[::-1][:K]
    result = jax.jit(lambda a: eigenjax.eigsh(a, K, tol=1e-5, basis="offload", dense=False))(jnp.asarray(matrix))
    return pair_checks("offload", host(matrix), result, exact, tol=1e-5, unit=_F32)


def batch() -> list[Check]:
    """Check a batch under vmap."""
    matrices = np.stack([symmetric(outliers(60), "float32", seed) for seed in range(6)])
    results = jax.jit(jax.vmap(lambda a: eigenjax.eigsh(a, 3, tol=1e-5, dense=False)))(jnp.asarray(matrices))
    checks = []
    for i, matrix in enumerate(matrices):
        one = jax.tree.map(lambda x, i=i: x[i], results)
        exact = np.linalg.eigvalsh(host(matrix))[::-1][:3]
        checks.append(pair_checks("vmap", host(matrix), one, exact, tol=1e-5, unit=_F32))
    return [max(several, key=lambda check: check.error) for several in zip(*checks, strict=True)]


def lanczos() -> list[Check]:
    """Check one Krylov space, for the largest magnitudes."""
    matrix = symmetric(outliers(N), "float32")
    exact = np.linalg.eigvalsh(host(matrix))[::-1][:3]
    result = jax.jit(lambda a: eigenjax.lanczos(a, 3, krylov_dim=40, tol=1e-4))(jnp.asarray(matrix))
    return pair_checks("lanczos", host(matrix), result, exact, tol=1e-4, unit=_F32)


def interior() -> list[Check]:
    """Check the eigenvalues nearest to a shift."""
    matrix = symmetric(np.linspace(-5, 5, N), "float32")
    exact = np.linalg.eigvalsh(host(matrix))
    nearest = exact[np.argsort(np.abs(exact - 0.71))][:3]
    result = jax.jit(lambda a: eigenjax.eigsh(a, 3, sigma=0.71, tol=1e-4, dense=False))(jnp.asarray(matrix))
    return [
        Check("eigenvalues, over the norm", float(np.abs(host(result.eigenvalues) - nearest).max() / 5), 1e-4),
        Check("status", float(result.status), 0),
    ]


def general() -> list[Check]:
    """Check a nonsymmetric matrix, for the largest magnitudes."""
    rng = np.random.default_rng(3)
    matrix = (rng.normal(size=(N, N)) / N**0.5 + np.diag(np.r_[6.0, 5.0, 4.0, np.zeros(N - 3)])).astype(np.float32)
    exact = np.linalg.eigvals(host(matrix))
    exact = exact[np.argsort(-np.abs(exact))][:3]
    result = jax.jit(lambda a: eigenjax.eigs(a, 3, tol=1e-5, dense=False))(jnp.asarray(matrix))
    return [
        Check("eigenvalues, relative", float(np.abs(host(result.eigenvalues) - exact).max() / 6), 1e-4),
        Check("status", float(result.status), 0),
    ]


def singular() -> list[Check]:
    """Check the largest triplets of a tall matrix."""
    matrix = np.random.default_rng(4).normal(size=(N, 90)).astype(np.float32)
    exact = np.linalg.svd(host(matrix), compute_uv=False)
    result = jax.jit(lambda a: eigenjax.svds(a, 4, tol=1e-5, dense=False))(jnp.asarray(matrix))
    left, values, right = host(result.left), host(result.values), host(result.right)
    residual = np.linalg.norm(right @ host(matrix).T - values[:, None] * left, axis=1).max() / exact[0]
    return [
        Check("values, over the norm", float(np.abs(values - exact[:4]).max() / exact[0]), 64 * _F32),
        Check("residuals, over the norm", float(residual), 2e-5),
    ]


FIRST = (float32, default_precision, float64, complex64, bfloat16, repeated_eigenvalues, nan_operator)
MORE = (offloaded_basis, batch, lanczos, singular, general, interior)
