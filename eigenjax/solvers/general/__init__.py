"""Solvers of eigenproblems that are not symmetric: `eigs`, with the Krylov-Schur iteration of `krylov_schur`.

Imports `vectors`, `operators`, `krylov` and `solvers.convergence`.
"""
