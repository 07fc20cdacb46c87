"""Overlaps of the subspaces of the top eigenvectors between steps, for instance of a training run."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.report.pictures import canvas
from eigenjax.report.pictures.words import literal, word
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Up to this many steps the overlaps are written into the squares, and all steps are labeled.
_FEW = 8
# Longest name of a step, in characters.
_LONGEST = 16


def subspace_overlaps(bases: Sequence[PyTree]) -> np.ndarray:
    """Compute the overlaps of the subspaces spanned by bases: 1 for equal subspaces, 0 for orthogonal ones.

        O_st = ||V_s^H V_t||_F^2 / k

    is the mean squared cosine of the k principal angles. It is about k / n for random subspaces.

    Args:
        bases: t bases, each of k orthonormal vectors as a solver returns them, with a leading axis k on every leaf.

    Returns:
        (t, t) numbers from 0 to 1.

    Raises:
        ValueError: for no bases, or if their shapes differ.

    Cost: t (t + 1) / 2 matrix products (k, n) x (n, k); no matvecs.

    Example:
        >>> print(subspace_overlaps([jnp.eye(4)[:2], jnp.eye(4)[1:3]]))
        [[1.  0.5]
         [0.5 1. ]]

    Source: Gur-Ari, Roberts and Dyer (2018), Gradient descent happens in a tiny subspace.
    """
    bases = list(bases)
    if not bases:
        raise ValueError("bases is empty: give the eigenvectors of at least one step")
    shapes = [jax.tree.map(jnp.shape, basis) for basis in bases]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"bases differ in shape: {shapes[0]} and {next(s for s in shapes if s != shapes[0])}")
    k = jax.tree.leaves(bases[0])[0].shape[0]
    overlaps = np.empty((len(bases), len(bases)))
    for s, t in zip(*np.triu_indices(len(bases)), strict=True):
        common = np.asarray(tree.gram(bases[s], bases[t]))
        overlaps[s, t] = overlaps[t, s] = np.sum(np.abs(common) ** 2) / k
    return overlaps


def draw_overlaps(overlaps: Any, *, steps: Any = None, axes: Any = None) -> Any:
    """Draw the overlaps of the top eigenspaces between steps, as a map with colors from 0 to 1.

    Args:
        overlaps: (t, t) overlaps, as returned by `subspace_overlaps`.
        steps: (t,) labels of the rows and columns; None numbers them.
        axes: matplotlib axes to draw on; None creates a figure.

    Returns:
        The axes.

    Raises:
        ValueError: if overlaps is not square, or the number of steps differs.

    Example:
        >>> axes = draw_overlaps([[1.0, 0.5], [0.5, 1.0]], steps=[0, 100])
        >>> [text.get_text() for text in axes.get_xticklabels()]
        ['0', '100']
    """
    overlaps = canvas.numbers("overlaps", overlaps, ndim=(2,))
    if overlaps.shape[0] != overlaps.shape[1]:
        raise ValueError(f"overlaps has the shape {overlaps.shape}: give a square array, as subspace_overlaps returns")
    count = len(overlaps)
    names = np.arange(count) if steps is None else np.asarray(steps)
    canvas.paired("steps", names, "overlaps", overlaps)
    axes = canvas.axes_or_new(axes, 5.2, 4.4)
    image = axes.imshow(overlaps, vmin=0, vmax=1, cmap="viridis", origin="lower")
    ticks = np.arange(0, count, -(-count // _FEW))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [word(names[i], _LONGEST) for i in ticks])
        literal(axis.get_ticklabels())
    if count <= _FEW:
        _write_numbers(axes, overlaps)
    bar = axes.figure.colorbar(image, ax=axes)
    canvas.dress(bar.ax, y="overlap: 1 the same space, 0 orthogonal", grid=False)
    bar.outline.set_visible(False)
    return canvas.dress(axes, title="Overlap of the top eigenspaces", x="step", y="step", grid=False)


def _write_numbers(axes: Any, overlaps: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(overlaps):
        # Dark text on bright squares.
        color = "#111111" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize="small")
