"""Text form of results: short, with the numbers of the pairs, and never an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eigenjax
from eigenjax import EigenResult, SingularResult, Status


def pairs(k=3, lanes=()):
    rng = np.random.default_rng(4)
    vectors = {name: jnp.asarray(rng.standard_normal((*lanes, k, 70)), jnp.float32) for name in ("kernel", "bias")}
    values = jnp.broadcast_to(jnp.arange(k, 0, -1, dtype=jnp.float32), (*lanes, k))
    residuals = jnp.full((*lanes, k), 2.5e-5)
    status, count = jnp.full(lanes, Status.STAGNATED, jnp.int32), jnp.full(lanes, 17, jnp.int32)
    return EigenResult(values, vectors, residuals, values > 1, status, count)


def test_the_repr_holds_shapes_and_no_arrays():
    text = repr(pairs())
    assert text == (
        "EigenResult(eigenvalues=float32[3], eigenvectors={'bias': float32[3,70], 'kernel': float32[3,70]}, "
        "residuals=float32[3], converged=bool[3], status=2, num_matvecs=17)"
    )
    many = pairs()._replace(eigenvectors={f"layer {i}": jnp.ones((3, 2)) for i in range(40)})
    assert "<40 leaves, 240 numbers>" in repr(many)


def test_a_table_has_a_row_for_each_pair_with_status_and_matvecs():
    lines = str(pairs()).split("\n")
    assert lines[0] == "EigenResult: status STAGNATED, num_matvecs 17"
    assert lines[1].split() == ["#", "eigenvalue", "residual", "converged"]
    assert [line.split() for line in lines[2:]] == [
        ["0", "3", "2.5e-05", "yes"],
        ["1", "2", "2.5e-05", "yes"],
        ["2", "1", "2.5e-05", "no"],
    ]
    assert "error bound" in str(pairs()._replace(error_bounds=jnp.zeros(3)))


def test_of_many_pairs_and_of_a_batch_the_first_are_shown():
    text = str(pairs(k=1000))
    assert text.count("\n") < 30
    assert "... and 980 more" in text
    batch = str(pairs(lanes=(7,)))
    assert batch.startswith("EigenResult: a batch of shape (7,)\nmember 0: status STAGNATED")
    assert batch.endswith("... and 4 more")
    assert "more" not in str(pairs(lanes=(2,)))


def test_complex_values_singular_values_and_unknown_codes_are_shown():
    complex_pairs = pairs(k=1)._replace(eigenvalues=jnp.array([1 - 2j]), status=jnp.int32(77))
    assert "status 77" in str(complex_pairs)
    assert "1-2j" in str(complex_pairs)
    triplets = SingularResult(jnp.ones((1, 5)), jnp.ones(1), jnp.ones((1, 4)), jnp.zeros(1), jnp.array([True]), 0, 9)
    assert "status CONVERGED, num_matvecs 9" in str(triplets)
    assert "left=float32[1,5]" in repr(triplets)
    assert "1.5" in str(pairs(k=1)._replace(eigenvalues=jnp.array([1.5], jnp.bfloat16)))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad, jax.eval_shape])
def test_under_a_transformation_the_shapes_are_shown(transform):
    texts = []

    def function(result):
        texts.extend([repr(result), str(result)])
        return jnp.sum(result.eigenvalues)

    result = pairs(lanes=(2,) if transform is jax.vmap else ())
    if transform is jax.eval_shape:
        jax.eval_shape(function, result)
    elif transform is jax.grad:
        jax.grad(lambda values: function(result._replace(eigenvalues=values)))(result.eigenvalues)
    else:
        transform(function)(result)
    assert all("eigenvalues=float32[3]" in text for text in texts)


@pytest.mark.parametrize(
    "leaf", [None, "text", jax.ShapeDtypeStruct((3,), jnp.float32), object(), 1.0, jax.random.key(0)]
)
def test_whatever_the_fields_hold_it_is_shown(leaf):
    result = EigenResult(*[leaf] * len(EigenResult._fields))
    assert repr(result).startswith("EigenResult(")
    assert str(result).startswith("EigenResult")
    partial = pairs()._replace(residuals=leaf, eigenvectors=leaf)
    assert "eigenvalue" in str(partial)


def test_a_deleted_array_is_shown_by_its_shape():
    result = pairs()
    result.eigenvalues.delete()
    assert "eigenvalues=float32[3]" in str(result)


@pytest.mark.slow
def test_other_results_are_short_too():
    op = jnp.diag(jnp.arange(1.0, 41.0))
    key = jax.random.key(0)
    assert repr(eigenjax.trace(op, key=key, num_matvecs=40)).startswith("TraceResult(estimate=820")
    density = eigenjax.spectral_density(op, key=key, num_probes=2, krylov_dim=5)
    assert "nodes=float32[2,5]" in repr(density)
    assert len(repr(eigenjax.matrix_function(op, jnp.exp, jnp.ones(40), krylov_dim=4))) < 200
    state = eigenjax.spectrum_tracker(2).init(
        op if isinstance(op, eigenjax.LinearOperator) else eigenjax.as_operator(op)
    )
    assert "rows=float32[3,40]" in repr(state)
    assert str(state).startswith("TrackerState")


def test_a_result_stays_a_tuple_and_a_pytree():
    result = pairs()
    assert isinstance(result, tuple)
    assert result[0] is result.eigenvalues
    assert jax.tree.structure(jax.tree.map(lambda x: x, result)) == jax.tree.structure(result)
