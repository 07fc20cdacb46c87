"""Eigenvalues and eigenvectors of operators too large to write down, in JAX."""

from eigenjax.dense import eig, eigenvalue_condition, eigh, svd
from eigenjax.implicit import deflated_power_iteration, eigs, eigsh, lanczos, svds
from eigenjax.implicit.adjoint import AdjointInfo, adjoint_info
from eigenjax.implicit.gauge import gauge_residual
from eigenjax.implicit.general import LeftEigenvectors, left_eigenvectors
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.hessian import hessian, hvp
from eigenjax.operators.inspection import symmetry_error, to_dense
from eigenjax.report.problem import Problem
from eigenjax.result import EigenError, EigenResult, SingularResult, Status, raise_if_failed
from eigenjax.spectrum import (
    DiagonalResult,
    FunctionResult,
    SpectralDensity,
    TraceResult,
    diagonal,
    frobenius_norm,
    logdet,
    matrix_function,
    spectral_density,
    trace,
    trace_of_function,
)

__all__ = [
    "AdjointInfo",
    "DiagonalResult",
    "EigenError",
    "EigenResult",
    "FunctionResult",
    "LeftEigenvectors",
    "LinearOperator",
    "Problem",
    "SingularResult",
    "SpectralDensity",
    "Status",
    "TraceResult",
    "adjoint_info",
    "as_operator",
    "deflated_power_iteration",
    "diagonal",
    "eig",
    "eigenvalue_condition",
    "eigh",
    "eigs",
    "eigsh",
    "frobenius_norm",
    "gauge_residual",
    "hessian",
    "hvp",
    "lanczos",
    "left_eigenvectors",
    "logdet",
    "matrix_function",
    "raise_if_failed",
    "spectral_density",
    "svd",
    "svds",
    "symmetry_error",
    "to_dense",
    "trace",
    "trace_of_function",
]
