"""Default tolerance: attainable within the rounding of the operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, check_operator, eigs, eigsh, hessian, lanczos, svds
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.operators.packed import packed_operator

WIDTH, EXAMPLES = 12, 40


def loss(params, batch):
    """Compute the loss of a network with two layers in the dtype of its parameters."""
    hidden = jnp.tanh(batch.astype(params["first"].dtype) @ params["first"])
    return jnp.mean((hidden @ params["second"]).astype(jnp.float32) ** 2)


def curvature(dtype):
    generator = np.random.default_rng(3)
    params = {name: generator.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5 for name in ("first", "second")}
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    return hessian(loss, params, jnp.asarray(generator.normal(size=(EXAMPLES, WIDTH)), jnp.float32))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("solver", [eigsh, lanczos, eigs], ids=lambda solver: solver.__name__)
def test_networks_in_16_bits_converge_by_default(solver, dtype):
    result = solver(curvature(dtype), k=3, krylov_dim=60)
    assert result.converged.all()
    assert result.status == Status.CONVERGED
    exact = eigsh(curvature("float32"), 3, which="LA" if solver is eigsh else "LM").eigenvalues
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.real(result.eigenvalues), exact, rtol=0, atol=8 * unit * abs(float(exact[0])))


@pytest.mark.slow
def test_matrices_in_16_bits_have_triplets_by_default():
    matrix = np.random.default_rng(5).normal(size=(40, 30))
    result = svds(jnp.asarray(matrix, jnp.bfloat16), 2)
    assert result.status == Status.CONVERGED
    exact = np.linalg.svd(np.asarray(jnp.asarray(matrix, jnp.bfloat16), np.float64), compute_uv=False)[:2]
    np.testing.assert_allclose(result.values, exact, rtol=0.03)


def computes_in(dtype):
    """Return the curvature of a network with float32 parameters whose products are in another dtype."""
    generator = np.random.default_rng(3)
    params = {name: jnp.asarray(generator.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5, jnp.float32) for name in "ab"}

    def loss(params, batch):
        hidden = jnp.tanh(batch.astype(dtype) @ params["a"].astype(dtype))
        return jnp.mean((hidden @ params["b"].astype(dtype)).astype(jnp.float32) ** 2)

    return hessian(loss, params, jnp.asarray(generator.normal(size=(EXAMPLES, WIDTH)), jnp.float32))


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True])
def test_mixed_precision_converges_by_default(outside):
    solve = lambda op, **options: eigsh(op, 3, krylov_dim=40, **options)
    op = computes_in(jnp.bfloat16)
    result = solve(op) if outside else jax.jit(solve)(op)
    assert result.status == Status.CONVERGED
    exact = jax.jit(solve)(computes_in(jnp.float32)).eigenvalues
    np.testing.assert_allclose(result.eigenvalues, exact, rtol=0, atol=0.03 * float(exact[0]))
    # A tolerance below the rounding is not reached, and the operator is not blamed for it.
    assert solve(op, tol=1e-5).status == Status.STAGNATED
    report = check_operator(op, jax.random.key(0))
    assert 1e-3 < report.nonlinearity < report.tolerance


def test_error_estimates_cover_the_rounding_of_matvecs():
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    symmetric = (q * np.r_[10.0, 7.0, 5.0, rng.uniform(size=57)]) @ q.T
    matrix = jnp.asarray((symmetric + symmetric.T) / 2, jnp.bfloat16)
    result = eigsh(matrix, 3, krylov_dim=30)
    exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[:-4:-1]
    assert np.all(np.abs(np.asarray(result.eigenvalues, np.float64) - exact) <= result.error_estimates)
    assert np.all(np.asarray(result.error_estimates) <= 0.02 * exact[0])


def test_the_unit_of_a_matvec_is_that_of_its_products():
    narrow = float(jnp.finfo(jnp.bfloat16).eps)
    assert rounding_unit(computes_in(jnp.float32)) == float(jnp.finfo(jnp.float32).eps)
    assert rounding_unit(2.0 * computes_in(jnp.bfloat16).shift(1.0)) == narrow
    assert rounding_unit(packed_operator(computes_in(jnp.bfloat16))) == narrow
    # Numbers that are only stored in 16 bits are exact.
    stored = jnp.arange(4.0, dtype=jnp.bfloat16)
    op = as_operator(lambda v: stored.astype(jnp.float32) * v, like=jax.ShapeDtypeStruct((4,), jnp.float32))
    assert rounding_unit(op) == float(jnp.finfo(jnp.float32).eps)


def test_wider_operators_keep_theirs():
    diagonal = jnp.linspace(0.0, 1.0, 200).at[-1].set(2.0)
    result = eigsh(jnp.diag(diagonal), 1)
    assert result.residuals[0] <= np.finfo(np.float32).eps ** 0.5 * 2
