"""Batched decompositions of dense matrices, with derivatives that stay finite for repeated eigenvalues.

Read `symmetric` first, then `general` and `singular`; `clusters` finds repeated eigenvalues, `phases` fixes phases.

Imports `vectors` and `operators`.
"""

from eigenjax.dense.general import GeneralEigen, eig, eigenvalue_condition
from eigenjax.dense.singular import SingularVectors, svd
from eigenjax.dense.symmetric import SymmetricEigen, eigh

__all__ = ["GeneralEigen", "SingularVectors", "SymmetricEigen", "eig", "eigenvalue_condition", "eigh", "svd"]
