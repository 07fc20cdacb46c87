"""Operator for SciPy's solvers that counts its products."""

from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg
from numpy.typing import DTypeLike


class CountedOperator(scipy.sparse.linalg.LinearOperator):
    """Linear map with the number of its products so far, those with A and A^T together, in `products`."""

    def __init__(
        self,
        shape: tuple[int, int],
        product: Callable[[np.ndarray], np.ndarray],
        transposed: Callable[[np.ndarray], np.ndarray] | None = None,
        dtype: DTypeLike = np.float64,
    ):
        super().__init__(np.dtype(dtype), shape)
        self.products = 0
        self._product, self._transposed = product, transposed

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        self.products += 1
        return self._product(v.ravel())

    def _rmatvec(self, u: np.ndarray) -> np.ndarray:
        if self._transposed is None:
            raise NotImplementedError("this operator has no product with A^T")
        self.products += 1
        return self._transposed(u.ravel())
