"""Choice between a dense decomposition and a Krylov method, and the size of the programs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from eigenjax import as_operator, eigs, eigsh, svds

pytestmark = pytest.mark.usefixtures("dense_by_default")
KRYLOV = [
    (eigsh, {"krylov_dim": 20}),
    (eigsh, {"max_matvecs": 500}),
    (eigsh, {"block_size": 2}),
    (eigsh, {"basis_dtype": "bfloat16"}),
    (eigsh, {"max_basis_bytes": 10_000}),
    (eigsh, {"basis": "recompute"}),
    (eigsh, {"dense": False}),
    (eigs, {"krylov_dim": 20}),
    (eigs, {"max_matvecs": 500}),
    (eigs, {"dense": False}),
    (svds, {"krylov_dim": 20}),
    (svds, {"max_matvecs": 500}),
    (svds, {"dense": False}),
]


@pytest.fixture
def is_dense(operations):
    """Return a function that tells whether the program of a solve decomposes the matrix, without a Krylov space."""

    def tell(solver, op, **options):
        program = jax.make_jaxpr(lambda op: solver(op, 3, **options))(op)
        names = [equation.primitive.name for equation in operations(program.jaxpr)]
        # Krylov methods have loops that end by data; some of them decompose a small projected matrix.
        decomposes = {eigsh: "eigh", eigs: "eig", svds: "svd"}[solver] in names
        assert decomposes or "while" in names
        return "while" not in names

    return tell


@pytest.mark.parametrize("solver", [eigsh, eigs, svds])
def test_small_matrices_are_decomposed_and_large_ones_are_not(solver, is_dense):
    assert is_dense(solver, jnp.eye(30))
    largest = 500 if solver is eigs else 300
    assert is_dense(solver, jnp.eye(largest))
    assert not is_dense(solver, jnp.eye(largest + 1))
    assert is_dense(solver, jnp.eye(largest + 1), dense=True)


def test_a_tpu_decomposes_what_compiles_in_seconds(is_dense, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert is_dense(eigsh, jnp.eye(256))
    assert not is_dense(eigsh, jnp.eye(257))
    assert not is_dense(svds, jnp.eye(257))
    assert not is_dense(eigs, jnp.eye(5))  # no general eigensolver


def test_tall_matrices_by_their_cost(is_dense):
    assert is_dense(svds, jnp.ones((5000, 30)))
    assert is_dense(svds, jnp.ones((30, 5000)))
    assert not is_dense(svds, jnp.ones((5000, 80)))
    assert is_dense(svds, jnp.ones((100_000, 20)))  # no more columns than a Krylov basis has vectors


@pytest.mark.parametrize("solver", [eigsh, eigs, svds])
def test_a_function_is_decomposed_if_a_krylov_basis_would_fill_the_space(solver, is_dense):
    function = lambda n: as_operator(lambda v: jnp.cumsum(v), like=jnp.zeros(n))
    assert is_dense(solver, function(20))
    assert not is_dense(solver, function(21))
    assert is_dense(solver, function(21), dense=True)


def test_interior_eigenvalues_have_a_larger_basis(is_dense):
    function = as_operator(lambda v: 2 * v, like=jnp.zeros(60))
    assert is_dense(eigsh, function, sigma=1.0)
    assert not is_dense(eigsh, function)


@pytest.mark.parametrize(("solver", "options"), KRYLOV, ids=lambda x: getattr(x, "__name__", None) or next(iter(x)))
def test_options_of_a_krylov_method_ask_for_it(solver, options, is_dense):
    assert not is_dense(solver, jnp.eye(60), **options)
    if "dense" not in options:
        with pytest.raises(ValueError, match=f"{solver.__name__}.*{next(iter(options))}.*dense=True"):
            solver(jnp.eye(60), 3, dense=True, **options)


def test_a_preconditioner_asks_for_lobpcg(is_dense):
    with pytest.raises(ValueError, match=r"eigsh.*preconditioner.*dense=True"):
        eigsh(jnp.eye(60), 3, preconditioner=jnp.eye(60), dense=True)
    assert not is_dense(eigsh, jnp.eye(60), preconditioner=jnp.eye(60))


@pytest.mark.parametrize("solver", [eigsh, eigs, svds])
@pytest.mark.parametrize("value", ["yes", 1, 0.0])
def test_the_option_is_true_false_or_none(solver, value):
    with pytest.raises(TypeError, match=f"{solver.__name__}.*dense={value!r}.*True, False, or None"):
        solver(jnp.eye(5), 2, dense=value)


@pytest.mark.parametrize("solver", [eigsh, eigs, svds])
def test_bad_arguments_raise_errors_that_name_them(solver):
    for k in (0, 31, "3", True):
        with pytest.raises((ValueError, TypeError), match=rf"{solver.__name__}.*k={re.escape(repr(k))}"):
            solver(jnp.eye(30), k)
    with pytest.raises(ValueError, match=rf"{solver.__name__}.*v0.*\(4,\)"):
        solver(jnp.eye(30), 2, v0=jnp.ones(4))
    if solver is not svds:
        with pytest.raises(ValueError, match=f"{solver.__name__}.*which"):
            solver(jnp.eye(30), 2, which="XX")


@pytest.mark.parametrize("dense", [None, True, False])
@pytest.mark.parametrize("solver", [eigsh, eigs, svds])
def test_real_and_complex_leaves_at_once_have_no_matrix(solver, dense):
    identity = as_operator(lambda v: v, like=(jnp.zeros(3), jnp.zeros(3, complex)))
    with pytest.raises(TypeError, match=f"{solver.__name__}.*real and complex leaves at once.*make all leaves complex"):
        solver(identity, 2, dense=dense)


def test_a_matrix_on_several_devices_stays_where_it_is():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    matrix = jax.device_put(jnp.eye(64), jax.NamedSharding(mesh, P("x", None)))
    assert int(eigsh(matrix, 2).num_matvecs) > 2
    np.testing.assert_allclose(eigsh(matrix, 2, dense=True).eigenvalues, 1, rtol=1e-6)


def test_programs_can_be_exported_for_every_platform():
    described = jax.ShapeDtypeStruct((40, 40), jnp.float32)
    for solver in (eigsh, svds):
        exported = jax.export.export(jax.jit(lambda a, f=solver: f(a, 3)), platforms=["cpu", "cuda", "tpu"])(described)
        assert len(exported.platforms) == 3


def test_a_batch_of_matrices_is_one_decomposition(operations):
    program = jax.make_jaxpr(jax.vmap(lambda a: eigsh(a, 3)))(jnp.zeros((512, 64, 64)))
    names = [equation.primitive.name for equation in operations(program.jaxpr)]
    assert names.count("eigh") == 1
    assert not {"while", "scan", "cond"} & set(names)


def test_the_number_of_matvecs_is_the_number_made(float64):
    calls = []

    def multiply(v):
        jax.debug.callback(lambda _: calls.append(1), v)
        return jnp.arange(1.0, 11.0) * v

    for solver, number in ((eigsh, 10), (eigs, 10), (svds, 13)):
        calls.clear()
        options = {"adjoint": multiply} if solver is svds else {}
        result = solver(multiply, 3, v0=jnp.ones(10), **options)
        jax.block_until_ready(result)
        jax.effects_barrier()
        assert int(result.num_matvecs) == len(calls) == number
