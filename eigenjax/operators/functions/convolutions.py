"""Convolutions in the one form that XLA is fast at within loops on a CPU.

XLA's CPU backend has fast convolutions for images (N, H, W, C) with kernels (H, W, C_in, C_out). It brings others into
that form by transposing, but in a program's outermost computation only, not in the bodies of loops (jax-ml/jax issue
12868). The gradient of a convolution is one with batch and channels exchanged: within a solver's loop each product with
the Hessian of a small convolutional network took 23 times as long as outside of it. So the products of solvers, and of
microbatches, are transposed here; on other backends, which take all forms alike, nothing is changed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.functions.closure import TracedFunction, hoist
from eigenjax.vectors.tree import explicit_sharding

_CONVOLUTION = "conv_general_dilated"


def fast_in_loops(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of pytrees of arrays, for the body of a loop.

    It is traced once, and what it closes over stays differentiable.

    >>> kernel = jnp.ones((1, 1, 3))
    >>> convolve = lambda x: jax.lax.conv(x, kernel, (1,), "VALID")
    >>> print(fast_in_loops(convolve)(jnp.arange(5.0)[None, None]))
    [[[3. 6. 9.]]]
    """

    def same(*arguments: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*arguments)
        traced, constants = hoist(function, *arguments)
        return (with_canonical_convolutions(traced) if traced.mentions(_CONVOLUTION) else traced)(constants, *arguments)

    return same


def with_canonical_convolutions(traced: TracedFunction) -> TracedFunction:
    """The same program, with transposed convolutions, in programs within it too."""
    return traced.rewritten(
        lambda equation: _canonical(equation) if equation.primitive.name == _CONVOLUTION else equation
    )


def _canonical(equation: Any) -> Any:
    """A convolution's equation, or one that calls a function in its place."""
    numbers = equation.params["dimension_numbers"]
    avals = [variable.aval for variable in equation.invars]
    examples = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=aval.sharding) for aval in avals]
    wanted = _channels_last(len(numbers.lhs_spec))
    if numbers == wanted or any(explicit_sharding(example) is not None for example in examples):
        return equation
    (_, _, *in_space), (_, _, *kernel_space) = numbers.lhs_spec, numbers.rhs_spec

    @jax.jit
    def convolution(images, kernel):
        images = jnp.transpose(images, (numbers.lhs_spec[0], *in_space, numbers.lhs_spec[1]))
        kernel = jnp.transpose(kernel, (*kernel_space, numbers.rhs_spec[1], numbers.rhs_spec[0]))
        result = jax.lax.conv_general_dilated(images, kernel, **{**equation.params, "dimension_numbers": wanted})
        position = dict(zip(numbers.out_spec, wanted.out_spec, strict=True))
        return jnp.transpose(result, [position[axis] for axis in range(result.ndim)])

    (call,) = jax.make_jaxpr(convolution)(*examples).jaxpr.eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)


def _channels_last(rank: int) -> jax.lax.ConvDimensionNumbers:
    """(N, ..., C) with (..., C_in, C_out) to (N, ..., C): batch or channels out first, channels in, space."""
    space = tuple(range(1, rank - 1))
    images = (0, rank - 1, *space)
    return jax.lax.ConvDimensionNumbers(images, (rank - 1, rank - 2, *range(rank - 2)), images)
