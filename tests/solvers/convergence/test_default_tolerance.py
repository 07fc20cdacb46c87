"""Default tolerance: attainable within the rounding of the operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, eigs, eigsh, hessian, lanczos, svds

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


def test_wider_operators_keep_theirs():
    diagonal = jnp.linspace(0.0, 1.0, 200).at[-1].set(2.0)
    result = eigsh(jnp.diag(diagonal), 1)
    assert result.residuals[0] <= np.finfo(np.float32).eps ** 0.5 * 2
