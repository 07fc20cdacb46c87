"""Singular triplets: `svds`, with the thick-restart iteration of `restarted_golub_kahan`.

Imports `vectors`, `operators`, `krylov` and `solvers.convergence`.
"""
