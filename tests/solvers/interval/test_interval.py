"""All eigenvalues of an interval against dense float64 decompositions: values, copies, places, status."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, eigsh, raise_if_failed
from eigenjax.solvers.interval import polynomial
from eigenjax.solvers.interval.bounds import estimate_spectrum
from eigenjax.vectors.pseudorandom import seed_of


def grid(*lengths):
    """Construct the matrix of a grid Laplacian, whose eigenvalues are repeated if lengths are equal."""
    line = lambda n: 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    if len(lengths) == 1:
        return line(lengths[0])
    first, second = lengths
    return np.kron(line(first), np.eye(second)) + np.kron(np.eye(first), line(second))


def random_matrix(n, *, is_complex=False):
    generator = np.random.default_rng(3)
    entries = generator.standard_normal((n, n)) + 1j * is_complex * generator.standard_normal((n, n))
    matrix = (entries + entries.conj().T) / np.sqrt(8 * n)
    return matrix if is_complex else matrix.real


def check(result, matrix, interval, k, *, accuracy, flat):
    """Compare a result with all eigenvalues of the matrix inside."""
    matrix = np.asarray(matrix)
    dense = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    truth = np.linalg.eigvalsh(dense)
    inside = truth[(truth >= interval[0]) & (truth <= interval[1])]
    count, size = len(inside), np.abs(truth).max()
    assert int(result.num_found) == count
    assert int(result.status) == Status.CONVERGED
    values, vectors = np.asarray(result.eigenvalues, float), flat(result.eigenvectors)
    assert values.shape == (k,)
    np.testing.assert_array_equal(np.asarray(result.converged), np.arange(k) < count)
    np.testing.assert_allclose(values[:count], inside, rtol=0, atol=accuracy * size)
    assert np.isnan(values[count:]).all()
    assert np.isnan(np.asarray(result.residuals)[count:]).all()
    assert (vectors[count:] == 0).all()
    found = vectors[:count]
    np.testing.assert_allclose(found.conj() @ found.T, np.eye(count), rtol=0, atol=1e3 * accuracy)
    residuals = np.linalg.norm(found @ dense.T - values[:count, None] * found, axis=1)
    np.testing.assert_allclose(residuals, np.asarray(result.residuals)[:count], rtol=0, atol=10 * accuracy * size)


@pytest.mark.parametrize(
    ("matrix", "interval", "k"),
    [
        (grid(150), (1.0, 1.3), 12),
        (grid(15, 15), (2.0, 2.6), 40),
        (grid(15, 15), (3.4, 4.6), 60),
        (random_matrix(200), (-0.1, 0.15), 40),
        (random_matrix(200, is_complex=True), (0.2, 0.3), 20),
    ],
    ids=["line", "grid", "symmetric spectrum", "random", "complex"],
)
def test_all_copies_of_all_eigenvalues_inside_are_found(matrix, interval, k, float64, flat):
    result = eigsh(matrix, k, interval=interval)
    check(result, matrix, interval, k, accuracy=1e-13, flat=flat)


@pytest.mark.parametrize("is_complex", [False, True])
def test_float32(is_complex, flat):
    matrix = random_matrix(200, is_complex=is_complex).astype(np.complex64 if is_complex else np.float32)
    result = eigsh(jnp.asarray(matrix), 30, interval=(-0.1, 0.1))
    check(result, matrix, (-0.1, 0.1), 30, accuracy=2e-6, flat=flat)


@pytest.mark.parametrize("interval", [(-5.0, 0.05), (-np.inf, 0.05), (7.9, 9.0), (7.9, np.inf), (0.0, 0.2)], ids=str)
def test_ends_of_the_spectrum(interval, float64, flat):
    matrix = grid(17, 13)
    check(eigsh(matrix, 8, interval=interval), matrix, interval, 8, accuracy=1e-13, flat=flat)


@pytest.mark.parametrize("interval", [(1.02, 1.98), (9.0, 10.0), (-2.0, -1.0), (0.99, 1.01)], ids=str)
def test_few_or_no_eigenvalues_inside(interval, rotated, float64, flat):
    matrix = rotated(np.concatenate([np.linspace(0, 1, 60), np.linspace(2, 3, 60)]))
    check(eigsh(matrix, 5, interval=interval), matrix, interval, 5, accuracy=1e-13, flat=flat)


def test_an_eigenvalue_at_an_end_is_inside(rotated, float64):
    matrix = rotated(np.arange(100.0))
    result = eigsh(matrix, 20, interval=(30.0, 40.0))
    assert result.num_found == 11
    np.testing.assert_allclose(result.eigenvalues[:11], np.arange(30.0, 41.0), atol=1e-11)


@pytest.mark.parametrize("values", [np.ones(30), np.zeros(30), np.repeat([1.0, 2.0], 15)], ids=str)
def test_the_whole_spectrum_of_few_different_eigenvalues(values, rotated, float64):
    result = eigsh(rotated(values), 30, interval=(-0.5, 3.0))
    assert result.num_found == 30
    assert result.status == Status.CONVERGED
    np.testing.assert_allclose(result.eigenvalues, values, atol=1e-12)


@pytest.mark.parametrize("k", [3, 18])
def test_more_eigenvalues_than_places(k, float64):
    matrix = random_matrix(200)
    truth = np.linalg.eigvalsh(matrix)
    inside = truth[(truth >= -0.1) & (truth <= 0.1)]
    assert len(inside) > 18
    result = eigsh(matrix, k, interval=(-0.1, 0.1))
    assert result.status == Status.MORE_INSIDE
    assert k < int(np.asarray(result.num_found)) <= len(inside)
    assert result.converged.all()
    assert (np.diff(result.eigenvalues) > 0).all()
    distances = np.abs(np.asarray(result.eigenvalues)[:, None] - inside)
    np.testing.assert_array_less(distances.min(axis=1), 1e-12)
    with pytest.raises(Exception, match="MORE_INSIDE: the interval holds more eigenvalues than the k asked for"):
        raise_if_failed(result)


@pytest.mark.parametrize("max_matvecs", [0, 30, 200, 1500])
def test_an_exhausted_budget_is_told(max_matvecs, float64):
    result = eigsh(grid(15, 15), 40, interval=(2.0, 2.6), max_matvecs=max_matvecs)
    assert result.num_matvecs <= max(max_matvecs, 40)
    assert result.status in (Status.NOT_CONVERGED, Status.UNVERIFIED)


def test_matvecs_are_counted_exactly(float64):
    matrix, calls = jnp.asarray(grid(15, 15)), []

    def matvec(v):
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ v

    result = eigsh(matvec, 40, interval=(2.0, 2.6), like=jnp.zeros(225))
    jax.effects_barrier()
    assert len(calls) == result.num_matvecs


def test_nan_is_told():
    result = eigsh(lambda v: v * jnp.nan, 4, interval=(0.0, 1.0), like=jnp.zeros(200))
    assert result.status == Status.NONFINITE
    assert result.num_found == 0
    assert not result.converged.any()
    assert np.isnan(result.eigenvalues).all()


def test_an_operator_that_is_not_symmetric_is_told(float64, rng):
    matrix = np.diag(np.arange(100.0)) + np.triu(rng.standard_normal((100, 100)))
    result = eigsh(matrix, 20, interval=(30.0, 40.0), max_matvecs=5000)
    assert result.status in (Status.INCONSISTENT, Status.NOT_CONVERGED)
    assert not result.converged.all()


def test_jit_vmap_and_traced_ends(float64):
    matrix = jnp.asarray(random_matrix(120))
    truth = np.linalg.eigvalsh(matrix)
    lows = jnp.array([-0.3, 0.0, 0.2, 0.9])
    solve = lambda matrix, low: eigsh(matrix, 20, interval=(low, low + 0.15))
    many = jax.jit(jax.vmap(solve, in_axes=(None, 0)))(matrix, lows)
    other = jax.jit(jax.vmap(solve, in_axes=(0, None)))(jnp.stack([matrix, 2 * matrix]), 0.1)
    assert (many.status == Status.CONVERGED).all()
    assert (other.status == Status.CONVERGED).all()
    for result, low, factor in [*((many, low, 1) for low in lows), (other, 0.1, 1), (other, 0.1, 2)]:
        lane = list(lows).index(low) if result is many else factor - 1
        values = factor * truth
        inside = values[(values >= low) & (values <= low + 0.15)]
        assert result.num_found[lane] == len(inside)
        np.testing.assert_allclose(result.eigenvalues[lane][: len(inside)], inside, atol=1e-12)
    empty = jax.jit(solve)(matrix, jnp.nan)
    assert empty.num_found == 0


def test_pytrees_blocks_and_starts(float64):
    matrix = jnp.asarray(grid(12, 12))
    truth = np.linalg.eigvalsh(matrix)
    inside = truth[(truth > 2.0) & (truth < 2.7)]

    def matvec(tree):
        image = matrix @ jnp.concatenate([tree["a"].ravel(), tree["b"]])
        return {"a": image[:44].reshape(4, 11), "b": image[44:]}

    like = {"a": jnp.zeros((4, 11)), "b": jnp.zeros(100)}
    options = {"interval": (2.0, 2.7), "like": like}
    first = eigsh(matvec, 30, **options)
    assert first.eigenvectors["a"].shape == (30, 4, 11)
    for more in ({}, {"block_size": 3}, {"v0": first}, {"krylov_dim": 100}, {"verify": False, "block_size": 3}):
        result = eigsh(matvec, 30, **options, **more)
        assert result.num_found == len(inside), more
        np.testing.assert_allclose(result.eigenvalues[: len(inside)], inside, atol=1e-12)


@pytest.mark.usefixtures("dense_by_default")
@pytest.mark.parametrize(("k", "interval"), [(40, (2.0, 2.6)), (200, (-1.0, 9.0)), (4, (10.0, 11.0))])
def test_small_operators_are_decomposed(k, interval, float64, flat):
    matrix = grid(14, 13)
    k = min(k, 182)
    result = eigsh(matrix, k, interval=interval)
    check(result, matrix, interval, k, accuracy=1e-13, flat=flat)
    assert result.num_matvecs == 182
    more = eigsh(matrix, 2, interval=(2.0, 2.6))
    assert more.status == Status.MORE_INSIDE


def test_errors():
    matrix = jnp.eye(50)
    for interval in [(1.0,), 3.0, (2.0, 1.0), (0.0, np.nan), "ab"]:
        with pytest.raises((ValueError, TypeError), match=r"eigsh got interval=.*give interval=\(low, high\)"):
            eigsh(matrix, 3, interval=interval)
    interval = (0.0, 1.0)
    with pytest.raises(ValueError, match=r"sigma=0\.5 has no meaning with interval"):
        eigsh(matrix, 3, interval=interval, sigma=0.5)
    with pytest.raises(ValueError, match="which='SA': interval asks for all eigenvalues inside"):
        eigsh(matrix, 3, interval=interval, which="SA")
    with pytest.raises(ValueError, match="b and interval: intervals are for A x = lambda x"):
        eigsh(matrix, 3, interval=interval, b=matrix)
    with pytest.raises(ValueError, match="inverse and interval"):
        eigsh(matrix, 3, interval=interval, inverse=matrix)
    with pytest.raises(ValueError, match="preconditioner"):
        eigsh(matrix, 3, interval=interval, preconditioner=matrix)
    with pytest.raises(ValueError, match="choose 1 <= k <= 50"):
        eigsh(matrix, 51, interval=interval)


@pytest.mark.parametrize("interval", [(0.3, 0.32), (-1.0, 0.1), (0.9, 2.0), (0.2, 0.7)], ids=str)
def test_the_filter_is_largest_inside(interval, float64):
    """p is at least `least` inside, one at most anywhere, and small far from the interval."""
    values = jnp.linspace(0.0, 1.0, 2000)
    operator = jax.tree_util.Partial(lambda values, v: values * v, values)
    op = as_operator(operator, like=values)
    spectrum = estimate_spectrum(op, seed_of(None))
    low, high = map(jnp.asarray, interval)
    chosen = polynomial.filter_of(spectrum, (low, high), 2000)
    filtered = polynomial.FilteredOperator(op, chosen).mv(jnp.ones(2000))
    inside = (values >= interval[0]) & (values <= interval[1])
    assert filtered[inside].min() >= chosen.least - 1e-3
    assert filtered.max() <= 1 + 1e-3
    width = min(interval[1], 1) - max(interval[0], 0)
    far = (values < interval[0] - 3 * width) | (values > interval[1] + 3 * width)
    assert jnp.max(jnp.abs(filtered), where=far, initial=0) < chosen.least / 2
