"""Diagonal by which an adaptive optimizer divides its gradients, read from its state.

    update = -eta m / d,    d = sqrt(nu_hat) + eps  (Adam),    sqrt(nu + eps)  (RMSProp),    ...

The states of optax are NamedTuples, recognized here by their names and fields, so that optax need not be installed.
Values that a state does not hold (decay rates, eps) are arguments, with the defaults of the optimizer.
"""

import fnmatch
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from eigenjax.arguments import brief, check_arrays, check_bool, check_number
from eigenjax.calls import explained
from eigenjax.operators.parts.selection import part_like, path_string
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


class SecondMoment(NamedTuple):
    """Optimizer state with a second moment, and its location."""

    path: str  # keys of the location, joined by "/"
    state: Any  # NamedTuple of optax
    hyperparams: dict[str, Any]  # of the inject_hyperparams around it


@explained
def adam_preconditioner(
    opt_state: Any,
    *,
    b2: Any = None,
    eps: Any = None,
    eps_in_sqrt: bool | None = None,
    path: str | None = None,
    params: PyTree = None,
) -> PyTree:
    """Compute the diagonal by which an adaptive optimizer divides its gradients, from its state in optax.

        Adam, AdamW, NAdam, AdaBelief   d = sqrt(nu / (1 - b2^count)) + eps
        AMSGrad                         d = sqrt(nu_max) + eps
        RMSProp                         d = sqrt(nu + eps);  centered: sqrt(nu - mu^2 + eps)
        Adafactor                       d = sqrt(v), or sqrt(v_row v_col / mean(v_row)) where it is factored

    The largest eigenvalue of `precondition(hessian(loss, params, data), adam_preconditioner(opt_state))` is the
    sharpness for such an optimizer. It stays near a threshold of its learning rate (Cohen et al. 2022).

    Args:
        opt_state: the optimizer's state, after at least one step. The second moment is found at any place in it: in a
            chain, in `inject_hyperparams`, `masked`, `multi_transform`, `apply_if_finite`, `MultiSteps`.
        b2: decay of the second moment, which the state does not hold. None: the value in `inject_hyperparams`, or
            0.999. RMSProp without bias correction, AMSGrad and Adafactor do not need it.
        eps: number added to the root. None: the value in `inject_hyperparams`, or 1e-8 (AdaBelief 1e-16). Adafactor
            includes it in v.
        eps_in_sqrt: static; True adds eps before the root. None: True for RMSProp, the default of `optax.rmsprop`, and
            False for Adam. Give False for `rmsprop(eps_in_sqrt=False)`.
        path: location in the state, if there are several second moments: a string that the path of one must match,
            such as "inner_states/encoder/*" (* stands for any characters).
        params: the parameters, needed for Adafactor: its factors do not distinguish a matrix from its transpose. The
            result takes their structure, which is needed for the state of an `nnx.Optimizer`.

    Returns:
        A pytree like the parameters, at least in float32, with None for parameters masked from the optimizer.

    Raises:
        ValueError: if there is no second moment, or several; the message lists those found and their paths. Also for a
            state of Adafactor without params, and for a second moment that is not elementwise (NovoGrad).

    Before the first step there is no second moment: a bias-corrected d is then NaN, and the status of a solve
    NONFINITE. The state of Adamax has the name and fields of Adam's and is indistinguishable from it, so the result is
    wrong for Adamax. For Yogi give eps=1e-3. Learning rate, weight decay, clipping and the rectification of RAdam are
    not included. `eps_root` of Adam is zero unless `inject_hyperparams` holds it.

    Cost: one pass over the second moment.

    Example:
        >>> import optax
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> optimizer = optax.chain(optax.clip_by_global_norm(9.0), optax.adam(1e-3))
        >>> gradient = {"w": jnp.array([3.0, -4.0])}
        >>> _, opt_state = optimizer.update(gradient, optimizer.init(params), params)
        >>> print(adam_preconditioner(opt_state)["w"].round(2))  # after one step |gradient|
        [3. 4.]

    Source: Kingma and Ba (2015), Adam; Cohen et al. (2022), Adaptive gradient methods at the edge of stability.
    """
    _check_options(b2, eps, eps_in_sqrt, path)
    moment = _only(list(_second_moments(opt_state)), opt_state, path)
    name, unmasked = type(moment.state).__name__, jax.tree.map(_unmasked, moment.state, is_leaf=_is_masked)
    hyperparams = {name: next(iter(jax.tree.leaves(value)), None) for name, value in moment.hyperparams.items()}
    decay_name, decay = _DECAYS.get(name, ("b2", _B2))
    options = _Options(
        b2=_first(b2, hyperparams.get(decay_name), decay),
        eps=_first(eps, hyperparams.get("eps"), _EPS.get(name, _EPS_OTHERS)),
        eps_root=_first(hyperparams.get("eps_root"), 0.0),
        eps_in_sqrt=_first(eps_in_sqrt, name in _EPS_IN_SQRT),
        params=params,
    )
    diagonal = _RULES[name](unmasked, options)
    leaves = jax.tree.leaves(diagonal)
    if params is None:
        return diagonal
    _check_fits(diagonal, unmasked, params)
    # nnx.Optimizer stores its own Variables: same leaves, another structure.
    if len(leaves) == len(jax.tree.leaves(params)):
        return jax.tree.unflatten(jax.tree.structure(params), leaves)
    return diagonal


