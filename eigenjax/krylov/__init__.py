"""Krylov decompositions and Rayleigh-Ritz extraction, without stopping criteria.

Read `decomposition` first: A V = V H + D^T B, and its compression. `expansion` adds vectors to it, by Lanczos's or
Arnoldi's step. `rayleigh_ritz` extracts Ritz pairs, `ritz` orders them, `thick_restart` keeps the best ones, and
`restart_size` chooses their number. `lanczos_polynomials` evaluates the polynomials that show which eigenvalues a space
excludes. `recycling` passes Ritz pairs that are not wanted to the derivative. `general/` is for operators that are not
symmetric, `golub_kahan/` for singular values.

Imports `vectors` and `operators`.
"""
