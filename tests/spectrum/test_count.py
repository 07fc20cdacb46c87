"""Number of eigenvalues in an interval: within its standard error, exact for small operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import EstimateStatus, as_operator, eigenvalue_count

N = 3000
SPECTRA = {
    "uniform": np.linspace(0.0, 1.0, N),
    "semicircle": np.sort(2 * np.sin(np.pi * (np.random.default_rng(0).random(N) - 0.5))),
    "outliers": np.concatenate([0.01 * np.random.default_rng(1).standard_normal(N - 20), np.linspace(1, 50, 20)]),
    "two levels": np.repeat([0.0, 1.0], N // 2),
}


def diagonal(values):
    values = jnp.asarray(values, jnp.float32)
    return as_operator(lambda v: values * v, like=values)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("interval", [(0.2, 0.6), (-np.inf, 0.5), (0.5, np.inf), (-1.0, 60.0), (70.0, 80.0)])
def test_twice_the_error_covers_the_truth_in_nine_of_ten_cases(name, interval):
    values, op = SPECTRA[name], diagonal(SPECTRA[name])
    truth = np.sum((values >= interval[0]) & (values <= interval[1]))
    count = jax.jit(lambda key: eigenvalue_count(op, interval, key=key, krylov_dim=30))
    found = [count(jax.random.key(i)) for i in range(10)]
    covered = [abs(float(one.estimate) - truth) <= 2 * float(one.standard_error) + 1e-2 for one in found]
    assert sum(covered) >= 8
    assert all(one.standard_error < 0.1 * N for one in found)
    assert found[0].num_matvecs == 300


def test_a_small_operator_is_counted_exactly():
    values = np.linspace(-1.0, 1.0, 101)
    count = eigenvalue_count(np.diag(values).astype(np.float32), (-0.5001, 0.5001), key=jax.random.key(0))
    assert float(count.estimate) == np.sum(np.abs(values) <= 0.5001)
    assert float(count.standard_error) == 0
    assert eigenvalue_count(np.diag(values * np.nan), (0.0, 1.0), key=jax.random.key(0)).status == int(
        EstimateStatus.NONFINITE
    )


def test_more_steps_resolve_the_ends():
    op = diagonal(SPECTRA["uniform"])
    count = lambda m: eigenvalue_count(op, (0.4, 0.6), key=jax.random.key(0), num_probes=30, krylov_dim=m)
    assert count(100).standard_error < count(10).standard_error / 2


def test_intervals_are_traced_and_checked():
    op = diagonal(SPECTRA["uniform"])
    count = lambda low: eigenvalue_count(op, (low, 1.0), key=jax.random.key(0), krylov_dim=20).estimate
    found = jax.jit(jax.vmap(count))(jnp.asarray([0.0, 0.5]))
    assert abs(float(found[1]) - N / 2) < 0.1 * N
    assert found[0] > found[1]
    assert jax.jit(count)(2.0) == 0
    assert jax.grad(count)(0.2) == 0
    scaled = lambda c: eigenvalue_count(c * op, (0.0, 0.5), key=jax.random.key(0), krylov_dim=20).estimate
    assert jax.grad(scaled)(1.0) == 0
    assert eigenvalue_count(op, np.array([0.0, 1.0]), key=jax.random.key(0), krylov_dim=20).estimate > 0.9 * N
    with pytest.raises(ValueError, match=r"interval=\(1.0, 0.0\)"):
        eigenvalue_count(op, (1.0, 0.0), key=jax.random.key(0))
    with pytest.raises(ValueError, match="two numbers"):
        eigenvalue_count(op, 3.0, key=jax.random.key(0))
    with pytest.raises(TypeError, match="key"):
        eigenvalue_count(op, (0.0, 1.0), key=0)
