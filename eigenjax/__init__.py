"""Eigenvalues and eigenvectors of operators too large to write down, in JAX."""

from eigenjax.dense import eig, eigenvalue_condition, eigh, svd
from eigenjax.implicit import deflated_power_iteration, eigs, eigsh, lanczos, svds
from eigenjax.implicit.adjoint import AdjointInfo, adjoint_info
from eigenjax.implicit.gauge import gauge_residual
from eigenjax.implicit.general import LeftEigenvectors, left_eigenvectors
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.fisher import fisher
from eigenjax.operators.gauss_newton import gauss_newton
from eigenjax.operators.hessian import hessian, hvp
from eigenjax.operators.inspection import symmetry_error, to_dense
from eigenjax.operators.linear_head import LinearHead
from eigenjax.operators.output_loss import softmax_cross_entropy
from eigenjax.report.problem import Problem
from eigenjax.result import EigenError, EigenResult, SingularResult, Status, raise_if_failed

__all__ = [
    "AdjointInfo",
    "EigenError",
    "EigenResult",
    "LeftEigenvectors",
    "LinearHead",
    "LinearOperator",
    "Problem",
    "SingularResult",
    "Status",
    "adjoint_info",
    "as_operator",
    "deflated_power_iteration",
    "eig",
    "eigenvalue_condition",
    "eigh",
    "eigs",
    "eigsh",
    "fisher",
    "gauge_residual",
    "gauss_newton",
    "hessian",
    "hvp",
    "lanczos",
    "left_eigenvectors",
    "raise_if_failed",
    "softmax_cross_entropy",
    "svd",
    "svds",
    "symmetry_error",
    "to_dense",
]
