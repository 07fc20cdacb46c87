"""Solvers of symmetric (Hermitian) eigenproblems.

Read `eigsh` first: it chooses among `restarted_lanczos`, `two_pass` and `lobpcg`. `plan` checks its options and
`finalize` makes its result; `host_loop` runs it outside of jit. `lanczos` uses one Krylov space and `power_iteration`
is deflated power iteration. `ghosts` removes the copies that Lanczos without reorthogonalization produces.

Imports `vectors`, `operators`, `krylov` and `solvers.convergence`.
"""