def _check_options(b2: Any, eps: Any, eps_in_sqrt: Any, path: Any) -> None:
    for name, value, remedy in (
        ("b2", b2, "give the decay of the optimizer, from 0 to below 1, or None"),
        ("eps", eps, "give the number that the optimizer adds, from 0 up, or None"),
    ):
        check_number("adam_preconditioner", name, value, least=0.0, remedy=remedy)
    if b2 is not None and not isinstance(b2, Tracer) and not b2 < 1:
        raise ValueError(f"adam_preconditioner got b2={brief(b2)}: give a number from 0 to below 1, or None")
    if eps_in_sqrt is not None:
        check_bool("adam_preconditioner", "eps_in_sqrt", eps_in_sqrt)
    if path is not None and not isinstance(path, str):
        raise TypeError(f"adam_preconditioner got path={brief(path)}: give a string, such as 'inner_states/*', or None")


def _check_fits(diagonal: PyTree, state: Any, params: PyTree) -> None:
    """Raise a ValueError unless the diagonal fits the parameters, or the part that is not masked."""
    check_arrays("adam_preconditioner", "params", params, remedy="give the parameters, or their jax.ShapeDtypeStruct")
    found, wanted = ([jnp.shape(leaf) for leaf in jax.tree.leaves(x)] for x in (diagonal, params))
    is_masked = any(leaf is None for leaf in jax.tree.leaves(state, is_leaf=lambda x: x is None))
    if found != wanted and not (is_masked and len(found) < len(wanted)):
        raise ValueError(
            f"adam_preconditioner got params with leaves of the shapes {wanted}, and the second moment has {found}: "
            "give the parameters that the optimizer was initialized with, or leave params out"
        )


class _Options(NamedTuple):
    """Values that the rules need besides the state."""

    b2: Any  # decay of the second moment
    eps: Any  # added to the root, or before it
    eps_root: Any  # added to the second moment
    eps_in_sqrt: bool  # True adds eps before the root
    params: PyTree  # None, or the parameters


# Defaults of optax.
_B2 = 0.999
_DECAYS = {"ScaleByRmsWithCountState": ("decay", 0.9), "ScaleByRStdDevWithCountState": ("decay", 0.9)}
_EPS = {"ScaleByBeliefState": 1e-16}
_EPS_OTHERS = 1e-8
_EPS_IN_SQRT = ("ScaleByRmsState", "ScaleByRmsWithCountState", "ScaleByRStdDevState", "ScaleByRStdDevWithCountState")


def _adam(state: Any, options: _Options) -> PyTree:
    return jax.tree.map(lambda nu: _root(nu, options), _corrected(state.nu, state, options))


def _belief(state: Any, options: _Options) -> PyTree:
    # AdaBelief adds eps_root to the moment itself, at every step.
    return _adam(state, options._replace(eps_root=0.0))


def _amsgrad(state: Any, options: _Options) -> PyTree:
    return jax.tree.map(lambda nu: _root(_wide(nu), options), state.nu_max)


def _rmsprop(state: Any, options: _Options) -> PyTree:
    return _adam(state, options._replace(eps_root=0.0))


def _centered(state: Any, options: _Options) -> PyTree:
    mean, square = _corrected(state.mu, state, options), _corrected(state.nu, state, options)
    options = options._replace(eps_root=0.0)
    return jax.tree.map(lambda mu, nu: _root(nu - jnp.square(mu), options), mean, square)


def _adafactor(state: Any, options: _Options) -> PyTree:
    if options.params is None:
        raise ValueError(
            "adam_preconditioner got no params: the factors of Adafactor do not tell a matrix from its transpose, so "
            "give the parameters (or their jax.ShapeDtypeStruct) as params="
        )
    check_arrays("adam_preconditioner", "params", options.params, remedy="give the parameters, or their shapes")
    leaves, treedef = jax.tree.flatten(state.v)
    try:
        part = part_like(options.params, state.v)
    except ValueError as error:
        raise ValueError(
            f"adam_preconditioner got params of the structure {jax.tree.structure(options.params)}, and the state's is "
            f"{jax.tree.structure(state.v)}: give the parameters that the optimizer was initialized with"
        ) from error
    shapes = [leaf.shape for leaf in jax.tree.leaves(part)]
    parts = zip(leaves, jax.tree.leaves(state.v_row), jax.tree.leaves(state.v_col), shapes, strict=True)
    return treedef.unflatten(
        jnp.sqrt(_unfactored(*(_wide(moment) for moment in moments), shape=shape)) for *moments, shape in parts
    )


