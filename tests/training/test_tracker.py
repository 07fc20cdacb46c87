"""The tracker against dense spectra with known motion: crossings, new leading eigenvalues, growth; guarantees."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from eigenjax import Status, as_operator, hessian, spectrum_tracker
from eigenjax.operators.convert import MatrixOperator

N, K = 60, 3
BULK = np.linspace(-0.6, 1.0, N - 5)
# Most tests share this tracker and its compiled program.
TRACKER = spectrum_tracker(K)


@functools.cache
def turning(seed=0):
    """Return two rotations: one of the whole space, for the start, and a small one for each step."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(N, N)))[0]
    sample = generator.normal(size=(N, N))
    skew = (sample - sample.T) / (2 * N) ** 0.5
    return basis, np.linalg.solve(np.eye(N) + 0.005 * skew, np.eye(N) - 0.005 * skew)


def moving(tops, steps):
    """Yield matrices with a fixed bulk, five other eigenvalues tops(t), and rotating eigenvectors."""
    basis, rotation = turning()
    for step in range(steps):
        values = np.concatenate([tops(step / (steps - 1)), BULK])
        yield values, jnp.asarray((basis * values) @ basis.T, jnp.float32)
        basis = rotation @ basis


def values_of(metrics, k=K):
    return np.asarray([metrics[f"eigenvalue_{i}"] for i in range(k)])


def tracks_of(metrics, k=K):
    return [int(metrics[f"track_{i}"]) for i in range(k)]


