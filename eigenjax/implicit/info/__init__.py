"""Convergence of the linear systems of a reverse pass: `adjoint_info`.

Read `adjoint` first; `adjoint_general` is for `eigs`, `adjoint_singular` for `svds`.

Imports all of `implicit`.
"""
