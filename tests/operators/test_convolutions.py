"""Convolutions in loops: equal values, in the layout that is fast on a CPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import gauss_newton, hessian, lanczos, svds, to_dense
from eigenjax.operators.functions.convolutions import fast_in_loops

# Layouts in HLO's notation, with images as NHWC and kernels as HWIO.
FAST = {"b0f_0io->b0f", "b01f_01io->b01f"}


def labels(program) -> list[str]:
    """List the layouts of the convolutions in the loop bodies of a compiled program."""
    entry, text = False, []
    for line in program.as_text().splitlines():
        entry = line.startswith("ENTRY") or (entry and not line.startswith("}"))
        text += [] if entry else [line]
    return re.findall(r"dim_labels=(\S+?)[,\s]", "\n".join(text))


def images_loss(kernels, images):
    """Compute the loss of two layers: the first takes channels first (torch), the second channels last (flax)."""
    numbers = ("NCHW", "OIHW", "NHWC")
    hidden = jax.lax.conv_general_dilated(images, kernels[0], (2, 1), "SAME", dimension_numbers=numbers)
    hidden = jax.lax.conv_general_dilated(
        jnp.tanh(hidden), kernels[1], (1, 1), "VALID", rhs_dilation=(1, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.mean(jnp.square(hidden))


@pytest.fixture
def network(rng):
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return (draw(3, 2, 3, 3), draw(2, 2, 3, 2)), draw(4, 2, 8, 7)


def differs(x, y):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.abs(x - y).max() / jnp.abs(y).max()), x, y)))


@pytest.mark.parametrize(
    "options",
    [
        {"dimension_numbers": ("NCH", "OIH", "NCH")},
        {"dimension_numbers": ("CNH", "IOH", "HNC"), "window_strides": (2,), "lhs_dilation": (2,), "padding": [(2, 1)]},
        {"dimension_numbers": ("HNC", "HOI", "CNH"), "padding": [(2, 1)], "rhs_dilation": (2,)},
        {"dimension_numbers": ("NHC", "OIH", "NHC"), "feature_group_count": 2},
        {"dimension_numbers": ("NCH", "OIH", "NHC"), "batch_group_count": 2},
    ],
)
def test_all_forms_are_the_same_convolution(rng, options):
    axes = {"N": 4, "C": 6, "H": 9, "O": 6, "I": 6 // options.get("feature_group_count", 1), "kernel H": 3}
    spec = options["dimension_numbers"]
    images = jnp.asarray(rng.normal(size=[axes[name] for name in spec[0]]), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=[axes["kernel H" if name == "H" else name] for name in spec[1]]), jnp.float32)
    convolve = functools.partial(jax.lax.conv_general_dilated, **{"window_strides": (1,), "padding": "SAME", **options})
    found = jax.jit(fast_in_loops(convolve))(images, kernel)
    assert differs(found, convolve(images, kernel)) < 1e-6


def test_within_loops_branches_checkpoints_and_rules_of_their_own(network):
    kernels, images = network

    @jax.custom_vjp
    def ruled(kernels):
        return images_loss(kernels, images)

    ruled.defvjp(lambda x: jax.vjp(lambda x: images_loss(x, images), x), lambda pull, bar: pull(bar))

    def nested(kernels):
        body = lambda carry, _: (carry + jax.checkpoint(jax.grad(ruled))(kernels)[0], None)
        total, _ = jax.lax.scan(body, jnp.zeros_like(kernels[0]), length=2)
        return jax.lax.cond(total[0, 0, 0, 0] > -jnp.inf, lambda: total + jax.grad(ruled)(kernels)[0], lambda: total)

    fast = jax.jit(fast_in_loops(nested)).lower(kernels).compile()
    assert differs(fast(kernels), 3 * jax.grad(ruled)(kernels)[0]) < 1e-5
    assert labels(fast)
    assert set(labels(fast)) <= FAST


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 3])
def test_every_convolution_of_a_solve_is_fast(network, batch_size):
    kernels, images = network
    solve = jax.jit(
        lambda kernels, images: lanczos(hessian(images_loss, kernels, images, batch_size=batch_size), 1, krylov_dim=40)
    )
    program = solve.lower(kernels, images).compile()
    assert labels(program)
    assert set(labels(program)) <= FAST
    dense = np.asarray(to_dense(hessian(images_loss, kernels, images)), "f8")
    largest = np.abs(np.linalg.eigvalsh((dense + dense.T) / 2)).max()
    assert_allclose(np.abs(program(kernels, images).eigenvalues[0]), largest, rtol=1e-5)


@pytest.mark.slow
def test_the_adjoint_of_a_convolution_is_fast_too(network):
    kernels, images = network
    apply = lambda kernels, images: jax.lax.conv(images, kernels[0], (1, 1), "SAME")
    loss = lambda outputs, targets: jnp.mean(jnp.square(outputs - targets))

    def solve(kernels, images):
        map_of = lambda x: jax.lax.conv(x, kernels[0], (1, 1), "SAME")
        op = gauss_newton(apply, loss, kernels, (images, apply(kernels, images)))
        return svds(map_of, 1, v0=images, krylov_dim=6).values, lanczos(op, 1, krylov_dim=6).eigenvalues

    assert set(labels(jax.jit(solve).lower(kernels, images).compile())) <= FAST


def test_derivatives_go_through(network):
    kernels, images = network
    plain = lambda kernels, images: jnp.sum(jax.grad(images_loss)(kernels, images)[1] ** 2)
    fast = fast_in_loops(plain)
    gradients = (jax.jit(jax.grad(function, argnums=(0, 1)))(kernels, images) for function in (fast, plain))
    assert differs(*gradients) < 1e-5
    batches = jnp.stack([images, 2 * images])
    values = (jax.jit(jax.vmap(function, (None, 0)))(kernels, batches) for function in (fast, plain))
    assert differs(*values) < 1e-5