def _unfactored(v: jax.Array, v_row: jax.Array, v_col: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the second moment of each entry: v, or v_row v_col^T / mean(v_row), of rank one in the longest axes."""
    if v.shape == shape and v_row.shape == (1,) and v_col.shape == (1,):
        return _wide(v)
    v_row, v_col = _wide(v_row), _wide(v_col)
    # In the order of optax, ties included: v_row lacks the longest axis, v_col the second longest.
    *_, second, longest = (int(axis) for axis in np.argsort(shape))
    rows, columns = jnp.expand_dims(v_row, longest), jnp.expand_dims(v_col, second)
    return rows * columns / jnp.mean(rows, axis=second, keepdims=True)


_RULES: dict[str, Callable[[Any, _Options], PyTree]] = {
    "ScaleByAdamState": _adam,
    "ScaleByBeliefState": _belief,
    "ScaleByAmsgradState": _amsgrad,
    "ScaleByRmsState": _rmsprop,
    "ScaleByRmsWithCountState": _rmsprop,
    "ScaleByRStdDevState": _centered,
    "ScaleByRStdDevWithCountState": _centered,
    "FactoredState": _adafactor,
}


def _root(nu: jax.Array, options: _Options) -> jax.Array:
    eps, eps_root = (jnp.asarray(value).astype(nu.dtype) for value in (options.eps, options.eps_root))
    return jnp.sqrt(nu + eps) if options.eps_in_sqrt else jnp.sqrt(nu + eps_root) + eps


def _corrected(moments: PyTree, state: Any, options: _Options) -> PyTree:
    """Divide by 1 - b2^count if the state has a count, the bias correction of optax."""
    if "count" not in state._fields:
        return jax.tree.map(_wide, moments)
    (count,) = jax.tree.leaves(state.count)
    bias = lambda dtype: 1 - jnp.asarray(options.b2).astype(dtype) ** count.astype(dtype)
    return jax.tree.map(lambda x: _wide(x) / bias(_wide(x).dtype), moments)


def _wide(moment: jax.Array) -> jax.Array:
    return moment.astype(tree.accumulation_dtype(moment))


def _second_moments(state: Any, path: str = "", hyperparams: dict[str, Any] | None = None) -> Iterator[SecondMoment]:
    """Yield all states with a second moment, in order, with the hyperparameters of the states around them."""
    is_moment = lambda x: type(x).__name__ in _RULES
    is_leaf = lambda x: is_moment(x) or hasattr(x, "hyperparams")
    for keys, found in jax.tree_util.tree_flatten_with_path(state, is_leaf=is_leaf)[0]:
        here = "/".join(part for part in (path, path_string(keys)) if part)
        if is_moment(found):
            yield SecondMoment(here, found, hyperparams or {})
        elif hasattr(found, "hyperparams"):
            within = (hyperparams or {}) | found.hyperparams
            yield from _second_moments(found.inner_state, f"{here}/inner_state".lstrip("/"), within)


def _only(found: list[SecondMoment], opt_state: Any, path: str | None) -> SecondMoment:
    """Return the only second moment, or the one that `path` matches."""
    if not found:
        raise ValueError(
            f"adam_preconditioner: opt_state holds no second moment of each entry ({', '.join(_RULES)}); its states "
            f"are: {', '.join(_names(opt_state)) or type(opt_state).__name__}. Give the state that optimizer.init or "
            "optimizer.update returned, of an optimizer that adapts each entry"
        )
    matching = [one for one in found if path is None or fnmatch.fnmatchcase(one.path, path)]
    if len(matching) != 1:
        places = ", ".join(f"{one.path!r} ({type(one.state).__name__})" for one in found)
        count = "several second moments" if len(matching) > 1 else f"no second moment at path={path!r}"
        raise ValueError(
            f"adam_preconditioner: opt_state holds {count}; they are at {places}. Choose one by path=, a string in "
            "which * stands for any characters; each has its own learning rate, so they are not put together here"
        )
    return matching[0]


def _names(state: Any) -> list[str]:
    """List the names of all states, nested ones after those around them."""
    if isinstance(state, dict):
        return [name for part in state.values() for name in _names(part)]
    if not isinstance(state, tuple | list):
        return []
    class_names = [type(state).__name__] if hasattr(state, "_fields") else []
    return list(dict.fromkeys(class_names + [name for part in state for name in _names(part)]))


def _is_masked(node: Any) -> bool:
    return type(node).__name__ == "MaskedNode"


def _unmasked(node: Any) -> Any:
    return None if _is_masked(node) else node


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
