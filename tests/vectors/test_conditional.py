"""Conditional computation: work is done only if it is needed."""

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.vectors.conditional import apply_when


def test_the_function_is_applied_where_the_predicate_holds_and_only_there():
    calls = []

    def double(x):
        jax.debug.callback(lambda: calls.append(1))
        return 2 * x

    apply = jax.jit(lambda predicate, x: apply_when(predicate, double, x))
    assert float(apply(True, 3.0)) == 6
    assert float(apply(False, 3.0)) == 3
    jax.effects_barrier()
    assert len(calls) == 1


def test_a_batch_that_needs_nothing_does_nothing():
    calls = []

    def double(x):
        jax.debug.callback(lambda: calls.append(1))
        return 2 * x

    apply = jax.jit(jax.vmap(lambda predicate, x: apply_when(predicate, double, x)))
    np.testing.assert_array_equal(apply(jnp.zeros(3, bool), jnp.ones(3)), [1, 1, 1])
    jax.effects_barrier()
    assert not calls
    np.testing.assert_array_equal(apply(jnp.array([True, False, True]), jnp.ones(3)), [2, 1, 2])


def test_a_pytree_goes_through():
    found = apply_when(jnp.asarray(True), lambda x: {"a": x["a"] + 1, "b": x["b"]}, {"a": jnp.zeros(2), "b": 1.0})
    np.testing.assert_array_equal(found["a"], [1, 1])
