"""Projected linear systems of the derivatives, and their solution.

Read `pairs` first, then `complement`: (lambda_i - A) z_i = b_i on the complement of the eigenvectors. `deflation`
projects recycled Ritz vectors out of the systems, `stages` solves in two stages, `groups` a few systems at a time.
`triplets` and `dilation` reduce singular triplets to the same systems; `tangents` differentiates operators.

Imports `vectors`, `operators`, `krylov` and `solvers`.
"""
