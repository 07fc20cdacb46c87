"""Low rank plus diagonal against dense matrices of NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

import eigenjax
from eigenjax import EigenResult, as_operator, diagonal_operator, eigsh, low_rank, spectrum_tracker, to_dense

SHAPES = {"b": (), "kernel": (3, 2), "w": (4,)}
K = 4
# The error allowed, relative to the largest entry; the matrices have conditions up to 1e3.
ACCURACY = {"float32": 2e-4, "complex64": 2e-4, "float64": 1e-12, "complex128": 1e-12}


def split(flat):
    """Split the last axis of a flat array into the leaves of SHAPES."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    parts = np.split(flat, ends[:-1], axis=-1)
    return {
        name: jnp.asarray(part.reshape((*flat.shape[:-1], *shape)))
        for part, (name, shape) in zip(parts, SHAPES.items(), strict=True)
    }


def joined(tree):
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def pairs(normal, rng, dtype, n=11, values=(30.0, 4.0, 1.0, 0.2)):
    """Return orthonormal rows (k, n) and eigenvalues, in float64."""
    wide = np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64
    rows = np.linalg.qr(normal(rng, (n, len(values)), wide))[0].T
    return np.array(values), rows


def result_of(values, vectors, converged=None):
    k = len(values)
    converged = jnp.ones(k, bool) if converged is None else jnp.asarray(converged)
    real = jax.tree.leaves(vectors)[0].real.dtype
    values = jnp.asarray(np.asarray(values), real)
    return EigenResult(values, vectors, jnp.zeros_like(values), converged, jnp.int32(0), jnp.int32(0))


def close(found, truth, dtype):
    assert_allclose(np.asarray(found), truth, rtol=0, atol=ACCURACY[str(dtype)] * np.abs(truth).max())


@pytest.mark.parametrize("damping", ["number", "diagonal"])
def test_all_closed_forms(scalar, damping, normal, rng):
    values, rows = pairs(normal, rng, scalar)
    d = np.full(11, 0.3) if damping == "number" else np.geomspace(0.1, 10, 11)[rng.permutation(11)]
    given = 0.3 if damping == "number" else split(d)
    op = jax.jit(low_rank)(result_of(values, split(rows.astype(scalar))), damping=given)
    dense = np.diag(d) + (rows.T * values) @ rows.conj()
    inverse = np.linalg.inv(dense)
    factor, of_inverse = to_dense(op.sqrt()), to_dense(op.inverse().sqrt())
    close(to_dense(op), dense, scalar)
    close(to_dense(op.inverse()), inverse, scalar)
    close(factor @ factor.conj().T, dense, scalar)
    close(of_inverse @ of_inverse.conj().T, inverse, scalar)
    close(to_dense(op.sqrt().H), factor.conj().T, scalar)
    vector = normal(rng, 11, scalar)
    close(joined(op.solve(split(vector))), inverse @ vector, scalar)
    close(op.logdet(), np.linalg.slogdet(dense)[1], scalar)
    close(op.inverse().logdet(), -np.linalg.slogdet(dense)[1], scalar)
    close(op.trace(), np.real(np.trace(dense)), scalar)
    close(joined(op.diagonal()), np.real(np.diag(dense)), scalar)
    close(joined(op.inverse().diagonal()), np.real(np.diag(inverse)), scalar)
    if damping == "number":
        close(factor, factor.conj().T, scalar)


@pytest.mark.parametrize("negative", ["clip", "abs", "keep"])
def test_pairs_left_out_and_negative_eigenvalues(negative, normal, rng, float64):
    values, rows = pairs(normal, rng, np.float64, values=(5.0, np.nan, -1.0, -0.1))
    given = rows.copy()
    given[1] = np.nan
    op = low_rank(result_of(values, jnp.asarray(given), [True, False, True, True]), damping=0.2, negative=negative)
    kept = {"clip": [5, 0, 0, 0], "abs": [5, 0, 1, 0.1], "keep": [5, 0, -1, -0.1]}[negative]
    dense = 0.2 * np.eye(11) + (rows.T * kept) @ rows
    close(to_dense(op), dense, "float64")
    close(to_dense(op.inverse()), np.linalg.inv(dense), "float64")
    # An indefinite matrix has no square root, and says so.
    assert np.isnan(op.logdet()) == np.isnan(op.sample(jax.random.key(0), 1)).any() == (negative == "keep")


