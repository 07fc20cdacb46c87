"""Krylov decompositions and Rayleigh-Ritz extraction, without any policy of when to stop.

Read `decomposition` first: A V = V H + D^T B, how it grows and how it is compressed. `rayleigh_ritz` extracts Ritz
pairs, `ritz` orders them, `thick_restart` keeps the best, and `restart_size` says how many. `lanczos_polynomials`
follows the polynomials that tell what a space excludes. `recycling` passes Ritz pairs that were not wanted to the
derivative. `general/` is for operators that are not symmetric, `golub_kahan/` for singular values.

Imports `vectors` and `operators`.
"""
