"""Solvers of eigenproblems that are not symmetric: `eigs`, with the Krylov-Schur iteration of `krylov_schur`.

`finalize` verifies the residuals, and `transforms` makes the pairs of a pencil or of A from those of an inverse.

Imports `vectors`, `operators`, `krylov`, `solvers.convergence` and `solvers.pencil`.
"""
