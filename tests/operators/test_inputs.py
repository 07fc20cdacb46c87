"""Matrices and operators of all supported kinds, through every entry point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from jax.experimental import sparse
from numpy.testing import assert_allclose

import eigenjax
from eigenjax import as_operator, diagonal, eigs, eigsh, hessian, jacobian, lanczos, svds, to_dense, trace

# A weighted graph of five vertices, with integer weights.
GRAPH = np.array([[0, 3, 0, 0, 1], [3, 0, 1, 0, 0], [0, 1, 0, 2, 0], [0, 0, 2, 0, 5], [1, 0, 0, 5, 0]])
TALL = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 0], [0, 0, 1]])
KEY = jax.random.key(0)
FORMATS = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")

MATRICES = {
    "integers": lambda a: a,
    "8 bits": lambda a: a.astype(np.int8),
    "unsigned": lambda a: a.astype(np.uint16),
    "lists": lambda a: a.tolist(),
    "matrix": np.matrix,
    "big endian": lambda a: a.astype(">f8"),
    "big endian integers": lambda a: a.astype(">i4"),
    "long doubles": lambda a: a.astype(np.longdouble),
    "Fortran order": lambda a: np.asfortranarray(a.astype(np.float32)),
    "a strided view": lambda a: np.repeat(a.astype(np.float32), 2, axis=1)[:, ::2],
    "BCOO": lambda a: sparse.BCOO.fromdense(jnp.asarray(a)),
    "BCSR": lambda a: sparse.BCSR.fromdense(jnp.asarray(a)),
    **{f"scipy {name} array": lambda a, name=name: sp.coo_array(a).asformat(name) for name in FORMATS},
    "scipy csr matrix": sp.csr_matrix,
    "scipy, entries twice": lambda a: sp.coo_array(
        (np.r_[sp.coo_array(a).data, 0 * sp.coo_array(a).data], np.tile(np.stack(sp.coo_array(a).coords), 2)), a.shape
    ),
    "scipy operator": lambda a: spl.aslinearoperator(a.astype(np.float32)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", MATRICES)
def test_every_kind_of_matrix(kind):
    with jax.numpy_dtype_promotion("standard"):
        square, tall = MATRICES[kind](GRAPH), MATRICES[kind](TALL)
        op = as_operator(square)
        assert jnp.issubdtype(op.dtype, jnp.floating)
        assert_allclose(to_dense(op), GRAPH)
        v, u = jnp.array([1.0, -2.0, 3.0]), jnp.array([1.0, 2.0, 0.0, -1.0])
        rectangular = eigenjax.operators.rectangular.as_rectangular(tall)
        assert_allclose(rectangular @ v, TALL @ v)
        assert_allclose(rectangular.H @ u, TALL.T @ u)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lists", "scipy csr array", "BCSR", "scipy operator"])
def test_solvers_take_them(kind):
    square, tall = MATRICES[kind](GRAPH), MATRICES[kind](TALL)
    values = np.linalg.eigvalsh(GRAPH)
    assert_allclose(eigsh(square, 2).eigenvalues, values[::-1][:2], rtol=1e-5)
    assert_allclose(lanczos(square, 1).eigenvalues, values[np.argmax(abs(values))], rtol=1e-5)
    assert_allclose(svds(tall, 2).values, np.linalg.svd(TALL, compute_uv=False)[:2], rtol=1e-5)
    assert_allclose(trace(square, key=KEY, num_matvecs=20).estimate, 0, atol=1e-4)


@pytest.mark.slow
def test_truth_values_and_complex_entries():
    is_edge = GRAPH > 0
    values = np.linalg.eigvalsh(is_edge.astype(float))
    places = jnp.argwhere(is_edge)
    coordinates = sparse.BCOO((jnp.ones(len(places), bool), places), shape=is_edge.shape)
    for matrix in (is_edge, sp.csr_array(is_edge), coordinates):
        assert_allclose(eigsh(matrix, 1, which="SA").eigenvalues, values[:1], rtol=1e-5)
    hermitian = np.array([[1, 2j], [-2j, 0]], np.complex64)
    assert_allclose(eigsh(sp.csc_array(hermitian), 2).eigenvalues, np.linalg.eigvalsh(hermitian)[::-1], rtol=1e-5)
    tall = np.array([[1j, 2], [0, 1], [1, 1j]], np.complex64)
    for matrix in (sp.csr_array(tall), spl.aslinearoperator(tall)):
        assert_allclose(svds(matrix, 1).values[0], np.linalg.norm(tall, 2), rtol=1e-5)


@pytest.mark.slow
def test_a_scipy_operator_is_called_on_the_host(rng):
    matrix = rng.normal(size=(6, 6)).astype(np.float32)
    op = spl.LinearOperator((6, 6), matvec=lambda v: matrix @ v, rmatvec=lambda v: matrix.T @ v, dtype=np.float32)
    assert_allclose(
        sorted(eigs(op, 6).eigenvalues, key=lambda z: (z.real, z.imag)),
        sorted(np.linalg.eigvals(matrix), key=lambda z: (z.real, z.imag)),
        rtol=1e-3,
    )
    vectors = jnp.asarray(rng.normal(size=(3, 6)).astype(np.float32))
    assert_allclose(jax.jit(jax.vmap(as_operator(op)))(vectors), vectors @ matrix.T, rtol=1e-5)
    assert_allclose(as_operator(op).T @ vectors[0], matrix.T @ vectors[0], rtol=1e-5)
    scaled = lambda s: eigsh(s * as_operator(spl.aslinearoperator(matrix + matrix.T)), 1).eigenvalues[0]
    assert_allclose(jax.grad(scaled)(2.0), scaled(1.0), rtol=1e-4)
    with pytest.raises(TypeError, match="multiplies on the host, where JAX cannot differentiate"):
        jax.grad(lambda v: jnp.sum(as_operator(op)(v)))(vectors[0])


@pytest.mark.slow
def test_lineax_and_equinox(rng):
    lineax, eqx = pytest.importorskip("lineax"), pytest.importorskip("equinox")
    matrix = jnp.asarray(rng.normal(size=(4, 4)).astype(np.float32))
    symmetric = matrix + matrix.T
    operators = (
        lineax.MatrixLinearOperator(symmetric),
        lineax.FunctionLinearOperator(lambda v: symmetric @ v, jax.ShapeDtypeStruct((4,), jnp.float32)),
        lineax.MatrixLinearOperator(matrix) + lineax.MatrixLinearOperator(matrix.T),
    )
    for op in operators:
        assert_allclose(eigsh(op, 2).eigenvalues, np.linalg.eigvalsh(symmetric)[::-1][:2], rtol=1e-4)
    tall = lineax.MatrixLinearOperator(matrix[:, :2])
    assert_allclose(svds(tall, 1).values[0], np.linalg.norm(matrix[:, :2], 2), rtol=1e-4)

    class Product(eqx.Module):
        matrix: jax.Array

        def __call__(self, v):
            return self.matrix @ v

    top = lambda matrix: eigsh(Product(matrix + matrix.T), 1, like=jnp.zeros(4)).eigenvalues[0]
    assert_allclose(top(matrix), np.linalg.eigvalsh(symmetric)[-1], rtol=1e-4)
    x = np.linalg.eigh(symmetric)[1][:, -1]
    assert_allclose(jax.grad(top)(matrix), 2 * np.outer(x, x), atol=1e-3)
    network = eqx.nn.MLP(2, 1, 3, 1, key=KEY)
    loss = lambda model, x: jnp.mean(jax.vmap(model)(x) ** 2)
    assert hessian(loss, network, jnp.ones((5, 2))).size == 13


@pytest.mark.slow
def test_start_vectors_that_are_lists_and_counts_of_numpy():
    result = eigsh(lambda v: jnp.array([3.0, 1.0, 2.0]) * v, np.int64(1), v0=[1, 1, 1], krylov_dim=np.int32(3))
    assert_allclose(result.eigenvalues, [3], rtol=5e-7)  # four eps
    largest = np.abs(np.linalg.eigvalsh(GRAPH)).max()
    assert_allclose(abs(eigs(GRAPH, np.int8(1), v0=[1.0, 0, 0, 0, 0]).eigenvalues), largest, rtol=1e-4)
    assert_allclose(eigsh(GRAPH, 1, v0=np.ones(5, ">f4")).eigenvalues, np.linalg.eigvalsh(GRAPH)[-1:], rtol=1e-5)


@pytest.mark.slow
def test_counts_of_numpy_in_other_functions():
    two = np.int64(2)
    op = as_operator(GRAPH)
    density = eigenjax.spectral_density(op, key=KEY, num_probes=two, krylov_dim=np.int8(100), probe_batch=two)
    assert density.nodes.shape == (2, 5)
    assert eigenjax.trace(op, key=KEY, num_matvecs=np.uint8(9), probe_batch=np.int16(1)).num_matvecs == 5
    assert eigenjax.run(op, two, progress=False, krylov_dim=np.int32(5)).eigenvalues.shape == (2,)
    assert eigenjax.estimate(op, two, block_size=np.int32(1)).num_matvecs[0] == 4
    assert eigenjax.spectral_norm(op, num_steps=two).value > 5
    assert eigenjax.spectrum_tracker(two, every=two).init(op, KEY).eigenvalues.shape == (2,)
    with pytest.raises(TypeError, match="num_matvecs=True"):
        eigenjax.trace(op, key=KEY, num_matvecs=True)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: as_operator([[1, 2], [3]]), ValueError, "rows of equal length"),
        (lambda: as_operator([["a", "b"], ["c", "d"]]), TypeError, "holds text"),
        (lambda: as_operator(np.array([["a", "b"], ["c", "d"]])), TypeError, "give numbers"),
        (lambda: as_operator(np.array([[object()]])), TypeError, "give numbers"),
        (lambda: as_operator(sp.csr_array(TALL)), ValueError, r"square matrix .*\(4, 3\)"),
        (lambda: as_operator(spl.aslinearoperator(TALL.astype(float))), ValueError, "svds takes it"),
        (lambda: as_operator(jacobian(lambda p, x: x * p, 1.0, jnp.ones(3))), TypeError, "rectangular map: use svds"),
        (lambda: as_operator(lambda v: 1j * v.astype(complex), like=jnp.ones(2)), TypeError, "pass a complex v0"),
        (lambda: eigsh(GRAPH, True), TypeError, "k=True"),
        (lambda: eigsh(GRAPH, 1, krylov_dim=5.0), TypeError, "krylov_dim=5.0"),
        (lambda: as_operator("matrix"), TypeError, "got str"),
        (lambda: svds(spl.LinearOperator((3, 3), matvec=lambda v: v, dtype=float), 1), TypeError, "has no rmatvec"),
        (lambda: as_operator(np.zeros((0, 0))), ValueError, "n > 0"),
        (lambda: as_operator(lambda v: v, like="vector"), TypeError, "like is no array of numbers"),
        (lambda: eigenjax.diagonal_operator("ones"), TypeError, "is no array of numbers"),
        (lambda: eigenjax.precondition(GRAPH, "ones"), TypeError, "diagonal is no array of numbers"),
    ],
)
def test_what_is_no_operator_is_reported(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_algebra_of_adjoints(rng):
    parts = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3, 3))
    a, b = (jnp.asarray((x + 1j * y).astype(np.complex64)) for x, y in zip(*parts, strict=True))
    op = (2 - 1j) * as_operator(a) + as_operator(lambda v: b @ v, like=a[0]).shift(1j)
    dense = (2 - 1j) * a + b - 1j * np.eye(3)
    v = a[1]
    assert_allclose(op @ v, dense @ v, rtol=1e-5)
    assert_allclose(op.H @ v, dense.conj().T @ v, rtol=1e-5)
    assert_allclose(op.T @ v, dense.T @ v, rtol=1e-5)
    assert_allclose(op.T.H @ v, dense.conj() @ v, rtol=1e-5)
    assert op.shape == (3, 3)
    rows = eigenjax.operators.rectangular.as_rectangular(a[:2])
    u = v[:2]
    assert_allclose(rows @ v, a[:2] @ v, rtol=1e-5)
    assert_allclose(rows.T @ u, a[:2].T @ u, rtol=1e-5)
    assert_allclose(rows.H @ u, a[:2].conj().T @ u, rtol=1e-5)
    assert_allclose(rows.T.H @ v, a[:2].conj() @ v, rtol=1e-5)


def test_hessians_are_their_own_adjoints():
    op = hessian(lambda p: p[0] ** 2 * p[1], jnp.array([1.0, 2.0]))
    assert_allclose(op.T @ jnp.array([1.0, 0.0]), [4.0, 2.0])


def test_representations_are_short(rng):
    data = jnp.asarray(rng.normal(size=(300, 50)).astype(np.float32))
    params = {"kernel": jnp.ones((50, 2)), "bias": jnp.ones(2)}
    model = lambda p, x: x @ p["kernel"] + p["bias"][None]

    def squares(p, batch):
        return jnp.mean(model(p, batch) ** 2)

    op = hessian(squares, params, data, batch_size=100)
    labels = jnp.zeros(300, jnp.int32)
    everything = [
        op,
        2 * op - op.shift(1.0),
        op.T,
        eigenjax.restrict(2.0 * as_operator(op.mv, like=params), "bias"),
        eigenjax.gauss_newton(model, eigenjax.softmax_cross_entropy, params, (data, labels)),
        eigenjax.fisher(model, params, (data, labels), kind="empirical"),
        jacobian(model, params, data),
        eigenjax.neural_tangent_kernel(model, params, data),
        as_operator(data.T @ data),
        as_operator(sp.csr_array(GRAPH)),
        as_operator(spl.aslinearoperator(GRAPH)),
        eigenjax.precondition(op, params),
        eigenjax.diagonal_operator(params),
        eigenjax.operators.rectangular.as_rectangular(data).T,
    ]
    for one in everything:
        assert type(one).__name__ in repr(one)
        assert "shape=" in repr(one)
        assert len(repr(one)) < 250
    for word in ("HessianOperator", "(102, 102)", "float32", "kernel (50, 2)", "squares", "batch_size=100"):
        assert word in repr(op)
    assert "softmax_cross_entropy" in repr(everything[4])
    # A pytree of the same structure without arrays has a repr too.
    assert repr(jax.tree.map(lambda _: None, op)).startswith("HessianOperator(")


@pytest.mark.slow
def test_checks_and_functions_take_them():
    matrix = GRAPH.astype(np.float32)
    assert eigenjax.check_operator(spl.aslinearoperator(matrix), KEY).asymmetry < 1e-5
    found = eigenjax.matrix_function(sp.csr_array(matrix), jnp.square, [1, 0, 0, 2, 0])
    assert_allclose(found.vector, GRAPH @ GRAPH @ [1, 0, 0, 2, 0], rtol=1e-4, atol=1e-4)


def test_diagonals_of_sparse_matrices_of_integers():
    exact = diagonal(sp.csr_array(GRAPH + np.diag([1, 2, 3, 4, 5])), key=KEY, num_matvecs=100)
    assert_allclose(exact.estimate, [1, 2, 3, 4, 5], atol=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, sp.csr_array])
def test_integers_of_more_than_32_bits_are_not_cut(kind):
    wide = np.array([[3 * 2**40, 2**41], [2**41, -7]], np.int64)
    assert not jax.config.jax_enable_x64
    assert_allclose(eigsh(kind(wide), k=2).eigenvalues, np.linalg.eigvalsh(wide.astype(float))[::-1], rtol=1e-5)
