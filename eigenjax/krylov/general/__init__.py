"""Operators that are not symmetric: Arnoldi decompositions and Schur forms.

Read `arnoldi` first, then `general_ritz` (Ritz pairs of a Hessenberg matrix). `schur` orders a complex Schur form,
`real_schur` a real one with blocks for conjugate pairs, `triangular` solves for the eigenvectors of a triangle, and
`conjugates` makes pairs of a real matrix exactly conjugate.

Imports `vectors`, `operators` and `krylov`.
"""
