"""Solves by one dense decomposition, for small operators.

Read `choice` first, which decides between a dense decomposition and a Krylov method. `matrix` computes the entries of
an operator; `symmetric`, `general` and `singular` are the solves behind `eigsh`, `eigs` and `svds`. JAX differentiates
them through the decompositions of `eigenjax.dense`.

Imports `vectors`, `operators`, `dense`, `krylov` and the other folders of `solvers`.
"""
