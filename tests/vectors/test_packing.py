"""Packed vectors: the same numbers as apart, fewer operations, and none where leaves are on several devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from eigenjax import as_operator, eigs, eigsh, hessian, svds
from eigenjax.operators.packed import PackedMap, PackedOperator, packed_map, packed_operator
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.vectors.packing import packing_of
from eigenjax.vectors.placement import placed_like, spans_devices
from eigenjax.vectors.pseudorandom import arbitrary_vector

LEAVES = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((), jnp.bfloat16), "c": jnp.zeros((0, 4)), "d": jnp.zeros(5)}


@pytest.mark.parametrize("leading", [(), (4,)])
def test_unpacking_undoes_packing(leading, rng):
    vector = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=(*leading, *x.shape)), x.dtype), LEAVES)
    packing = packing_of(LEAVES)
    packed = packing.pack(vector)
    assert [x.shape for x in packed] == [(*leading, 11), (*leading, 1)]
    assert [x.dtype for x in packed] == [jnp.float32, jnp.bfloat16]
    jax.tree.map(assert_array_equal, packing.unpack(packed), vector)
    assert_array_equal(packed[0][..., :6], np.asarray(vector["a"]).reshape(*leading, 6))


def test_the_transpose_of_unpacking_is_one_concatenation():
    packing = packing_of({"a": jnp.zeros((2, 3)), "b": jnp.zeros(5)})
    example = jnp.zeros(11)
    pulled = lambda bars: jax.linear_transpose(packing.unpack, example)(bars)[0]
    program = str(jax.make_jaxpr(pulled)({"a": jnp.zeros((2, 3)), "b": jnp.zeros(5)}))
    assert "concatenate" in program
    assert "pad" not in program


def many_leaves(seed=0):
    generator = np.random.default_rng(seed)
    leaf = lambda i: jnp.asarray(generator.normal(size=(2, 3) if i % 2 else 5), jnp.float16 if i == 8 else jnp.float32)
    return {str(i): leaf(i) for i in range(9)}


def test_many_leaves_are_unpacked_at_hidden_places():
    vector = many_leaves()
    packing = packing_of(vector)
    packed = packing.pack(vector)
    assert "dynamic_slice" in str(jax.make_jaxpr(packing.unpack)(packed))
    jax.tree.map(assert_array_equal, packing.unpack(packed), vector)
    jax.tree.map(assert_array_equal, jax.jit(packing.unpack)(packed), vector)
    twice = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), packed)
    for unpack in (packing.unpack, jax.vmap(packing.unpack)):
        jax.tree.map(lambda x, y: assert_array_equal(x, [y, 2 * y]), unpack(twice), vector)


def test_unpacking_many_leaves_is_differentiable():
    vector, other = many_leaves(), many_leaves(1)
    packing = packing_of(vector)
    packed, tangent = packing.pack(vector), packing.pack(other)
    jax.tree.map(assert_array_equal, jax.jvp(packing.unpack, (packed,), (tangent,))[1], other)
    pulled = lambda bars: jax.vjp(packing.unpack, packed)[1](bars)[0]
    jax.tree.map(assert_array_equal, pulled(other), tangent)
    assert "concatenate" in str(jax.make_jaxpr(pulled)(other))
    assert "pad" not in str(jax.make_jaxpr(pulled)(other))


def test_equal_leaves_share_a_kernel():
    # A kernel takes long to compile, and equal ones are compiled once.
    def kernels(count):
        packing = packing_of({str(i): jnp.zeros((2, 3)) for i in range(count)})
        double = lambda packed: jax.tree.map(lambda x: 2 * x, packing.unpack(packed))
        program = jax.jit(double).lower(jnp.zeros(6 * count)).compile().as_text()
        bodies = re.findall(r"^%\S*fused\S* [^\n]*\{\n(.*?)^\}", program, re.M | re.S)
        return len(bodies), len({re.sub(r"%[\w.-]+|metadata=\{[^}]*\}", "", body) for body in bodies})

    assert kernels(20)[0] >= 20
    assert kernels(20)[1] <= 3


def test_a_flat_vector_is_packed_already():
    assert packing_of(jnp.zeros(3)) is None
    assert packing_of({"a": jnp.zeros(3)}) is not None
    assert packing_of(jnp.zeros((3, 1))) is not None


def test_random_numbers_do_not_depend_on_the_packing():
    key = jax.random.key(7)
    structure = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), LEAVES)
    # One dtype, as in the working precision, and two.
    for like in (structure, LEAVES):
        packing = packing_of(like)
        apart, whole = arbitrary_vector(key, like), arbitrary_vector(key, packing.structure)
        jax.tree.map(assert_array_equal, packing.pack(apart), whole)


def meshes():
    return [jax.make_mesh((8,), ("x",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit)]


@pytest.mark.parametrize("mesh", meshes(), ids=["auto", "explicit"])
def test_leaves_on_a_mesh_stay_apart(mesh):
    loss = lambda p: jnp.sum(jnp.sin(p["a"])) + jnp.sum(p["b"] ** 3)
    params = {"a": jnp.ones(16), "b": jnp.ones((8, 2))}
    on_mesh = jax.device_put(params, NamedSharding(mesh, PartitionSpec("x")))
    found = []

    @jax.jit
    def note(p):
        found.append(type(packed_operator(hessian(loss, p))))
        return p

    note(params)
    note(on_mesh)
    assert found[0] is PackedOperator
    assert found[1] is not PackedOperator
    assert spans_devices(on_mesh)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_one_device(kind):
    # Arrays on an Explicit mesh cannot be reshaped across a sharded axis, however few devices it has.
    mesh = jax.make_mesh((1,), ("x",), axis_types=(kind,))
    params = jax.device_put({"a": jnp.ones((4, 2))}, NamedSharding(mesh, PartitionSpec("x")))
    assert spans_devices(params) == (kind == AxisType.Explicit)
    result = jax.jit(lambda p: eigsh(hessian(lambda p: jnp.sum(p["a"] ** 3), p), 1))(params)
    np.testing.assert_allclose(result.eigenvalues, 6, rtol=1e-6)


def test_one_array_on_several_devices_among_numbers_is_enough():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    array = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, PartitionSpec("x")))
    assert spans_devices([1.0, np.ones(2), array])
    assert not spans_devices([1.0, np.ones(2), jnp.ones(2)])


def test_an_operator_without_arrays_is_packed_unless_its_vectors_are_on_several_devices():
    like = {"a": jnp.ones((16, 2)), "b": jnp.ones(8)}
    auto, explicit = (jax.device_put(like, NamedSharding(mesh, PartitionSpec("x"))) for mesh in meshes())
    operator = lambda like: as_operator(lambda v: v, like=like)
    assert isinstance(packed_operator(operator(like)), PackedOperator)
    assert not isinstance(packed_operator(operator(like), auto), PackedOperator)
    # The structure of its vectors contains the sharding.
    assert not isinstance(packed_operator(operator(explicit)), PackedOperator)
    assert not isinstance(packed_map(as_rectangular(lambda v: v, like=explicit)), PackedMap)


def test_a_map_is_packed_on_both_sides():
    op = as_rectangular(
        lambda v: {"sum": v["a"].sum(axis=1), "b": 2 * v["b"]}, like={"a": jnp.ones((3, 2)), "b": jnp.ones(4)}
    )
    whole = packed_map(op)
    assert isinstance(whole, PackedMap)
    assert (whole.domain.shape, whole.codomain.shape) == ((10,), (7,))
    assert_array_equal(whole.mv(jnp.arange(10.0)), [12, 14, 16, 18, 1, 5, 9])
    assert_array_equal(whole.adjoint_mv(jnp.arange(7.0)), [4, 4, 5, 5, 6, 6, 0, 2, 4, 6])


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "num_matvecs"), [(eigsh, 2), (eigs, 2), (svds, 4)])
def test_the_number_of_leaves_does_not_change_the_solver(solver, num_matvecs, operations):
    def count(leaves):
        like = {str(i): jnp.zeros((2, 24 // leaves)) for i in range(leaves)}
        # Only the matvec has an operation for each leaf.
        program = jax.make_jaxpr(lambda: solver(lambda v: v, 2, like=like, krylov_dim=8))()
        return len(list(operations(program.jaxpr)))

    few, many = count(2), count(12)
    # A slice, its place, a write and reshapes for each leaf, wherever the matvec stands in the program.
    assert many - few <= 6 * num_matvecs * 10


def test_the_types_tell_the_devices_of_a_program_compiled_elsewhere(monkeypatch):
    # A program for a pod is compiled by a process of one device.
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params = jnp.ones(16)
    on_mesh = jax.device_put(params, NamedSharding(mesh, PartitionSpec("x")))
    program = lambda like: str(jax.make_jaxpr(lambda like: placed_like(jnp.zeros(16), like))(like))
    assert "select_n" in program(on_mesh)
    assert "select_n" not in program(params)