@pytest.mark.slow
def test_derivatives(normal, rng, float64):
    values, rows = pairs(normal, rng, np.complex128)
    rows = rows + 0.1 * normal(rng, rows.shape, np.complex128)  # far from orthonormal
    vector, d = normal(rng, 11, np.complex128), rng.uniform(0.5, 2, 11)

    def loss(values, rows, d):
        op = low_rank(result_of(np.ones(K), rows)._replace(eigenvalues=values), damping=d)
        samples = op.inverse().sample(jax.random.key(0), 2)
        return op.logdet() + op.trace() + jnp.sum(jnp.abs(op.solve(jnp.asarray(vector))) ** 2) + samples[1, 0].real

    def exact(values, rows, d):
        dense = np.diag(d) + (rows.T * values) @ rows.conj()
        solved = np.linalg.solve(dense, vector)
        return np.linalg.slogdet(dense)[1] + np.real(np.trace(dense)) + np.sum(np.abs(solved) ** 2)

    point = (jnp.asarray(values), jnp.asarray(rows), jnp.asarray(d))
    sampled = lambda *point: loss(*point) - exact(*(np.asarray(x) for x in point))
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*point)
    for _ in range(3):
        direction = [normal(rng, x.shape, x.dtype) for x in point]
        along = sum(np.sum(np.asarray(g) * x).real for g, x in zip(gradient, direction, strict=True))
        at = lambda function, t, direction=direction: function(
            *(np.asarray(x) + t * y for x, y in zip(point, direction, strict=True))
        )
        step = 1e-4
        difference = sum((at(f, step) - at(f, -step)) / (2 * step) for f in (exact, sampled))
        assert_allclose(along, difference, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_the_curvature_itself(rng, float64):
    """All pairs of a matrix: log det (A + d) and the solve have the derivatives of the dense ones."""
    root = rng.normal(size=(5, 5))
    matrix, vector = jnp.asarray(root @ root.T), jnp.asarray(rng.normal(size=5))

    def loss(matrix):
        op = low_rank(eigsh(matrix, 5), damping=0.4)
        return op.logdet() + jnp.sum(jnp.sin(op.solve(vector)))

    dense = lambda a: (
        jnp.linalg.slogdet(a + 0.4 * jnp.eye(5))[1] + jnp.sum(jnp.sin(jnp.linalg.solve(a + 0.4 * jnp.eye(5), vector)))
    )
    symmetric = lambda g: (g + g.T) / 2
    assert_allclose(symmetric(jax.grad(loss)(matrix)), symmetric(jax.grad(dense)(matrix)), rtol=1e-6, atol=1e-7)


def test_samples_have_the_covariance(normal, rng):
    values, rows = pairs(normal, rng, np.complex64, n=5, values=(20.0, 3.0))
    d = np.array([0.5, 1.0, 2.0, 3.0, 4.0])
    result = result_of(values, jnp.asarray(rows.astype(np.complex64)))
    num, dense = 20_000, np.diag(d) + (rows.T * values) @ rows.conj()
    op = low_rank(result, damping=jnp.asarray(d, jnp.float32))
    for sampled, covariance in ((op, dense), (op.inverse(), np.linalg.inv(dense))):
        samples = np.asarray(jax.jit(lambda op: op.sample(jax.random.key(1), num))(sampled))
        scale = np.sqrt(np.outer(*2 * [np.real(np.diag(covariance))]))
        # Five standard errors, 1 / sqrt(num) each.
        assert (np.abs(samples.T @ samples.conj() / num - covariance) < 5 / num**0.5 * scale).all()
        assert (np.abs(samples.T @ samples / num) < 5 * (2 / num) ** 0.5 * scale).all()


def test_a_small_damping_in_float32(normal, rng):
    """Solve along the largest eigenvector to rounding, where Woodbury's formula cancels."""
    values, rows = pairs(normal, rng, np.float64, n=50)
    op = low_rank(result_of(values, jnp.asarray(rows.astype(np.float32))), damping=1e-5)
    vector = jnp.asarray(rows[0].astype(np.float32))
    exact = np.linalg.solve(1e-5 * np.eye(50) + (rows.T * values) @ rows, rows[0])
    assert_allclose(rows[0] @ np.asarray(op.solve(vector), float), rows[0] @ exact, rtol=1e-6)
    # D of very different entries makes the scaled vectors nearly dependent.
    d = np.where(np.arange(50) == 0, 1e-8, 1.0)
    dense = np.diag(d) + (rows.T * values) @ rows
    uneven = low_rank(result_of(values, jnp.asarray(rows.astype(np.float32))), damping=jnp.asarray(d, jnp.float32))
    assert_allclose(to_dense(uneven), dense, atol=1e-5 * np.abs(dense).max())
    gram = uneven.vectors @ uneven.vectors.T
    assert_allclose(gram, np.eye(K), atol=1e-5)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_batched_and_narrow_vectors(axis_type, normal, rng):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    values, rows = pairs(normal, rng, np.float64, n=16)
    place = lambda x: jax.device_put(jnp.asarray(x), NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), "x")))
    vector, d = normal(rng, 16, np.float32), np.linspace(1, 2, 16, dtype=np.float32)
    dense = np.diag(d) + (rows.T * values) @ rows

    @jax.jit
    def solve(rows, d, vector):
        op = low_rank(result_of(values, rows), damping=d)
        return op.solve(vector), op.logdet(), op.inverse().sample(jax.random.key(0), 2), op.diagonal()

    with jax.set_mesh(mesh):
        solved, logdet, samples, diagonal = solve(place(rows.astype(np.float32)), place(d), place(vector))
    assert solved.sharding.spec == PartitionSpec("x")
    assert_allclose(np.asarray(solved), np.linalg.solve(dense, vector), atol=1e-5)
    assert_allclose(logdet, np.linalg.slogdet(dense)[1], rtol=1e-5)
    assert_allclose(np.asarray(diagonal), np.diag(dense), rtol=1e-5)
    assert np.isfinite(np.asarray(samples)).all()
    batch = jax.vmap(lambda scale: low_rank(result_of(values, scale * rows.astype(np.float32)), damping=d))
    images = jax.vmap(lambda op: op(jnp.asarray(vector)))(batch(jnp.array([1.0, 2.0])))
    assert_allclose(images[1], (np.diag(d) + 4 * (rows.T * values) @ rows) @ vector, rtol=1e-4, atol=1e-4)
    narrow = low_rank(
        result_of(values, jnp.asarray(rows.astype(np.float32))),
        damping=1,
        like=jax.ShapeDtypeStruct((16,), jnp.bfloat16),
    )
    assert narrow.dtype == narrow.solve(jnp.asarray(vector, jnp.bfloat16)).dtype == jnp.bfloat16
    assert narrow.logdet().dtype == jnp.float32


