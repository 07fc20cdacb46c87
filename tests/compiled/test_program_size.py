"""Size of the programs of restarted solvers: what takes long to compile stands in them once."""

import jax
import jax.numpy as jnp
import pytest

from eigenjax import eigs, eigsh, svds

N, DIM = 200, 23
# Matvecs in the program: one in the expansion, and one where the result is verified; of `svds` with A and A^H.
MATVECS = {eigsh: 2, eigs: 2, svds: 4}
# Loops that orthogonalize against a basis: one for each basis, and one for start vectors outside of the expansion.
PASSES = {eigsh: 2, eigs: 2, svds: 2}


@pytest.fixture(params=MATVECS, ids=lambda solver: solver.__name__)
def program(request, operations):
    """Return a solver and the operations of its program for a callable; only the matvec computes a gamma function."""
    solver = request.param
    solve = lambda scale: solver(lambda v: jax.lax.lgamma(scale) * v, 4, like=jnp.zeros(N), krylov_dim=DIM)
    return solver, list(operations(jax.make_jaxpr(solve)(1.0).jaxpr))


def test_the_matvec_stands_in_the_expansion_and_in_the_verification(program):
    solver, operations = program
    assert sum(op.primitive.name == "lgamma" for op in operations) == MATVECS[solver]


def test_the_matvec_is_in_no_conditional(program, operations):
    # XLA moves what a matvec computes alike at each step out of loops, but not out of the branches of a conditional.
    branches = [branch for op in program[1] if op.primitive.name == "cond" for branch in op.params["branches"]]
    inside = [op for branch in branches for op in operations(branch.jaxpr)]
    assert not any(op.primitive.name == "lgamma" for op in inside)


def test_gram_schmidt_stands_where_it_has_to(program):
    solver, found = program
    bodies = [op.params["body_jaxpr"].jaxpr.eqns for op in found if op.primitive.name == "while"]
    # A pass reads the basis, and may draw a random vector in a loop of its own.
    reads = lambda op: op.primitive.name == "dot_general" and op.invars[0].aval.shape == (DIM, N)
    passes = [body for body in bodies if any(map(reads, body)) and any(op.primitive.name == "while" for op in body)]
    assert len(passes) == PASSES[solver]
