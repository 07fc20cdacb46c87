"""Rule for optax that keeps learning rate times sharpness below a bound.

On a quadratic of curvature lambda, a step of gradient descent multiplies the error by 1 - eta lambda. It diverges for
eta lambda above 2. If the largest eigenvalue is known, such as from a tracker, the step is shortened before that:

    factor = min(1, bound / (eta lambda))
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from eigenjax.arguments import brief, check_number
from eigenjax.calls import explained
from eigenjax.vectors.arithmetic import safe_divide

# Slightly below 2, the stability limit of gradient descent.
DEFAULT_BOUND = 1.8
_NAME = "scale_by_sharpness"
_NUMBERS = (int, float, np.generic, np.ndarray, jax.Array)


class ScaleBySharpnessState(NamedTuple):
    """State of the rule."""

    num_steps: jax.Array  # () int32, number of calls of `update`
    factor: jax.Array  # () float32, factor of the last step


@explained
def scale_by_sharpness(learning_rate: float | Callable[[Any], Any], *, bound: float = DEFAULT_BOUND) -> Any:
    """Shorten the steps of an optimizer if learning rate times sharpness exceeds a bound.

        update <- min(1, bound / (eta lambda)) update

    Args:
        learning_rate: eta of the optimizer before it in the chain: a number, or a schedule of optax.
        bound: largest eta lambda. Gradient descent is stable below 2, heavy-ball momentum b below 2 (1 + b). For Adam,
            take the sharpness of the preconditioned Hessian, and 2 (1 + b1) / (1 - b1).

    Returns:
        An `optax.GradientTransformationExtraArgs`. Its `update(updates, state, params, *, sharpness)` needs the
        largest eigenvalue, such as `metrics["eigenvalue_0"]` of `spectrum_tracker`. A negative eigenvalue leaves the
        step unchanged; NaN and Inf keep the factor of the previous step.

    Raises:
        ImportError: if optax is not installed.
        ValueError: if the bound is not positive.
        TypeError: if `update` is called without `sharpness`.

    Cost: one multiplication.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = optax.chain(optax.sgd(0.1), scale_by_sharpness(0.1, bound=1.0))
        >>> state = optimizer.init(jnp.ones(2))
        >>> updates, state = optimizer.update(jnp.ones(2), state, jnp.ones(2), sharpness=jnp.float32(20.0))
        >>> print(updates)  # of length 1 / 20
        [-0.05 -0.05]

    Source: Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability.
    """
    try:
        import optax
    except ImportError as error:
        raise ImportError('scale_by_sharpness needs optax: pip install "eigenjax[training]"') from error
    _check_options(learning_rate, bound)

    def init(params: Any) -> ScaleBySharpnessState:
        del params
        return ScaleBySharpnessState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32))

    def update(updates: Any, state: Any, params: Any = None, *, sharpness: Any = None, **others: Any):
        del params, others
        _check_update(state, sharpness)
        eta = learning_rate(state.num_steps) if callable(learning_rate) else learning_rate
        _check_real(f"{_NAME} got a schedule that gives", eta, "let it give one number, the learning rate")
        factor = _factor(jnp.asarray(eta, jnp.float32), jnp.asarray(sharpness).astype(jnp.float32), bound, state.factor)
        updates = jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)
        return updates, ScaleBySharpnessState(state.num_steps + 1, factor)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_options(learning_rate: Any, bound: Any) -> None:
    if learning_rate is None or not callable(learning_rate):
        _check_real(
            f"{_NAME} got learning_rate =", learning_rate, "give that of the optimizer: a number, or a schedule"
        )
        check_number(_NAME, "learning_rate", learning_rate, least=0.0, remedy="give a number from 0 up, or a schedule")
    remedy = "give a positive number, below 2 for gradient descent"
    _check_real(f"{_NAME} got bound =", bound, remedy)
    check_number(_NAME, "bound", bound, least=0.0, remedy=remedy)
    if not isinstance(bound, Tracer) and not bound > 0:
        raise ValueError(f"{_NAME} got bound={brief(bound)}: {remedy}")


def _check_update(state: Any, sharpness: Any) -> None:
    remedy = 'pass one number, the largest eigenvalue: optimizer.update(..., sharpness=metrics["eigenvalue_0"])'
    if not isinstance(state, ScaleBySharpnessState):
        raise TypeError(f"{_NAME} got {brief(state)} as state: give that of its init(params), or of its last update")
    _check_real(f"{_NAME} got sharpness =", sharpness, remedy)


def _check_real(words: str, value: Any, remedy: str) -> None:
    """Raise an error unless a value is one real number, traced or not; NaN is one."""
    message = f"{words} {brief(value)}: {remedy}"
    dtype = jnp.result_type(value) if isinstance(value, _NUMBERS) and not isinstance(value, bool) else None
    if dtype is None or not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(message)
    if jnp.shape(value) != ():
        raise ValueError(message)


def _factor(eta: jax.Array, sharpness: jax.Array, bound: float, before: jax.Array) -> jax.Array:
    product = eta * sharpness
    factor = safe_divide(bound, product, where=product > bound, otherwise=1)
    return jnp.where(jnp.isfinite(product), factor, before).astype(jnp.float32)