def test_it_preconditions_solvers(rng, rotated, float64):
    # A bulk within a factor of four, and 20 outliers.
    spectrum = np.concatenate([np.geomspace(10, 1e4, 20), np.linspace(0, 1, 280)])
    damping, matrix = 0.3, jnp.asarray(rotated(spectrum))
    damped = as_operator(matrix).shift(-damping)
    op = low_rank(eigsh(matrix, 20), damping=damping)
    vector = jnp.asarray(rng.normal(size=300))

    @jax.jit
    def residual(count, preconditioner):
        cg = jax.scipy.sparse.linalg.cg
        solution = cg(damped, vector, tol=0.0, maxiter=count, M=preconditioner)[0]
        return jnp.linalg.norm(vector - damped(solution)) / jnp.linalg.norm(vector)

    steps = lambda preconditioner: next(n for n in range(1, 300) if residual(n, preconditioner) < 1e-8)
    assert 3 * steps(op.inverse()) <= steps(1.0 * diagonal_operator(jnp.ones(300)))
    smallest = eigsh(damped, 2, which="SA", preconditioner=op.inverse(), tol=1e-8)
    # Within the residuals of tol ||A||.
    assert_allclose(smallest.eigenvalues, np.sort(spectrum)[:2] + damping, atol=1e-4)
    assert smallest.converged.all()


def test_the_state_of_a_tracker(rotated):
    tracker = spectrum_tracker(2)
    matrix = as_operator(jnp.asarray(rotated([6.0, 3.0, 0.1, 0.0, 0.0]), jnp.float32))
    state = tracker.init(matrix)
    assert_allclose(to_dense(low_rank(state, damping=2.0)), 2 * np.eye(5), atol=1e-6)
    state, _ = tracker.update(matrix, state)
    found = np.linalg.eigvalsh(np.asarray(to_dense(low_rank(state, damping=2.0)), float))
    assert_allclose(found[::-1], [8, 5, 2, 2, 2], rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: low_rank(eigenjax.svds(jnp.eye(4), 1), damping=1.0), TypeError, "give what eigsh returns"),
        (lambda r: low_rank(eigenjax.eigs(jnp.eye(4), 1), damping=1.0), TypeError, "symmetric operator"),
        (lambda r: low_rank(jax.tree.map(lambda x: x[None], r), damping=1.0), ValueError, "jax.vmap"),
        (lambda r: low_rank(r, damping=None), TypeError, "damping=None"),
        (lambda r: low_rank(r, damping=0.0), ValueError, "positive number"),
        (lambda r: low_rank(r, damping=jnp.ones(3)), ValueError, r"damping has shape \(3,\)"),
        (lambda r: low_rank(r, damping=jnp.ones(4, complex)), TypeError, "positive real"),
        (lambda r: low_rank(r, damping={"w": 1.0}), ValueError, "leaves missing"),
        (lambda r: low_rank(r, damping="small"), TypeError, "damping"),
        (lambda r: low_rank(r, damping=1.0, negative="drop"), ValueError, "'clip', 'abs', 'keep'"),
        (lambda r: low_rank(r, damping=1.0, like=jnp.ones(3)), ValueError, "a vector of the result"),
        (lambda r: low_rank(r, damping=1.0).solve(jnp.ones(3)), ValueError, "shape"),
        (lambda r: low_rank(r, damping=1.0).sample(jax.random.key_data(jax.random.key(0)), 3), TypeError, "typed key"),
        (lambda r: low_rank(r, damping=1.0).sample(jax.random.key(0), 0), ValueError, "num=0"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(eigsh(jnp.diag(jnp.array([4.0, 3.0, 2.0, 1.0])), 2))
