"""Golub-Kahan bidiagonalization: A V = U B, A^H U = V B^H + d g.

Read `bidiagonalization` first, then `ritz_triplets`. `bidiagonal_polynomials` evaluates the polynomials of the bases,
and `recycled_triplets` passes triplets that are not wanted to the derivative.

Imports `vectors`, `operators` and `krylov`.
"""
