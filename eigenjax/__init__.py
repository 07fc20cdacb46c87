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
from eigenjax.runs.errors import RunError
from eigenjax.runs.estimate import Estimate, estimate
from eigenjax.runs.run import run
from eigenjax.runs.source import memory_mapped_batches
from eigenjax.runs.stream import stream

__all__ = [
    "AdjointInfo",
    "EigenError",
    "EigenResult",
    "Estimate",
    "LeftEigenvectors",
    "LinearOperator",
    "Problem",
    "RunError",
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
    "estimate",
    "gauge_residual",
    "hessian",
    "hvp",
    "lanczos",
    "left_eigenvectors",
    "memory_mapped_batches",
    "raise_if_failed",
    "run",
    "stream",
    "svd",
    "svds",
    "symmetry_error",
    "to_dense",
]
