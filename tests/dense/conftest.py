"""Fixtures of the dense tests: fourth-order differences, and random matrices with given spectra."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Steps of fourth-order differences: h^4 truncation against eps / h rounding, and eps / h^2 for second differences.
STEP, SECOND_STEP = 1e-3, 3e-3


def central_difference(function, at, direction, step=STEP):
    value = lambda steps: function(at + steps * step * direction)
    return (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * step)


def second_difference(function, at, direction, step=SECOND_STEP):
    value = lambda steps: function(at + steps * step * direction)
    return (16 * (value(1) + value(-1)) - (value(2) + value(-2)) - 30 * value(0)) / (12 * step**2)


def derivatives(loss):
    """Compile (x, direction, *data) -> value, first derivatives (reverse, forward), second (also mixed)."""

    @jax.jit
    def all_of_them(x, direction, *data):
        of_x = lambda x: loss(x, *data)
        # A JAX gradient g means d loss = Re sum g dA.
        along = lambda function: lambda x: jnp.real(jnp.sum(jax.grad(function)(x) * direction))
        tangent = lambda function: lambda x: jax.jvp(function, (x,), (direction,))[1]
        slope = along(of_x)
        first = jnp.stack([slope(x), tangent(of_x)(x)])
        return of_x(x), first, jnp.stack([along(slope)(x), tangent(tangent(of_x))(x), tangent(slope)(x)])

    return all_of_them


def assert_derivatives(compiled, truth, x, direction, *data, first=1e-6, second=1e-4):
    """Compare value and derivatives with those of an independent NumPy function."""
    value, slopes, curvatures = compiled(jnp.asarray(x), jnp.asarray(direction), *map(jnp.asarray, data))
    of_x = lambda x: truth(x, *data)
    slope, curvature = central_difference(of_x, x, direction), second_difference(of_x, x, direction)
    assert min(abs(slope), abs(curvature)) > 1e-2, "the direction shows nothing"
    np.testing.assert_allclose(value, of_x(x), rtol=1e-9)
    np.testing.assert_allclose(slopes, np.full(2, slope), rtol=first)
    np.testing.assert_allclose(curvatures, np.full(3, curvature), rtol=second)


@pytest.fixture
def check():
    """Provide the comparison functions of this module."""
    return types.SimpleNamespace(
        central_difference=central_difference,
        second_difference=second_difference,
        derivatives=derivatives,
        assert_derivatives=assert_derivatives,
    )


@pytest.fixture
def draw(rng):
    """Provide random real or complex arrays, and `draw.rotation(n)`, an orthogonal or unitary matrix."""

    class Draw:
        def __call__(self, *shape, complex_entries=False):
            x = rng.normal(size=shape)
            return x + 1j * rng.normal(size=shape) if complex_entries else x

        def hermitian(self, *shape, complex_entries=False):
            x = self(*shape, complex_entries=complex_entries)
            return (x + np.swapaxes(x, -1, -2).conj()) / 2

        def rotation(self, n, k=None, complex_entries=False):
            return np.linalg.qr(self(n, k or n, complex_entries=complex_entries))[0]

        def with_spectrum(self, values, complex_entries=False):
            q = self.rotation(len(values), complex_entries=complex_entries)
            return (q * np.asarray(values)) @ q.conj().T

    return Draw()
