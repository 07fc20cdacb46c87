"""Full precision of the library's own contractions: GPU and TPU defaults make errors of 1e-3 in Ritz values."""

import functools

import jax
import jax.numpy as jnp
import pytest

import eigenjax

N = 30
KEY = {"key": jax.random.key(0)}
diagonal = jnp.linspace(1.0, 2.0, N)


def times(diagonal, vector):
    """Multiply elementwise, without any contraction."""
    return diagonal * vector


def of_eigenpairs(solver, **options):
    """Return a loss of eigenvalues and eigenvectors of a diagonal matrix."""

    def loss(values):
        found = solver(lambda v: times(values, v), k=2, v0=jnp.ones(N), **options)
        vectors = found.right if hasattr(found, "right") else found.eigenvectors
        numbers = found.values if hasattr(found, "values") else found.eigenvalues
        return jnp.sum(jnp.abs(vectors) ** 4) + jnp.sum(jnp.abs(numbers))

    return loss


def of_estimate(estimator, **options):
    """Return a function from the diagonal of a matrix to the estimate of an estimator."""
    op = lambda values: eigenjax.diagonal_operator(values)
    return lambda values: estimator(op(values), **KEY, **options).estimate


SMALL = {"krylov_dim": 10}
LOSSES = {
    "eigsh": of_eigenpairs(eigenjax.eigsh, **SMALL),
    "eigsh, block": of_eigenpairs(eigenjax.eigsh, block_size=2, **SMALL),
    "eigsh, sigma": of_eigenpairs(eigenjax.eigsh, sigma=1.5, **SMALL),
    "eigsh, BE": of_eigenpairs(eigenjax.eigsh, which="BE", **SMALL),
    "eigsh, recompute": of_eigenpairs(eigenjax.eigsh, basis="recompute"),
    "eigsh, float16": of_eigenpairs(eigenjax.eigsh, basis_dtype="float16", **SMALL),
    "eigsh, preconditioner": of_eigenpairs(eigenjax.eigsh, which="SA", preconditioner=lambda v: v),
    "lanczos": of_eigenpairs(eigenjax.lanczos, **SMALL),
    "power iteration": of_eigenpairs(eigenjax.deflated_power_iteration),
    "eigs": of_eigenpairs(eigenjax.eigs, **SMALL),
    "svds": of_eigenpairs(eigenjax.svds, **SMALL),
    "trace": of_estimate(eigenjax.trace, num_matvecs=9),
    "hutch++": of_estimate(eigenjax.trace, num_matvecs=9, method="hutch++"),
    "diagonal": lambda values: jnp.sum(of_estimate(eigenjax.diagonal, num_matvecs=9)(values)),
    "logdet": of_estimate(eigenjax.logdet, num_probes=2, krylov_dim=5),
    "frobenius_norm": of_estimate(eigenjax.frobenius_norm, num_matvecs=5),
}
DENSE = {
    "eigh": lambda a: jnp.sum(eigenjax.eigh(a)[1] ** 4),
    "eig": lambda a: jnp.sum(jnp.abs(eigenjax.eig(a)[1]) ** 4),
    "svd": lambda a: jnp.sum(eigenjax.svd(a)[0] ** 4),
}


def imprecise(operations, function, *arguments):
    """Count the contractions of a program, and list those that are not in full precision."""
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    found = [equation for equation in operations(program) if equation.primitive.name == "dot_general"]
    return len(found), [
        str(equation.source_info.traceback) for equation in found if equation.params["precision"] != highest
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_products_of_our_own_are_in_full_precision(name, operations):
    # The loops of logdet have no derivative.
    function = LOSSES[name] if name == "logdet" else jax.value_and_grad(LOSSES[name])
    count, wrong = imprecise(operations, function, diagonal)
    assert count > 0 or name == "power iteration"
    assert not wrong, wrong[0]


@pytest.mark.parametrize("name", DENSE)
def test_products_of_dense_functions_are_in_full_precision(name, operations):
    count, wrong = imprecise(operations, jax.value_and_grad(DENSE[name]), jnp.diag(diagonal[:4]))
    assert count > 0
    assert not wrong, wrong[0]


def test_a_product_at_the_default_precision_is_found(operations):
    plain = functools.partial(jnp.matmul, jnp.ones((2, 2)))
    assert len(imprecise(operations, jax.jit(plain), jnp.ones((2, 2)))[1]) == 1
