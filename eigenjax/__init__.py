"""Eigenvalues and eigenvectors of operators too large to write down, in JAX."""

from eigenjax.implicit import deflated_power_iteration, eigs, eigsh, lanczos
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.hessian import hessian, hvp
from eigenjax.operators.inspection import symmetry_error, to_dense
from eigenjax.report.problem import Problem
from eigenjax.result import EigenError, EigenResult, Status, raise_if_failed

__all__ = [
    "EigenError",
    "EigenResult",
    "LinearOperator",
    "Problem",
    "Status",
    "as_operator",
    "deflated_power_iteration",
    "eigs",
    "eigsh",
    "hessian",
    "hvp",
    "lanczos",
    "raise_if_failed",
    "symmetry_error",
    "to_dense",
]
