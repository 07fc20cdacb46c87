"""SciPy linear operators, whose matvecs run on the host through JAX callbacks."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.vectors.tree import PyTree

_NO_DERIVATIVE = (
    "a SciPy LinearOperator multiplies on the host, where JAX cannot differentiate: give the operator as a function "
    "of jax.numpy, as a matrix or as a sparse matrix"
)


def is_scipy_operator(a: Any) -> bool:
    """Return whether `a` is a `scipy.sparse.linalg.LinearOperator`."""
    # An instance exists only if its module is imported already; importing it here would cost time for nothing.
    linalg = sys.modules.get("scipy.sparse.linalg")
    return linalg is not None and isinstance(a, linalg.LinearOperator)


@dataclasses.dataclass(frozen=True)
class HostProduct:
    """Matvecs of a SciPy LinearOperator, as functions of JAX arrays."""

    operator: Any

    def __post_init__(self):
        if np.dtype(self.operator.dtype or float).kind not in "biufc":
            raise TypeError(f"the SciPy LinearOperator has the dtype {self.operator.dtype}: it must act on numbers")

    @property
    def domain(self) -> jax.ShapeDtypeStruct:
        """Structure of the input: one flat leaf of n numbers."""
        return jax.ShapeDtypeStruct((int(self.operator.shape[1]),), self._dtype)

    @property
    def codomain(self) -> jax.ShapeDtypeStruct:
        """Structure of the output: one flat leaf of p numbers."""
        return jax.ShapeDtypeStruct((int(self.operator.shape[0]),), self._dtype)

    @property
    def source_name(self) -> str:
        """Class name of the SciPy operator."""
        return type(self.operator).__name__

    @property
    def _dtype(self) -> Any:
        # A SciPy operator may have no dtype (None).
        return jax.dtypes.canonicalize_dtype(np.result_type(self.operator.dtype or float, np.float32))

    def matvec(self, vector: jax.Array) -> jax.Array:
        """Compute A v, one vector after another under vmap."""
        return _on_host(self.operator.matvec, self.codomain, vector)

    def rmatvec(self, vector: jax.Array) -> jax.Array:
        """Compute A^H u with the operator's `rmatvec`; raise a TypeError if it has none."""
        try:
            self.operator.rmatvec(np.zeros(self.codomain.shape, self._dtype))
        except NotImplementedError as error:
            raise TypeError(
                "the SciPy LinearOperator has no rmatvec, which A^H u needs: give LinearOperator(..., rmatvec=...)"
            ) from error
        return _on_host(self.operator.rmatvec, self.domain, vector)


def _on_host(product: Callable[[np.ndarray], Any], result: jax.ShapeDtypeStruct, vector: jax.Array) -> jax.Array:
    def compute(words: Any) -> np.ndarray:
        image = np.asarray(product(_from_words(words, given.dtype, given.shape)), result.dtype).reshape(result.shape)
        return np.ascontiguousarray(image).view(np.uint32).reshape(_word_shape(result))

    @jax.custom_jvp
    def call(vector: PyTree) -> jax.Array:
        shape = jax.ShapeDtypeStruct(_word_shape(result), jnp.uint32)
        words = jax.pure_callback(compute, shape, _as_words(vector), vmap_method="sequential")
        return _as_numbers(words, result)

    @call.defjvp
    def _(_primals: Any, _tangents: Any) -> Any:
        raise TypeError(_NO_DERIVATIVE)

    vector = jnp.asarray(vector)
    given = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
    return call(vector)


# Numbers cross to the host as words of 32 bits: in the thread of a callback JAX may not know that this program computes
# in float64, and would round them.


def _word_shape(x: Any) -> tuple[int, ...]:
    return (*x.shape, x.dtype.itemsize // 4)


def _as_words(x: jax.Array) -> jax.Array:
    parts = jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x[..., None]
    words = jax.lax.bitcast_convert_type(parts, jnp.uint32)
    return words.reshape(_word_shape(x))


def _as_numbers(words: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    is_complex = jnp.issubdtype(like.dtype, jnp.complexfloating)
    real = jnp.finfo(like.dtype).dtype
    words = words.reshape(*like.shape, 2 if is_complex else 1, real.itemsize // 4)
    parts = jax.lax.bitcast_convert_type(words if real.itemsize == 8 else words[..., 0], real)
    return jax.lax.complex(parts[..., 0], parts[..., 1]) if is_complex else parts[..., 0]


def _from_words(words: Any, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(words).view(dtype).reshape(shape)