@pytest.mark.slow
def test_a_turning_spectrum_is_followed_at_a_product_a_pair_and_one():
    state = TRACKER.init(jnp.eye(N), jax.random.key(0))
    products = []
    for values, matrix in moving(lambda t: np.asarray([6 + t, 4 - t, 2.5, -1.0, 0.5]), 40):
        before = state
        state, metrics = TRACKER.update(as_operator(matrix), state)
        products.append(int(metrics["num_matvecs"]))
        assert_allclose(values_of(metrics), np.sort(values)[::-1][:K], rtol=1e-2)
        dense, vectors = np.asarray(matrix, float), np.asarray(state.eigenvectors, float)
        recomputed = np.linalg.norm(vectors @ dense - np.asarray(state.eigenvalues)[:, None] * vectors, axis=1)
        assert_allclose(state.residuals, recomputed, atol=2e-5)
        assert_allclose(vectors @ vectors.T, np.eye(K), atol=1e-5)
        assert_array_equal(state.converged, recomputed <= 1e-2 * np.abs(values).max())
        assert int(metrics["num_matvecs"]) == int(state.num_matvecs - before.num_matvecs) <= 4 * K + 20
        if products[1:]:
            overlaps = np.sum(vectors * np.asarray(before.eigenvectors, float), axis=1)
            assert (overlaps > 0.9).all()
            assert tracks_of(metrics) == [0, 1, 2]
    assert np.mean(products[1:]) < K + 1 + 0.5
    assert sorted(products)[len(products) // 2] == K + 1


def test_eigenvalues_that_cross_keep_their_numbers_and_their_signs():
    state = TRACKER.init(jnp.eye(N), jax.random.key(0))
    start = {}
    for values, matrix in moving(lambda t: np.asarray([6 - 3 * t, 4 + t, 2.5, -1.0, 0.5]), 41):
        state, metrics = TRACKER.update(as_operator(matrix), state)
        assert_allclose(values_of(metrics), np.sort(values)[::-1][:K], rtol=1e-2)
        start = start or {number: i for i, number in enumerate(tracks_of(metrics))}
    # The eigenvalue 6 falls to 3, and 4 rises to 5; the third one is constant.
    assert [start[number] for number in tracks_of(metrics)] == [1, 0, 2]


def test_a_newcomer_from_the_bulk_is_noticed_and_gets_a_new_number():
    state = TRACKER.init(jnp.eye(N), jax.random.key(0))
    missing = []
    diagonal = lambda t: np.concatenate([[6, 4, 2.5, -1.0, 0.5 + 4.5 * t], BULK])
    # Eigenvectors of diagonal matrices do not mix: only the guard vector can find the new eigenvalue.
    for step in range(120):
        values = diagonal(min(step / 40, 1))
        state, metrics = TRACKER.update(as_operator(jnp.diag(jnp.asarray(values, jnp.float32))), state)
        worst = np.abs(values_of(metrics) - np.sort(values)[::-1][:K]).max()
        missing.append(worst > 0.01 * 6)
    assert sum(missing) <= 12
    assert not any(missing[-60:])
    assert tracks_of(metrics) == [0, 3, 1]


@pytest.mark.slow
def test_the_same_key_gives_the_same_bits_and_a_state_survives_a_checkpoint(tmp_path):
    def run(state, first, last, through=lambda state: state):
        for step, (_, matrix) in enumerate(moving(lambda t: np.asarray([6, 4 + t, 2.5, -1.0, 0.5]), 8)):
            if first <= step < last:
                state, metrics = TRACKER.update(as_operator(matrix), through(state))
        return state, metrics

    initial_state = lambda: TRACKER.init(jnp.eye(N), jax.random.key(3))
    once, metrics = run(initial_state(), 0, 8)
    again, _ = run(initial_state(), 0, 8)
    flattened, _ = run(initial_state(), 0, 8, lambda state: jax.tree.unflatten(*jax.tree.flatten(state)[::-1]))
    chex.assert_trees_all_equal(once, again, flattened)
    assert all(jnp.shape(value) == () for value in metrics.values())

    checkpoint = pytest.importorskip("orbax.checkpoint")
    half, _ = run(initial_state(), 0, 4)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", half)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: half))
    chex.assert_trees_all_equal(once, run(restored, 4, 8)[0])


def test_nan_is_told_and_forgotten():
    matrix = next(moving(lambda t: np.asarray([6, 4, 2.5, -1.0, 0.5]), 2))[1]
    state, metrics = TRACKER.update(as_operator(matrix), TRACKER.init(matrix))
    assert int(metrics["status"]) == Status.CONVERGED
    broken, metrics = TRACKER.update(as_operator(matrix.at[0, 0].set(jnp.nan)), state)
    assert int(metrics["status"]) == Status.NONFINITE
    assert np.isnan(values_of(metrics)).all()
    assert not broken.converged.any()
    assert_array_equal(broken.eigenvectors, state.eigenvectors)
    restored, metrics = TRACKER.update(as_operator(matrix), broken)
    assert int(metrics["status"]) == Status.CONVERGED
    assert int(metrics["num_matvecs"]) == K + 1
    assert_allclose(restored.eigenvalues, [6, 4, 2.5], rtol=1e-4)


@pytest.mark.slow
def test_an_ensemble_is_one_program_and_each_member_its_own():
    members = [list(moving(lambda t, top=top: np.asarray([top, 4, 2.5, -1.0, 0.5]), 3)) for top in (6.0, 9.0)]
    matrices = [jnp.stack([member[step][1] for member in members]) for step in range(3)]
    states = jax.vmap(lambda m: TRACKER.init(MatrixOperator(m), jax.random.key(0)))(matrices[0])
    update = jax.jit(jax.vmap(lambda m, state: TRACKER.update(MatrixOperator(m), state)), donate_argnums=1)
    alone = [TRACKER.init(m, jax.random.key(0)) for m in matrices[0]]
    for batch in matrices:
        states, metrics = update(batch, states)
        alone = [TRACKER.update(as_operator(m), state)[0] for m, state in zip(batch, alone, strict=True)]
    assert_allclose(states.eigenvalues, np.stack([state.eigenvalues for state in alone]), rtol=1e-5)
    assert_array_equal(states.num_matvecs, [state.num_matvecs for state in alone])
    assert metrics["eigenvalue_0"].shape == (2,)


@pytest.mark.slow
def test_half_precision_parameters_are_tracked_to_their_rounding_and_read_once_a_step(rng):
    params = {"w": jnp.asarray(rng.normal(size=(6, 5)), jnp.bfloat16)}
    inputs = jnp.asarray(rng.normal(size=(40, 6)), jnp.bfloat16)
    traces = []

    def loss(p, x):
        traces.append(1)
        return jnp.mean(jnp.sum((x @ p["w"]) ** 2, axis=1))

    tracker = spectrum_tracker(2, matvecs_per_update=3)
    state = tracker.init(hessian(loss, params, inputs))
    for _ in range(15):
        state, metrics = tracker.update(hessian(loss, params, inputs), state)
    # Each operator traces the current loss once; the tracker adds no trace.
    assert len(traces) == 16
    assert state.eigenvectors["w"].dtype == jnp.float32
    top = 2 * np.linalg.eigvalsh(np.asarray(inputs, float).T @ np.asarray(inputs, float) / 40)[-1]
    # Every eigenvalue has multiplicity five.
    assert_allclose(state.eigenvalues, [top, top], rtol=2e-2)
    assert int(metrics["status"]) == Status.CONVERGED


WITHOUT_SEARCH = {"matvecs_per_update": K + 1}


@pytest.mark.parametrize(
    ("which", "tops", "wanted"),
    [
        ("SA", [1.2, 1.1, -4.0, -3.0, -2.0], [-4.0, -3.0, -2.0]),
        ("LM", [6.0, 3.0, -4.0, -2.0, -1.5], [6.0, -4.0, 3.0]),
        ("BE", [6.0, 3.0, -4.0, -2.0, -1.5], [6.0, -4.0, 3.0]),
    ],
)
def test_other_ends_by_simultaneous_iteration_alone(which, tops, wanted):
    tracker = spectrum_tracker(K, which=which, **WITHOUT_SEARCH)
    state = tracker.init(jnp.eye(N), jax.random.key(1))
    for _, matrix in moving(lambda t: np.asarray(tops), 40):
        state, metrics = tracker.update(as_operator(matrix), state)
        assert int(metrics["num_matvecs"]) == K + 1
        assert not metrics["searched"]
    assert_allclose(state.eigenvalues, wanted, rtol=1e-2)


def test_the_number_of_pairs_follows_a_threshold():
    tracker = spectrum_tracker(1, max_k=4, threshold=2.0, matvecs_per_update=5)
    state = tracker.init(jnp.eye(N), jax.random.key(1))
    active, products = [], []
    # Two eigenvalues rise to 5 and 4, one after the other, and fall again.
    climb = lambda t, start: np.clip(5 * (t - start), 0, 1) - np.clip(10 * (t - 0.7), 0, 1)
    rising = lambda t: np.asarray([6.0, 1 + 4 * climb(t, 0.1), 1 + 3 * climb(t, 0.3), -1.0, -0.5])
    for _, matrix in moving(rising, 60):
        state, metrics = tracker.update(as_operator(matrix), state)
        active.append(sum(bool(metrics[f"active_{i}"]) for i in range(4)))
        products.append(int(metrics["num_matvecs"]))
        assert np.isneginf(metrics["eigenvalue_3"]) == (active[-1] < 4)
    assert_array_equal(products, np.asarray(active) + 1)
    # The active pairs are those above the threshold and the first one below it.
    assert active[0] == 1
    assert active[5] == 2
    assert active[40] == 4
    assert active[-1] == 2
    assert_allclose(state.eigenvalues[0], 6.0, rtol=1e-3)


@pytest.mark.slow
def test_steps_between_cost_nothing_or_one_product():
    matrices = [m for _, m in moving(lambda t: np.asarray([6 + t, 4, 2.5, -1.0, 0.5]), 7)]
    for between, price in (("hold", 0), ("rayleigh", 1)):
        tracker = spectrum_tracker(1, every=3, between=between, matvecs_per_update=2)
        state = tracker.init(jnp.eye(N), jax.random.key(1))
        for _ in range(30):
            state, _ = tracker.update(as_operator(matrices[0]), state)
        products, values = [], []
        for matrix in matrices:
            state, metrics = tracker.update(as_operator(matrix), state)
            products.append(int(metrics["num_matvecs"]))
            values.append(float(metrics["eigenvalue_0"]))
        assert products == [2, price, price, 2, price, price, 2]
        if between == "hold":
            assert values[0] == values[1] == values[2]
        else:
            assert_allclose(values, 6 + np.arange(7) / 6, rtol=2e-3)


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_small_operators_and_all_pairs(n):
    tracker = spectrum_tracker(n, matvecs_per_update=n + 1)
    matrix = jnp.diag(jnp.arange(1.0, n + 1))
    state = tracker.init(matrix)
    state, metrics = tracker.update(matrix, state)
    assert_allclose(state.eigenvalues, np.arange(n, 0, -1), rtol=1e-5)
    assert int(metrics["num_matvecs"]) == n
    assert state.converged.all()


def test_what_does_not_fit_is_refused():
    for options, error, match in (
        ({"k": 0}, ValueError, "k=0"),
        ({"k": 2.0}, TypeError, "k=2.0"),
        ({"k": 2, "which": "SM"}, ValueError, "SM"),
        ({"k": 2, "every": 0}, ValueError, "every=0"),
        ({"k": 2, "between": "guess"}, ValueError, "between='guess'"),
        ({"k": 2, "matvecs_per_update": 2}, ValueError, "3 matvecs at least"),
        ({"k": 2, "max_k": 4}, ValueError, "needs both"),
        ({"k": 2, "max_k": 2, "threshold": 1.0}, ValueError, "more than k=2"),
        ({"k": 2, "krylov_dim": 2}, ValueError, "krylov_dim=2"),
    ):
        with pytest.raises(error, match=match):
            spectrum_tracker(**options)
    tracker = spectrum_tracker(2, matvecs_per_update=3)
    with pytest.raises(ValueError, match="k=2"):
        tracker.init(jnp.eye(1))
    with pytest.raises(ValueError, match="the state's vector"):
        tracker.update(jnp.eye(4), tracker.init(jnp.eye(3)))
