"""Number of vectors kept at a restart: within its bounds, and at an eigenvalue gap if there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.krylov.restart_size import max_keep, num_keep

# State before the first restart.
NEVER = jnp.zeros(2, jnp.int32)
SIZES = [(k, m, b) for k in (1, 3, 6) for b in (1, 3) for m in (k + b, k + b + 1, k + 2 * b, 20, 30)]


@pytest.mark.slow
@pytest.mark.parametrize(("k", "m", "block_size"), SIZES)
def test_what_is_kept_holds_the_pairs_wanted_and_leaves_room_for_a_block(k, m, block_size, rng):
    most = max_keep(k, m, block_size)
    assert k <= most <= m - block_size
    spectra = [np.sort(rng.standard_normal(m))[::-1], np.ones(m), np.zeros(m), np.logspace(8, -8, m)]
    spectra += [-np.arange(m, dtype=float), np.sort(np.abs(rng.standard_normal(m))) * (-1.0) ** np.arange(m)]
    values = jnp.asarray(np.stack(spectra), jnp.float32)
    for num_valid in {m - block_size, m, m - block_size + 1}:
        counts = np.asarray(jax.vmap(lambda x, n=num_valid: num_keep(x, jnp.int32(n), k, most, NEVER))(values))
        assert (counts >= k).all()
        assert (counts <= most).all()


def test_the_tightest_spaces_keep_all_that_they_can():
    assert max_keep(4, 5, 1) == 4
    assert max_keep(4, 6, 1) == 5
    assert int(num_keep(jnp.arange(5.0)[::-1], jnp.int32(5), 4, 4, NEVER)) == 4


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_an_obvious_gap_within_the_bounds_is_where_the_basis_is_cut(scale, sign):
    # A cut at a larger number would leave too few matvecs for a cycle.
    for cut in (11, 12):
        high, low = np.linspace(9, 8.9, cut), np.linspace(1, 0, 20 - cut)
        values = jnp.asarray(sign * scale * np.concatenate([high, low]), jnp.float32)
        assert int(num_keep(values, jnp.int32(20), 2, max_keep(2, 20, 1), NEVER)) == cut


def test_rows_not_filled_are_no_gap():
    # The zeros are not valid entries: if they counted, the cut would fall directly before them.
    values = np.linspace(10, 9, 20)
    expected = num_keep(jnp.asarray(np.concatenate([values[:18], [values[17]] * 2])), jnp.int32(20), 2, 16, NEVER)
    found = num_keep(jnp.asarray(np.concatenate([values[:18], [0, 0]])), jnp.int32(18), 2, 16, NEVER)
    assert int(found) == int(expected)
    assert int(found) < 16


def test_the_best_cut_is_that_of_the_fastest_growth_a_product():
    # The rule of the module's docstring, by brute force: arccosh(1 + 2 gamma) (1 - s / (m - p)), s = 1 + m / 10.
    generator = np.random.default_rng(1)
    for _ in range(20):
        values = np.sort(generator.standard_normal(24) ** 3)[::-1].astype(np.float32)
        speed = {}
        for p in range(12, 18):
            dropped = values[p:].astype(float)
            gamma = (values[2] - dropped.max()) / (dropped.max() - dropped.min())
            speed[p] = np.arccosh(1 + 2 * gamma) * max(1 - 3.4 / (24 - p), 1 / (3.4 * (24 - p)))
        found = int(num_keep(jnp.asarray(values), jnp.int32(24), 3, 17, NEVER))
        assert speed[found] >= max(speed.values()) * (1 - 1e-4)


def test_the_same_cut_three_times_is_not_made():
    values = jnp.asarray(np.concatenate([np.linspace(9, 8.9, 12), np.linspace(1, 0, 8)]))
    cut = lambda *before: int(num_keep(values, jnp.int32(20), 2, max_keep(2, 20, 1), jnp.array(before)))
    assert cut(12, 10) == cut(10, 12) == 12
    assert cut(12, 12) == 10
    assert cut(12, 10) == 12
