"""Solvers of symmetric (Hermitian) eigenproblems.

Read `eigsh` first: it chooses among `restarted_lanczos` (with `plan` for its options and `finalize` for its result),
`two_pass` and `lobpcg`. `lanczos` is one Krylov space, `power_iteration` deflated power iteration; `ghosts` merges
the copies that Lanczos without reorthogonalization makes.

Imports `vectors`, `operators`, `krylov` and `solvers.convergence`.
"""
