"""Operators that are not symmetric: Arnoldi decompositions and Schur forms.

Read `arnoldi` first, then `general_ritz` (Ritz pairs of a Hessenberg matrix). `schur` computes and orders a complex
Schur form, `real_schur` a real one with blocks for conjugate pairs. `triangular` computes the eigenvectors of a
triangular matrix, and `conjugates` makes the pairs of a real matrix exactly conjugate. `harmonic` has the
harmonic Ritz pairs near a shift. `krylov_space` builds one space without restarts, for functions of an operator.

Imports `vectors`, `operators` and `krylov`.
"""
