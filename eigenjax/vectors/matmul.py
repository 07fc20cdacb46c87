"""Products of small matrices in full precision on every device."""

import functools

import jax
import jax.numpy as jnp


def matmul(*factors: jax.Array) -> jax.Array:
    """Multiply matrices (or vectors) in the full precision of their dtype.

    The default precision of a GPU or TPU keeps 10 or 7 bits of a float32 factor. The Ritz values of a solve, and all
    results that follow from them, would have errors of that size.

    >>> print(matmul(jnp.eye(2), jnp.ones((2, 2)), jnp.ones(2)))
    [2. 2.]
    """
    return functools.reduce(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST), factors)
