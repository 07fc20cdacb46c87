"""Convergence of eigenpairs: residuals, flags, error bounds, and the search for missed pairs.

Read `status` first: it sets `converged` and `status`. `residuals` verifies residuals by matvecs, `error_bounds`
derives bounds from them, `check_schedule` chooses the steps until the next convergence check. `missed_pairs` decides
whether copies may be missing, with the targets of `search_targets`.

Imports `vectors`, `operators` and `krylov`.
"""
