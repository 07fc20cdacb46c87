"""Programs of one operator, with the memory that their docstrings promise, in vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import eigenjax
from eigenjax import LinearOperator

K, M, PROBES = 4, 20, 30
_KEY_DATA = (0, 0)


class Program(NamedTuple):
    """Function of an operator."""

    run: Callable[[LinearOperator], Any]
    promised: float | None  # vectors besides those of a matvec, results included; None if no docstring says
    is_quick: bool = False  # whether it belongs to the cross-section that every test run compiles


def _key() -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(_KEY_DATA, jnp.uint32), impl="threefry2x32")


def tracked(op: LinearOperator, k: int = K) -> Any:
    """Run one update of a tracker."""
    tracker = eigenjax.spectrum_tracker(k)
    return tracker.update(op, tracker.init(op, _key()))


def _triplets(op: LinearOperator) -> Any:
    return eigenjax.svds(op, K, krylov_dim=M)


def _ones(op: LinearOperator) -> Any:
    return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), op.structure)


def _exponential(op: LinearOperator) -> Any:
    return eigenjax.expm_multiply(op, _ones(op), krylov_dim=M, max_matvecs=10 * M)


def _exponential_slope(op: LinearOperator) -> Any:
    total = lambda op: sum(jnp.sum(x) for x in jax.tree.leaves(_exponential(op).vector))
    return jax.grad(total, allow_int=True)(op)


def _logdet(op: LinearOperator) -> Any:
    return eigenjax.logdet(op, key=_key(), num_probes=2, krylov_dim=M)


_KRYLOV = M + max(K, M / 5) + 5
_NARROW = 0.9 * M + 2 * K + 6

PROGRAMS: dict[str, Program] = {
    "lanczos": Program(lambda op: eigenjax.lanczos(op, K, krylov_dim=M), M + K + 6),
    "eigsh": Program(lambda op: eigenjax.eigsh(op, K, krylov_dim=M), _KRYLOV, True),
    "eigsh, sigma": Program(lambda op: eigenjax.eigsh(op, K, krylov_dim=M, sigma=0.5), _KRYLOV),
    "eigsh, block of 4": Program(lambda op: eigenjax.eigsh(op, K, krylov_dim=M, block_size=4), _KRYLOV + 8),
    "eigsh, offload": Program(lambda op: eigenjax.eigsh(op, K, krylov_dim=M, basis="offload"), 2 * M / 5 + 7, True),
    "eigsh, bfloat16 basis": Program(lambda op: eigenjax.eigsh(op, K, krylov_dim=M, basis_dtype="bfloat16"), _NARROW),
    "eigsh, recompute": Program(lambda op: eigenjax.eigsh(op, K, basis="recompute"), 2 * K + 6),
    "eigsh, preconditioner": Program(lambda op: eigenjax.eigsh(op, K, preconditioner=lambda v: v), 16 * (K + 1)),
    "deflated_power_iteration": Program(lambda op: eigenjax.deflated_power_iteration(op, K), K + 6),
    "eigs": Program(lambda op: eigenjax.eigs(op, K, krylov_dim=M), M + 2 * K + M / 4 + 6),
    "svds": Program(_triplets, 2 * (M + K + 3)),
    "trace": Program(lambda op: eigenjax.trace(op, key=_key(), num_matvecs=PROBES), 2 * PROBES),
    "trace, hutch++": Program(
        lambda op: eigenjax.trace(op, key=_key(), num_matvecs=PROBES, method="hutch++"), 2 * PROBES / 3
    ),
    "trace, hutchinson": Program(lambda op: eigenjax.trace(op, key=_key(), num_matvecs=PROBES, method="hutchinson"), 3),
    "diagonal": Program(lambda op: eigenjax.diagonal(op, key=_key(), num_matvecs=PROBES), 2 * PROBES),
    "frobenius_norm": Program(lambda op: eigenjax.frobenius_norm(op, key=_key(), num_matvecs=PROBES), None),
    "spectral_density": Program(
        lambda op: eigenjax.spectral_density(op, key=_key(), num_probes=2, krylov_dim=M), M + 4
    ),
    "logdet": Program(_logdet, M + 4),
    "logdet, gradient": Program(lambda op: jax.grad(lambda op: _logdet(op).estimate, allow_int=True)(op), M + 4 + 12),
    "expm_multiply": Program(_exponential, M + 5),
    "expm_multiply, gradient": Program(_exponential_slope, 2 * M + 10 + 5),
    "matrix_function, not symmetric": Program(
        lambda op: eigenjax.matrix_function(op, jnp.sqrt, _ones(op), krylov_dim=M, symmetric=False), M + 4
    ),
    "spectrum_tracker": Program(tracked, M + K + 4 + 2 * K + 1),
}

# Gradients of a loss of eigenvalues and eigenvectors: functions from an operator to a result.
SOLVES: dict[str, Callable[[LinearOperator], Any]] = {
    "eigsh": lambda op: eigenjax.eigsh(op, K, krylov_dim=M),
    "eigs": lambda op: eigenjax.eigs(op, K, krylov_dim=M),
    "svds": _triplets,
}


def loss_of(result: Any) -> jax.Array:
    """Compute a loss of all values and vectors of a result, real."""
    vectors = (result.left, result.right) if hasattr(result, "left") else result.eigenvectors
    values = result.values if hasattr(result, "values") else result.eigenvalues
    fourth = sum(jnp.sum(jnp.square(jnp.square(jnp.abs(x)))) for x in jax.tree.leaves(vectors))
    return fourth + jnp.sum(jnp.abs(values))


DENSE: dict[str, Callable[[jax.Array], Any]] = {
    "eigh": eigenjax.eigh,
    "svd": eigenjax.svd,
    "eigh, gradient": jax.grad(lambda a: jnp.sum(jnp.square(eigenjax.eigh(a).eigenvectors[..., 0]) ** 2)),
    "svd, gradient": jax.grad(lambda a: jnp.sum(jnp.square(eigenjax.svd(a)[0][..., 0]) ** 2)),
    "eigsh of a batch": jax.vmap(lambda a: eigenjax.eigsh(a, 3)),
    "svds of a batch": jax.vmap(lambda a: eigenjax.svds(a, 3)),
    "eigs of a batch": jax.vmap(lambda a: eigenjax.eigs(a, 3)),
}
