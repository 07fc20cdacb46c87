"""Products of sparse matrices in padded rows, against SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse

from eigenjax import as_operator, eigs, eigsh, svds
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.operators.sparse.layout import arranged
from eigenjax.operators.sparse.padded import SparseMatrix

SIZE = 700


def stencil(m=30):
    line = sp.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    return (sp.kron(line, sp.eye_array(m)) + sp.kron(sp.eye_array(m), line)).tocsr()


def random(shape=(SIZE, SIZE), density=0.01, seed=0):
    return sp.random_array(shape, density=density, rng=np.random.default_rng(seed)).tocsr()


def power_law():
    """Return a matrix with rows of 0 to 500 entries."""
    rng = np.random.default_rng(1)
    lengths = np.minimum((SIZE / (1 + np.arange(SIZE))).astype(int) * 3, 500)
    rows = np.repeat(rng.permutation(SIZE), lengths)
    return sp.csr_array((rng.standard_normal(len(rows)), (rows, rng.integers(0, SIZE, len(rows)))), (SIZE, SIZE))


MATRICES = {
    "stencil": stencil(),
    "random": random(),
    "power law": power_law(),
    "wide": random((40, SIZE)),
    "tall": random((SIZE, 40)),
    "one entry": sp.csr_array(([3.0], ([5], [600])), (SIZE, SIZE)),
    "one full row": sp.csr_array((np.ones(SIZE), (np.zeros(SIZE, int), np.arange(SIZE))), (SIZE, SIZE)),
}
FORMATS = {
    "csr": lambda a: a.tocsr(),
    "coo": lambda a: a.tocoo(),
    "csc matrix": sp.csc_matrix,
    "BCOO": lambda a: sparse.BCOO.from_scipy_sparse(a.tocoo()),
    "BCSR": lambda a: sparse.BCSR.from_scipy_sparse(a.tocsr()),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", MATRICES)
def test_products_and_adjoint_products(name, kind, rng, float64):
    matrix = MATRICES[name]
    op = as_rectangular(FORMATS[kind](matrix))
    assert isinstance(op.matrix, SparseMatrix)
    x, y = rng.standard_normal(matrix.shape[1]), rng.standard_normal(matrix.shape[0])
    np.testing.assert_allclose(op @ jnp.asarray(x), matrix @ x, atol=1e-12)
    np.testing.assert_allclose(op.H @ jnp.asarray(y), matrix.T @ y, atol=1e-12)
    np.testing.assert_allclose(op.matrix.todense(), matrix.todense(), atol=1e-15)


def test_products_of_every_dtype(scalar, rng, normal):
    matrix = random()
    matrix = sp.csr_array((normal(rng, matrix.nnz, scalar), matrix.indices, matrix.indptr), matrix.shape)
    op = as_operator(matrix)
    x = normal(rng, SIZE, scalar)
    eps = np.finfo(scalar).eps
    wide = matrix.astype(np.complex128)
    np.testing.assert_allclose(op(jnp.asarray(x)), wide @ x, atol=50 * eps)
    np.testing.assert_allclose(op.H(jnp.asarray(x)), wide.conj().T @ x, atol=50 * eps)
    np.testing.assert_allclose(op.T(jnp.asarray(x)), wide.T @ x, atol=50 * eps)
    assert op(jnp.asarray(x)).dtype == scalar


def test_narrow_dtypes_are_summed_in_float32(rng):
    matrix = sparse.BCOO.from_scipy_sparse(random(density=0.2).tocoo())
    narrow = sparse.BCOO((matrix.data.astype(jnp.bfloat16), matrix.indices), shape=matrix.shape)
    x = jnp.asarray(rng.standard_normal(SIZE), jnp.bfloat16)
    image = as_operator(narrow)(x)
    assert image.dtype == jnp.bfloat16
    exact = np.asarray(narrow.todense(), float) @ np.asarray(x, float)
    np.testing.assert_allclose(np.asarray(image, float), exact, rtol=2**-8)


def test_repeated_unsorted_and_padded_entries(rng, float64):
    rows, columns = rng.integers(0, SIZE, 3000), rng.integers(0, SIZE, 3000)
    numbers = rng.standard_normal(3000)
    expected = sp.coo_array((numbers, (rows, columns)), (SIZE, SIZE)).tocsr()
    # JAX pads with indices behind the last row and column.
    indices = np.concatenate([np.stack([rows, columns], axis=1), np.full((50, 2), SIZE)])
    matrix = sparse.BCOO((jnp.asarray(np.append(numbers, np.ones(50))), jnp.asarray(indices)), shape=(SIZE, SIZE))
    x = rng.standard_normal(SIZE)
    np.testing.assert_allclose(as_operator(matrix)(jnp.asarray(x)), expected @ x, atol=1e-12)
    padded = sparse.BCSR.from_bcoo(sparse.BCOO.from_scipy_sparse(expected.tocoo(), index_dtype=jnp.int32))
    longer = sparse.BCSR(
        (jnp.append(padded.data, jnp.ones(9)), jnp.append(padded.indices, jnp.zeros(9, jnp.int32)), padded.indptr),
        shape=padded.shape,
    )
    np.testing.assert_allclose(as_operator(longer)(jnp.asarray(x)), expected @ x, atol=1e-12)


def test_integers_become_floats():
    np.testing.assert_array_equal(as_operator(sp.eye_array(SIZE, dtype=int).tocsr())(jnp.ones(SIZE)), 1)


def test_a_number_that_is_not_finite_reaches_its_rows_only(float64):
    matrix = MATRICES["power law"]
    x = np.ones(SIZE)
    x[3] = np.nan
    expected = np.isnan(matrix @ x)
    # Rows without entries read the first column.
    np.testing.assert_array_equal(np.isnan(as_operator(matrix)(jnp.asarray(x))), expected)


@pytest.mark.slow
def test_gradients_in_the_entries_and_in_the_vector(rng, float64):
    matrix = sparse.BCOO.from_scipy_sparse(MATRICES["power law"].tocoo())
    x, y = jnp.asarray(rng.standard_normal(SIZE)), jnp.asarray(rng.standard_normal(SIZE))
    loss = lambda data, x: y @ as_operator(sparse.BCOO((data, matrix.indices), shape=matrix.shape))(x)
    of_data, of_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(matrix.data, x)
    rows, columns = np.asarray(matrix.indices).T
    np.testing.assert_allclose(of_data, np.asarray(y)[rows] * np.asarray(x)[columns], atol=1e-12)
    np.testing.assert_allclose(of_x, matrix.todense().T @ y, atol=1e-12)
    tangent = jax.jvp(lambda data: loss(data, x), (matrix.data,), (matrix.data,))[1]
    np.testing.assert_allclose(tangent, loss(matrix.data, x), rtol=1e-12)
    # The adjoint product, too.
    adjoint = lambda data: x @ as_operator(sparse.BCOO((data, matrix.indices), shape=matrix.shape)).H(y)
    np.testing.assert_allclose(jax.grad(adjoint)(matrix.data), of_data, atol=1e-12)


def test_batches_of_vectors_and_of_entries(rng, float64):
    matrix = MATRICES["random"]
    op, rows = as_operator(matrix), rng.standard_normal((3, SIZE))
    np.testing.assert_allclose(jax.vmap(op)(jnp.asarray(rows)), rows @ matrix.T.toarray(), atol=1e-12)
    source = sparse.BCOO.from_scipy_sparse(matrix.tocoo())
    of_data = lambda data: as_operator(sparse.BCOO((data, source.indices), shape=source.shape))(jnp.asarray(rows[0]))
    images = jax.jit(jax.vmap(of_data))(jnp.stack([source.data, 2 * source.data]))
    np.testing.assert_allclose(images, np.stack([matrix @ rows[0], 2 * (matrix @ rows[0])]), atol=1e-12)


def test_the_transpose_is_stored_unless_the_matrix_is_symmetric(float64):
    assert as_operator(stencil()).matrix.transposed_rows is None
    hermitian = stencil().astype(complex)
    assert as_operator(hermitian).matrix.transposed_rows is None
    assert as_operator(MATRICES["random"]).matrix.transposed_rows is not None
    assert as_operator(stencil() + sp.eye_array(900, k=1)).matrix.transposed_rows is not None


def test_small_traced_and_batched_matrices_keep_their_format():
    small = sparse.BCOO.from_scipy_sparse(sp.eye_array(500).tocoo())
    assert not isinstance(as_operator(small).matrix, SparseMatrix)
    large = sparse.BCOO.from_scipy_sparse(sp.eye_array(SIZE).tocoo())
    traced = jax.jit(lambda a: as_operator(a)(jnp.ones(SIZE)))(large)
    np.testing.assert_array_equal(traced, 1)
    batched = sparse.BCOO((jnp.ones((2, 3)), jnp.zeros((2, 3, 2), jnp.int32)), shape=(2, SIZE, SIZE))
    with pytest.raises(ValueError, match=r"batch of matrices.*jax\.vmap"):
        as_operator(batched)


def test_known_entries_are_arranged_before_a_program_is_compiled(operations):
    matrix = sparse.BCOO.from_scipy_sparse(stencil().tocoo())
    program = jax.make_jaxpr(lambda x: as_operator(matrix)(x))(jnp.ones(900))
    gathers = [op for op in operations(program.jaxpr) if op.primitive.name == "gather"]
    assert all(op.outvars[0].aval.shape == (900,) for op in gathers)  # those of the product, none of the entries


def test_an_operator_passes_jit_without_a_retrace(rng):
    traces = []

    @jax.jit
    def multiply(op, x):
        traces.append(1)
        return op(x)

    x = jnp.asarray(rng.standard_normal(900), jnp.float32)
    for scale in (1.0, 2.0):
        matrix = (scale * stencil()).astype(np.float32)
        np.testing.assert_allclose(multiply(as_operator(matrix), x), matrix @ np.asarray(x), rtol=1e-4, atol=1e-4)
    assert len(traces) == 1


@pytest.mark.slow
def test_solvers_of_large_sparse_matrices(float64):
    matrix = stencil()
    truth = np.linalg.eigvalsh(matrix.toarray())
    np.testing.assert_allclose(eigsh(matrix, 4).eigenvalues, truth[::-1][:4], atol=1e-10)
    general = random(density=0.02)
    values = np.linalg.eigvals(general.toarray())
    top = values[np.argmax(np.abs(values))]
    np.testing.assert_allclose(eigs(general, 1, tol=1e-10).eigenvalues[0], top, atol=1e-8)
    tall = MATRICES["tall"]
    np.testing.assert_allclose(svds(tall, 3).values, np.linalg.svd(tall.toarray(), compute_uv=False)[:3], atol=1e-10)


def test_every_entry_has_one_place():
    matrix = power_law().tocoo()
    layout = arranged(matrix.row, matrix.col, matrix.shape)
    sources = np.concatenate([group.sources.ravel() for group in layout.groups])
    np.testing.assert_array_equal(np.sort(sources[sources < matrix.nnz]), np.arange(matrix.nnz))
    assert sources.size < 1.3 * matrix.nnz + SIZE
    np.testing.assert_array_equal(np.sort(layout.places), np.arange(SIZE))
