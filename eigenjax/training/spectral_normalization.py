"""Norm of a layer's linear map by power iteration, carried from one training step to the next.

    u = A v / ||A v||,    w = A^H u,    sigma = ||w||,    v <- w / sigma

For a dense kernel divided by its norm, `SpectralNorm` of flax.linen and flax.nnx does the same, equally well. It
reshapes the kernel of a convolution to a matrix; here A is the convolution itself, with its strides and its padding.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.arguments import brief, check_arrays, check_int
from eigenjax.calls import explained, prefixed
from eigenjax.operators.base import check_vector
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.rectangular import adjoint_matvec, as_rectangular, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.pseudorandom import arbitrary_vector, seed_of
from eigenjax.vectors.tree import PyTree


class SpectralNorm(NamedTuple):
    """Approximate singular triplet from power iteration."""

    value: jax.Array  # () sigma, a lower bound
    left: PyTree  # u, a unit output vector of A
    right: PyTree  # v, a unit input vector of A: the v0 of the next call


@explained
def spectral_norm(
    a: Any, v0: PyTree = None, *, num_steps: int = 1, key: jax.Array | None = None, like: PyTree = None
) -> SpectralNorm:
    """Compute the largest singular value of a linear map by power iteration, differentiable in the arrays of the map.

        u = A v / ||A v||,    w = A^H u,    sigma = <v, w> = ||w||,    d sigma = Re <u, dA v>,    v <- w / ||w||

    One power step per training step is enough, because the map changes slowly: pass `right` to the next call.

    Args:
        a: a linear map: a (p, n) array, an operator, or a callable v -> A v, such as a convolution with its kernel. The
            callable may close over the kernel, and gradients flow there.
        v0: start vector; None is a pseudo-random vector. It has no gradient.
        num_steps: power steps, static; take more at the start of training, or without v0.
        key: typed key of the pseudo-random vector.
        like: the vectors that a callable takes, if there is no v0: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        `value`, `left`, `right`. The value is a lower bound, right to about (sigma_2 / sigma_1)^(4 num_steps - 2). Its
        derivative is that of <u, A v> for fixed u and v, which is that of sigma at convergence. Value and
        derivative are zero if A v is zero.

    Raises:
        ValueError: if num_steps is not positive, or v0 does not fit.
        TypeError: if `a` is not a linear map, or num_steps is not an int.

    Cost: two matvecs a step, with A and A^H, and one pull-back for the gradient.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> kernel = jnp.array([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> norm = spectral_norm(kernel, num_steps=10)
        >>> print(norm.value.round(4), jnp.abs(norm.right).round(3))
        3.0 [1. 0. 0.]
        >>> print(jnp.abs(jax.grad(lambda a: spectral_norm(a, norm.right).value)(kernel)).round(3).tolist())
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]

    Source: Miyato et al. (2018), Spectral normalization for generative adversarial networks.
    """
    num_steps = check_int("spectral_norm", "num_steps", num_steps)
    if key is not None and not isinstance(key, jax.Array):
        raise TypeError(f"spectral_norm got key={brief(key)}: give a typed key, such as jax.random.key(0), or None")
    v0 = v0.right if isinstance(v0, SpectralNorm) else v0
    for name, value in (("v0", v0), ("like", like)):
        if value is not None:
            check_arrays("spectral_norm", name, value, remedy="give a vector that the map takes")
    with prefixed("spectral_norm"):
        op = as_rectangular(a, like=v0 if like is None else like)
        if v0 is not None:
            check_vector(_like(v0, op.domain), op.domain, name="v0")
    return _power_steps(op, jax.lax.stop_gradient(v0), seed_of(key), num_steps)


@functools.partial(jax.jit, static_argnums=3)
def _power_steps(op: RectangularOperator, v0: PyTree | None, seed: jax.Array, num_steps: int) -> SpectralNorm:
    held, structure = jax.lax.stop_gradient(op), tree.working_structure(op.domain)
    start = arbitrary_vector(seed, structure) if v0 is None else v0
    right = _unit(tree.cast_like(start, structure))

    def step(_, right):
        return _unit(adjoint_matvec(held, _unit(matvec(held, right))))

    right = jax.lax.fori_loop(0, num_steps - 1, step, right)
    left = _unit(matvec(held, right))
    image = adjoint_matvec(op, left)
    right = _unit(jax.lax.stop_gradient(image))
    return SpectralNorm(tree.inner(right, image).real, left, right)


def _like(v0: PyTree, domain: PyTree) -> PyTree:
    """Describe v0 in the dtypes that the map takes, if the numbers of leaves agree: v0 is cast to them."""
    leaves, treedef = jax.tree.flatten(v0)
    expected = jax.tree.leaves(domain)
    dtypes = [leaf.dtype for leaf in expected] if len(expected) == len(leaves) else [jnp.result_type(x) for x in leaves]
    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), dtype) for x, dtype in zip(leaves, dtypes, strict=True)]
    return treedef.unflatten(shapes)


def _unit(vector: PyTree) -> PyTree:
    return normalize(vector, tree.norm(vector))
