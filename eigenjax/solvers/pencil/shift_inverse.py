"""Inverse (A - sigma B)^-1 of matrices, factorized once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from eigenjax.arguments import brief, check_number
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import HostOperator, MatrixOperator
from eigenjax.operators.host import HostProduct
from eigenjax.operators.matrices import as_matrix, is_jax_sparse, is_matrix, is_scipy_sparse
from eigenjax.operators.parts.precondition import DiagonalOperator
from eigenjax.operators.sparse.padded import SparseMatrix
from eigenjax.vectors.tree import PyTree

# A pivot below this times sqrt(n) eps (tridiagonal: eps), relative to its row or to the median of all, is rounding.
_SINGULAR_PIVOT = 16.0
_SINGULAR = "A - sigma B is singular: sigma={sigma} is an eigenvalue, at least to rounding; shift it a little"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DenseInverse(LinearOperator):
    """Inverse of a dense matrix, by its LU factors."""

    factors: jax.Array  # (n, n)
    pivots: jax.Array  # (n,)

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors: one flat leaf of n numbers."""
        return jax.ShapeDtypeStruct(self.factors.shape[-1:], self.factors.dtype)

    def mv(self, vector: PyTree) -> PyTree:
        """Solve (A - sigma B) x = v."""
        return jax.scipy.linalg.lu_solve((self.factors, self.pivots), vector)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Solve (A - sigma B)^H x = v."""
        return jax.scipy.linalg.lu_solve((self.factors, self.pivots), vector, trans=2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TridiagonalInverse(LinearOperator):
    """Inverse of a tridiagonal matrix."""

    diagonals: jax.Array  # (3, n), the one below, the main one and the one above

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors: one flat leaf of n numbers."""
        return jax.ShapeDtypeStruct(self.diagonals.shape[-1:], self.diagonals.dtype)

    def mv(self, vector: PyTree) -> PyTree:
        """Solve (A - sigma B) x = v, by elimination at each call."""
        below, main, above = self.diagonals
        return jax.lax.linalg.tridiagonal_solve(below, main, above, vector[:, None])[:, 0]

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Solve (A - sigma B)^H x = v."""
        below, main, above = jnp.conj(self.diagonals)
        below, above = jnp.roll(above, 1), jnp.roll(below, -1)
        return jax.lax.linalg.tridiagonal_solve(below, main, above, vector[:, None])[:, 0]


@explained
def shift_inverse(matrix: Any, sigma: Any = 0.0, b: Any = None) -> LinearOperator:
    """Factorize A - sigma B, and return the operator v -> (A - sigma B)^-1 v, for `eigsh` and `eigs`.

    Args:
        matrix: A, (n, n): dense, a sparse matrix of SciPy or of `jax.experimental.sparse`, or nested lists.
        sigma: the shift, the same as that of the solver; not an eigenvalue.
        b: B, a matrix of the same kinds; None is the identity.

    Returns:
        The inverse. Of dense matrices it holds the LU factors, on the device. Of a tridiagonal sparse one it solves by
        elimination, on the device too. Of other sparse matrices it holds the factors that SciPy's `splu` computes, and
        solves on the host through a callback, one vector after another. It has no derivatives and needs none: solvers
        differentiate A and B.

    Raises:
        ValueError: if a matrix is not square, the shapes differ, or A - sigma B is singular.
        TypeError: if an argument is no matrix, sigma is no number, or one of them is traced beside a sparse matrix.

    Cost: 2 n^3 / 3 operations for dense matrices, what `splu` takes for sparse ones, n for tridiagonal ones. Each
    product costs one solve with the factors.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import eigsh, shift_inverse
        >>> a = jnp.diag(jnp.arange(200.0) ** 2)
        >>> result = eigsh(a, k=2, sigma=16.5, inverse=shift_inverse(a, 16.5))
        >>> print(result.eigenvalues.round(3), result.num_solves < 20)
        [16.  9.] True

    Source: Ericsson and Ruhe (1980), The spectral transformation Lanczos method.
    """
    # A shift of a complex matrix may be complex.
    parts = (sigma.real, sigma.imag) if isinstance(sigma, complex | np.complexfloating) else (sigma,)
    for part in parts if not _is_complex(sigma) else ():
        check_number("shift_inverse", "sigma", part, remedy="give one finite number")
    matrix, b = _entries(matrix, "matrix"), None if b is None else _entries(b, "b")
    if _is_sparse(matrix) or _is_sparse(b):
        return _sparse_inverse(matrix, sigma, b)
    a = _square(matrix, "matrix")
    mass = jnp.eye(a.shape[0], dtype=a.dtype) if b is None else _square(b, "b")
    _check_shapes(a, mass)
    # By NumPy, because JAX may be configured not to promote a real to a complex dtype.
    dtype = np.result_type(a.dtype, mass.dtype, np.complex64 if jnp.iscomplexobj(sigma) else a.dtype)
    a, mass, number = (x.astype(dtype) for x in (a, mass, jnp.asarray(sigma)))
    shifted = a - number * mass
    factors, pivots, order = jax.lax.linalg.lu(shifted)
    # A pivot is rounding relative to the row that it is left of.
    rows = jnp.max(jnp.abs(shifted), axis=1)[order]
    unit = _SINGULAR_PIVOT * a.shape[0] ** 0.5 * float(jnp.finfo(factors.dtype).eps)
    is_singular = jnp.any(jnp.abs(jnp.diagonal(factors)) <= unit * rows)
    if not isinstance(factors, Tracer) and bool(jax.device_get(is_singular)):
        raise ValueError(_SINGULAR.format(sigma=brief(sigma)))
    return DenseInverse(factors, pivots)


def _sparse_inverse(matrix: Any, sigma: Any, b: Any) -> LinearOperator:
    from scipy import sparse
    from scipy.linalg import get_lapack_funcs
    from scipy.sparse import linalg

    if isinstance(sigma, Tracer):
        raise TypeError("a sparse matrix is factorized on the host, and sigma is traced: give a number")
    a = _square(_on_host(matrix, sparse), "matrix")
    mass = sparse.identity(a.shape[0], dtype=a.dtype) if b is None else _square(_on_host(b, sparse), "b")
    _check_shapes(a, mass)
    number = complex(sigma) if np.iscomplexobj(np.asarray(sigma)) else float(sigma)
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(a.dtype, mass.dtype, np.float32))
    shifted = sparse.csc_matrix(a - number * mass)
    shifted = shifted.astype(np.result_type(dtype, np.complex64) if np.iscomplexobj(shifted.data) else dtype)
    entries = shifted.tocoo()
    singular = ValueError(_SINGULAR.format(sigma=brief(sigma)))
    if np.all(np.abs(entries.row - entries.col) <= 1):
        diagonals = [shifted.diagonal(k) for k in (-1, 0, 1)]
        (factorize,) = get_lapack_funcs(("gttrf",), diagonals)
        rows = np.asarray(abs(shifted).max(axis=1).todense()).reshape(-1)
        _, pivots, *_, failed = factorize(*diagonals)
        if failed or np.any(np.abs(pivots) <= _SINGULAR_PIVOT * np.finfo(shifted.dtype).eps * rows):
            raise singular
        return TridiagonalInverse(_padded(diagonals))
    try:
        factors = linalg.splu(shifted)
    except RuntimeError as error:
        raise singular from error
    # SciPy scales rows and columns before it factorizes, so that most pivots are of one size.
    pivots = np.abs(factors.U.diagonal())
    unit = _SINGULAR_PIVOT * len(pivots) ** 0.5 * np.finfo(shifted.dtype).eps
    if np.min(pivots) <= unit * np.median(pivots):
        raise singular
    return HostOperator(HostProduct(_Factorized(factors, shifted)))


class _Factorized:
    """Factors of a sparse matrix, with the methods of a SciPy LinearOperator."""

    def __init__(self, factors: Any, matrix: Any):
        self.factors, self.shape, self.dtype = factors, matrix.shape, matrix.dtype

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        return self.factors.solve(np.asarray(vector, self.dtype).reshape(-1))

    def rmatvec(self, vector: np.ndarray) -> np.ndarray:
        return self.factors.solve(np.asarray(vector, self.dtype).reshape(-1), trans="H")


def _padded(diagonals: list[np.ndarray]) -> jax.Array:
    """Return the (3, n) diagonals, those beside the main one with a zero where they have no entry."""
    below, main, above = diagonals
    zero = np.zeros(1, main.dtype)
    return jnp.asarray(np.stack([np.concatenate([zero, below]), main, np.concatenate([above, zero])]))


def _entries(given: Any, name: str) -> Any:
    """Return the entries of a matrix, or of an operator that holds them."""
    if isinstance(given, MatrixOperator):
        given = given.matrix
    if isinstance(given, DiagonalOperator) and isinstance(given.structure, jax.ShapeDtypeStruct):
        given = jnp.diag(jnp.broadcast_to(given.diagonal, given.structure.shape))
    if isinstance(given, SparseMatrix):
        raise TypeError(f"{name} is an operator whose entries are arranged for products: give the sparse matrix itself")
    if not is_matrix(given):
        raise TypeError(
            f"{name}={brief(given)}: give a matrix, dense or sparse; to factorize it, its entries are needed"
        )
    return given if _is_sparse(given) else as_matrix(given)


def _is_complex(sigma: Any) -> bool:
    return isinstance(sigma, jax.Array | np.ndarray) and jnp.ndim(sigma) == 0 and jnp.iscomplexobj(sigma)


def _is_sparse(a: Any) -> bool:
    return is_scipy_sparse(a) or is_jax_sparse(a)


def _on_host(a: Any, sparse: Any) -> Any:
    """Return a matrix as one of SciPy's."""
    if is_scipy_sparse(a):
        return a
    if not is_jax_sparse(a):
        return sparse.csc_matrix(np.asarray(as_matrix(a)))
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(a)):
        raise TypeError(
            "the entries of a sparse matrix are traced (by jit, vmap, grad, ...), and it is factorized on the host: "
            "call shift_inverse outside, with concrete entries, and pass the result as inverse=. A gradient needs no "
            "derivative of it"
        )
    coo = a if hasattr(a, "indices") and not hasattr(a, "indptr") else a.to_bcoo()
    data, indices = jax.device_get((coo.data, coo.indices))
    return sparse.coo_matrix((data, (indices[:, 0], indices[:, 1])), shape=tuple(a.shape)).tocsc()


def _square(matrix: Any, name: str) -> Any:
    if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"{name} has the shape {tuple(matrix.shape)}: give a square matrix (n, n)")
    return matrix


def _check_shapes(a: Any, b: Any) -> None:
    if a.shape != b.shape:
        raise ValueError(f"matrix has the shape {tuple(a.shape)} and b {tuple(b.shape)}: give two of one size")
