"""Low rank plus diagonal: D + V diag(l) V^H from the eigenpairs of a curvature, in closed form.

    A = D + V diag(l) V^H = D^(1/2) (I - U U^H + U M U^H) D^(1/2),    U R = D^(-1/2) V,    M = I + R diag(l) R^H

with D a positive diagonal, U orthonormal and M a k x k matrix. This form is closed under inversion, and all else is a
function of M alone:

    A^-1 = D^(-1/2) (I - U U^H + U M^-1 U^H) D^(-1/2),    log det A = log det D + log det M,    F F^H = A

with F = D^(1/2) (I - U U^H + U C U^H) and M = C C^H, the Cholesky factorization. It equals the formula of Woodbury, but
is stable for small D too: A^-1 v by Woodbury is a difference of numbers that nearly cancel.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_int, check_key
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.vectors import random_vectors, tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LowRankPlusDiagonal(LinearOperator):
    """Operator D^(1/2) (I - U U^H + U M U^H) D^(1/2): low rank plus diagonal, of a diagonal D and k vectors U.

    `low_rank` creates it. It is Hermitian; A^-1, F with F F^H = A, log det A, trace, diagonal and samples are in closed
    form. A matvec reads U four times. If A is not positive definite, `sqrt`, `logdet` and `sample` return NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import eigsh, low_rank
        >>> op = low_rank(eigsh(jnp.diag(jnp.array([3.0, 2.0, 0.0])), 2), damping=1.0)
        >>> print(op.diagonal().round(4), op.solve(jnp.ones(3)).round(4), op.logdet().round(4))
        [4. 3. 1.] [0.25   0.3333 1.    ] 2.4849
    """

    diagonal_part: PyTree  # D, real: each leaf has the shape of the vector's leaf, or ()
    vectors: PyTree  # (k, ...) U, orthonormal rows; those of pairs left out are zero
    core: jax.Array  # (k, k) M, Hermitian
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A v."""
        root = square_root(self.diagonal_part)
        inner = multiplied(self.core, self.vectors, scaled(root, self._working(vector)))
        return tree.cast_like(scaled(root, inner), self.structure)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute A v: A is Hermitian."""
        return self.mv(vector)

    def inverse(self) -> "LowRankPlusDiagonal":
        """Return A^-1, which is low rank plus diagonal too; of use as `M=` of conjugate gradients.

        Cost: one pass over D, and the inverse of a k x k matrix. No vector of U is copied.
        """
        inverse = jnp.linalg.inv(self.core)
        inverse = (inverse + jnp.conj(inverse.T)) / 2
        reciprocal = jax.tree.map(lambda d: 1 / d, self.diagonal_part)
        return dataclasses.replace(self, diagonal_part=reciprocal, core=inverse)

    def solve(self, vector: PyTree) -> PyTree:
        """Compute A^-1 v; for several vectors, call `inverse()` once.

        Args:
            vector: pytree with the operator's structure, shapes and dtypes.

        Raises:
            ValueError: if the structure or a shape differs; names the leaf.
            TypeError: if a dtype differs; names the leaf.
        """
        check_vector(vector, self.structure)
        return self.inverse().mv(vector)

    def sqrt(self) -> "LowRankSquareRoot":
        """Return an operator F with F F^H = A; `inverse().sqrt()` is a square root of A^-1.

        If D is one number and the pairs are eigenpairs, F is the principal square root. Otherwise it is not Hermitian.
        """
        return LowRankSquareRoot(self, jnp.linalg.cholesky(self.core))

    def logdet(self) -> jax.Array:
        """Compute log det A, (); NaN if A is not positive definite."""
        of_leaf = lambda leaf, d: jnp.sum(jnp.log(d)).astype(self._real) * (leaf.size if d.ndim == 0 else 1)
        of_diagonal = jax.tree.leaves(jax.tree.map(of_leaf, self.structure, self.diagonal_part))
        of_core = 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(self.core)).real))
        return sum(of_diagonal, start=of_core)

    def diagonal(self) -> PyTree:
        """Compute the diagonal of A: real numbers in the structure of the vectors. Cost: k passes over U."""
        change = self.core - jnp.eye(len(self.core), dtype=self.core.dtype)

        def add(total, index):
            column = tree.combine(change[:, index], self.vectors)
            row = tree.row(self.vectors, index)
            return jax.tree.map(lambda t, x, y: t + (x * jnp.conj(y)).real, total, column, row), None

        first = jax.tree.map(lambda x: jnp.zeros_like(x).real, tree.row(self.vectors, 0))
        total, _ = jax.lax.scan(add, first, jnp.arange(len(self.core), dtype=jnp.int32))
        return jax.tree.map(lambda d, t: d * (1 + t), self.diagonal_part, total)

    def trace(self) -> jax.Array:
        """Compute the trace of A, (). Cost: that of the diagonal."""
        sums = [jnp.sum(leaf).astype(self._real) for leaf in jax.tree.leaves(self.diagonal())]
        return sum(sums[1:], start=sums[0])

    def sample(self, key: jax.Array, num: int) -> PyTree:
        """Draw samples of the normal distribution N(0, A); `inverse().sample(key, num)` of N(0, A^-1).

        Args:
            key: typed key, such as `jax.random.key(0)`.
            num: number of samples, static.

        Returns:
            Independent samples F z, with a leading axis `num` on every leaf, in the dtypes of the vectors. Complex
            samples are circular: E[x x^H] = A and E[x x^T] = 0. NaN if A is not positive definite.

        Raises:
            TypeError: if the key is not a typed key, or num is not an int.
            ValueError: if num is not positive.
        """
        check_key(key)
        num = check_int("sample", "num", num)
        factor, structure = self.sqrt(), self.structure
        draw = lambda key: factor.mv(tree.cast_like(random_vectors.normal(key, structure), structure))
        return jax.lax.map(draw, jax.random.split(key, num))

    @property
    def _real(self) -> Any:
        return tree.real_dtype(self.core.dtype)

    def _working(self, vector: PyTree) -> PyTree:
        return tree.cast_like(vector, tree.working_structure(self.structure))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LowRankSquareRoot(LinearOperator):
    """Operator F = D^(1/2) (I - U U^H + U C U^H) with F F^H = A and C the Cholesky factor of M."""

    square: LowRankPlusDiagonal  # A
    factor: jax.Array  # (k, k) C, lower triangular

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors of A."""
        return self.square.structure

    def mv(self, vector: PyTree) -> PyTree:
        """Compute F v."""
        inner = multiplied(self.factor, self.square.vectors, self.square._working(vector))
        return tree.cast_like(scaled(square_root(self.square.diagonal_part), inner), self.structure)

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute F^H v."""
        inner = scaled(square_root(self.square.diagonal_part), self.square._working(vector))
        image = multiplied(jnp.conj(self.factor.T), self.square.vectors, inner)
        return tree.cast_like(image, self.structure)


@jax.jit
def multiplied(core: jax.Array, rows: PyTree, vector: PyTree) -> PyTree:
    """Compute (I - U U^H + U C U^H) v, projecting twice.

    What one projection leaves along U is rounding of v. It is as large as the result if C is small, as in the inverse.
    """
    along = tree.project(rows, vector)
    vector = tree.add_scaled(vector, -1.0, tree.combine(along, rows))
    left = tree.project(rows, vector)
    change = matmul(core, along + left) - left
    return tree.add_scaled(vector, 1.0, tree.combine(change, rows))


def square_root(diagonal: PyTree) -> PyTree:
    """Return the square root of every entry."""
    return jax.tree.map(jnp.sqrt, diagonal)


def scaled(diagonal: PyTree, vectors: PyTree) -> PyTree:
    """Multiply a vector, or each row of a basis, by a real diagonal."""
    spread = lambda d, x: d if d.ndim == 0 or d.ndim == x.ndim else d[None]
    return jax.tree.map(lambda d, x: spread(d, x).astype(x.dtype) * x, diagonal, vectors)
