"""Convolutions in the only layout that XLA compiles to fast code inside loops on a CPU.

XLA's CPU backend has fast convolutions for images (N, H, W, C) with kernels (H, W, C_in, C_out). It transposes other
layouts to this one, but only in a program's outermost computation, not in the bodies of loops (jax-ml/jax issue
12868). The gradient of a convolution is a convolution with batch and channels exchanged. Inside a solver's loop, a
matvec with the Hessian of a small convolutional network therefore took 23 times as long as outside. The functions of
this module transpose the convolutions of matvecs and of microbatches. On other backends, where all layouts are equally
fast, they change nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.functions.closure import TracedFunction, hoist
from eigenjax.vectors.placement import explicit_sharding

_CONVOLUTION = "conv_general_dilated"


def fast_in_loops(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function of pytrees of arrays, with convolutions that are fast in the body of a loop.

    The function is traced once; the arrays that it closes over stay differentiable.

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
    """Return the same program with all convolutions in the fast layout, including those of inner programs."""
    return traced.rewritten(
        lambda equation: _canonical(equation) if equation.primitive.name == _CONVOLUTION else equation
    )


def _canonical(equation: Any) -> Any:
    """Return a convolution's equation unchanged, or an equation that calls a function which transposes its operands."""
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
    """Return the layout (N, ..., C) for images and results, and (..., C_in, C_out) for kernels.

    In each specification of JAX, the batch or output-channel axis stands first, then the input channels, then space.
    """
    space = tuple(range(1, rank - 1))
    images = (0, rank - 1, *space)
    return jax.lax.ConvDimensionNumbers(images, (rank - 1, rank - 2, *range(rank - 2)), images)
