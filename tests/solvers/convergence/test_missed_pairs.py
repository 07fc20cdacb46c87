"""Missed-pair search: it finds all wanted copies, ends, and reports a budget that ends it early."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, eigs, eigsh, svds
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.solvers.convergence import search_targets
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.plan import initialize_solve, planned
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.storage import Storage


def ring(n):
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)


def low_rank(n, rank):
    rows = np.random.default_rng(4).normal(size=(rank, n))
    return rows.T @ rows


PROBLEMS = {
    "ring": (ring(70), "SA", 7),
    "torus": (np.kron(ring(8), np.eye(9)) + np.kron(np.eye(8), ring(9)), "LA", 5),
    "kernel": (low_rank(80, 6), "SA", 4),
    "both ends": (np.diag(np.r_[[-4.0, -4, 7, 7, 7, 6], np.linspace(-1, 2, 70)]), "BE", 5),
    "magnitudes": (np.diag(np.r_[[-4.0, -4, 4, 4, 3], np.linspace(-1, 2, 70)]), "LM", 5),
}


def wanted(matrix, which, k):
    values = np.linalg.eigvalsh(matrix)
    if which == "BE":
        return np.r_[values[: k // 2], values[len(values) - (k + 1) // 2 :]]
    return np.sort(values[np.argsort({"LA": -values, "SA": values, "LM": -np.abs(values)}[which], kind="stable")[:k]])


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_copies_are_found_by_default(name, dtype):
    matrix, which, k = PROBLEMS[name]
    matrix = matrix.astype(dtype)
    op = as_operator(lambda v: jnp.asarray(matrix) @ v, like=jax.ShapeDtypeStruct((len(matrix),), dtype))
    result = eigsh(op, k, which=which)
    assert result.status == Status.CONVERGED
    slack = 2 * np.finfo(dtype).eps ** 0.5 * np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(np.sort(np.asarray(result.eigenvalues)), wanted(matrix, which, k), rtol=0, atol=slack)


@pytest.mark.slow
@pytest.mark.parametrize("copies", [5, 7])
def test_loose_pairs_that_are_locked_leave_room_for_their_copies(copies, float64):
    # If the search locked pairs at the bound itself, not at a fraction of it, it would run until the budget ends it.
    diagonal = np.r_[np.zeros(copies), np.random.default_rng((5, 7).index(copies) * 2).uniform(0.1, 1, 120 - copies)]
    solve = lambda key: eigsh(jnp.diag(jnp.asarray(diagonal)), 12, key=key, which="SA", tol=1e-2)
    found = jax.jit(jax.vmap(solve))(jax.random.split(jax.random.key(0), 32))
    assert np.all(np.asarray(found.status) == Status.CONVERGED)
    np.testing.assert_allclose(found.eigenvalues, np.broadcast_to(np.sort(diagonal)[:12], (32, 12)), rtol=0, atol=1e-2)
    # In about one of 500 draws the dropped residuals perturb a locked pair to its bound, and the search takes longer.
    counts = np.sort(found.num_matvecs)
    assert counts[-2] < 2 * np.median(counts)


@pytest.mark.slow
def test_the_first_ritz_value_of_a_search_does_not_end_it():
    # The second copy has a component of 1/100 in a random vector: one step does not show it.
    diagonal = np.concatenate([[20.0, 20.0, 20.0, 7.0], np.linspace(0.0, 1.0, 116)])
    matrix = jnp.diag(jnp.asarray(diagonal, jnp.float32))
    keys = jax.random.split(jax.random.key(5), 300)
    found = jax.jit(jax.vmap(lambda key: eigsh(matrix, 3, key=key)))(keys)
    np.testing.assert_allclose(found.eigenvalues, np.full((300, 3), 20.0), rtol=1e-5)
    # Pairs that converge to tol / 10 before they are locked stay converged.
    assert (np.asarray(found.status) == Status.CONVERGED).all()


@pytest.mark.usefixtures("float64")
def test_a_search_ends_on_a_large_ring():
    result = eigsh(jnp.asarray(ring(240)), 4, which="SA")
    np.testing.assert_allclose(result.eigenvalues, np.linalg.eigvalsh(ring(240))[:4], rtol=0, atol=1e-9)
    assert int(result.num_matvecs) < 1200


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_budget_that_ends_a_search_is_reported():
    # Each budget lacks the last matvecs of the search.
    matrix = jnp.asarray(ring(90))
    rectangular = jnp.asarray(np.diag(np.r_[5.0, 5.0, np.linspace(0, 4.5, 60)])[:, :61])
    for solve in (functools.partial(eigsh, matrix, 5, which="SA"), functools.partial(eigs, matrix, 3)):
        result = solve(max_matvecs=int(solve().num_matvecs) - 12)
        assert result.converged.all()
        assert result.status == Status.UNVERIFIED
    result = svds(rectangular, 2, max_matvecs=int(svds(rectangular, 2).num_matvecs) - 12)
    assert result.converged.all()
    assert result.status == Status.UNVERIFIED


def hopping(v):
    """Apply the Laplacian of a path with zero boundary; its eigenvectors are even or odd."""
    return 2 * v - jnp.pad(v[1:], (0, 1)) - jnp.pad(v[:-1], (1, 0))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rows", [1, 2, 4], ids=lambda rows: f"{rows} even vectors")
def test_start_vectors_with_a_symmetry_lose_nothing(rows):
    n = 50
    even = np.cos(np.outer(np.arange(rows), np.linspace(-1, 1, n)))
    op = as_operator(hopping, like=jnp.zeros(n))
    result = eigsh(op, 4, which="SA", v0=jnp.asarray(even[0] if rows == 1 else even))
    exact = 4 * np.sin(np.arange(1, 5) * np.pi / 2 / (n + 1)) ** 2
    np.testing.assert_allclose(result.eigenvalues, exact, rtol=0, atol=1e-8)
    assert result.status == Status.CONVERGED


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_copies_of_singular_values_and_of_general_eigenvalues_are_found(rotated, rng):
    spectrum = np.r_[9, 9, 9, 8, 8, 5, np.linspace(0, 3, 64)]
    left, right = (np.linalg.qr(rng.standard_normal((n, 70)))[0] for n in (90, 70))
    found = svds(jnp.asarray((left * spectrum) @ right.T), 5)
    np.testing.assert_allclose(found.values, [9, 9, 9, 8, 8], rtol=0, atol=1e-8)
    assert found.status == Status.CONVERGED
    basis = right + 0.2 * rng.standard_normal((70, 70)) / 70**0.5
    found = eigs(jnp.asarray(basis @ np.diag(spectrum) @ np.linalg.inv(basis)), 5, which="LR")
    np.testing.assert_allclose(found.eigenvalues, [9, 9, 9, 8, 8], rtol=0, atol=1e-6)
    assert found.status == Status.CONVERGED


def searching(matrix, k, which, tol):
    """Return the solver states from the start of the missed-pair search on."""
    op = as_operator(jnp.asarray(matrix))
    options = {
        "krylov_dim": 16,
        "max_matvecs": 2000,
        "block_size": 1,
        "interior": False,
        "verify": True,
        "storage": Storage(),
    }
    plan = planned(op, k, which=which, tol=tol, **options)
    state, _, _ = initialize_solve(op, plan, None, seed_of(None))
    step = jax.jit(functools.partial(restarted_lanczos.step, spec=plan.spec, tol=plan.tol, sigma=0.0))
    while not state.done:
        state = step(op, state)
        if state.search.running:
            yield state


@pytest.mark.usefixtures("float64")
def test_residuals_of_locked_pairs_hold_what_was_dropped_of_them():
    matrix = ring(60)
    checks = 0
    for state in searching(matrix, 4, "SA", 1e-5):
        if state.search.starts or not np.isfinite(np.asarray(state.found.residuals[:4])).all():
            continue
        # The residuals of the last convergence check, before a restart changes the basis.
        vectors = np.asarray(state.found.coefficients[:, :4]).T @ np.asarray(state.krylov.basis)
        if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 1e-8:
            continue
        values = np.asarray(state.found.values[:4])
        true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
        if np.abs(np.sum((vectors @ matrix) * vectors, axis=1) - values).max() < 1e-10:
            checks += 1
            # Estimated residuals, in which squares add up.
            np.testing.assert_array_less(0.2 * true, np.asarray(state.found.residuals[:4]) + 1e-13)
            # Squares of dropped components are added once, not at every restart.
            locked = np.asarray(state.found.residuals[:4])[true < 1e-5]
            np.testing.assert_array_less(locked, 1e-5 * 4)
    assert checks > 5


def test_levels_are_the_values_wanted_and_beyond():
    spec = SolveSpec(k=3, which="BE", interior=False, verify=True, max_matvecs=10)
    values = jnp.array([5.0, -2.0, 4.0])
    levels = search_targets.levels(spec, values, jnp.float32(0.5), jnp.float32(0))
    np.testing.assert_allclose(levels, [5, -2, 4, 4.5, -2.5])
    options = {"slack": jnp.float32(0.1), "sigma": jnp.float32(0), "missed_before": jnp.float32(1e-3)}
    needed = search_targets.needed_amplitudes(spec, values, 100, **options)
    # A copy of the largest displaces the 4; a copy of the last value at either end displaces none.
    np.testing.assert_allclose(needed, [1e7, 0, 0, 1e4, 1e4])
    interior = SolveSpec(k=2, which="LA", interior=True, verify=True, max_matvecs=10)
    levels = search_targets.levels(interior, jnp.array([1.1, 0.7]), jnp.float32(0.05), jnp.float32(1))
    np.testing.assert_allclose(levels, [1.1, 0.7, 0.75, 1.25], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"which": "LM"}, {"sigma": 0.25}], ids=str)
def test_a_tie_that_the_last_pair_cuts_ends_the_search(options, rng):
    # Of two values at equal distance from the center either may be the last one, whichever rounding prefers.
    distances = np.arange(1, 21) if "which" in options else np.arange(1, 21) / 20
    center = options.get("sigma", 0.0)
    values = np.concatenate([center + distances, center - distances])
    basis, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    matrix = jnp.asarray((basis * values) @ basis.T, jnp.float32)
    solve = jax.jit(jax.vmap(lambda key: eigsh(matrix, 7, key=key, tol=2e-6, krylov_dim=30, **options)))
    results = solve(jax.random.split(jax.random.key(0), 12))
    wanted = np.sort(distances)[-4:] if "which" in options else distances[:4]
    assert np.all(results.status == Status.CONVERGED)
    assert np.all(results.num_probes <= 4)
    found = np.sort(np.abs(np.asarray(results.eigenvalues) - center), axis=1)
    expected = np.sort(np.repeat(wanted, 2)[1:] if "which" in options else np.repeat(wanted, 2)[:7])
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=0, atol=1e-4)
