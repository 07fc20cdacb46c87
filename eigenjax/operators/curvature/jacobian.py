"""Matrix-free Jacobian of a model's outputs in its parameters, and the kernel J J^T.

    J v   = d/de f(p + e v, x) at e = 0      (forward mode: directional derivative of the outputs)
    J^T u = grad_p <u, f(p, x)>              (reverse mode)

Over microbatches x = (x_1, x_2, ...) the rows of J are those of J_1, J_2, ..., one below the other: the vectors J_j v
are concatenated, and J^T u = sum_j J_j^T u_j.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.batching import (
    as_arrays,
    batch_examples,
    checked_batch_size,
    num_examples,
    over_slices,
    sum_over_batches,
    working_zeros,
)
from eigenjax.operators.curvature.linear_head import LinearHead
from eigenjax.operators.curvature.modules import parameters_of, without_aux
from eigenjax.operators.functions.captured import CapturedFunction, capture, check_callable
from eigenjax.operators.functions.linearization import linearized
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.parts.selection import Select, merge, partition
from eigenjax.vectors import placement, tree
from eigenjax.vectors.tree import PyTree

Model = Callable[[PyTree, PyTree], PyTree]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class JacobianMap(RectangularOperator):
    """Derivative of model(params, inputs) in the varying parameters."""

    varying: PyTree
    constant: PyTree
    inputs: PyTree
    model: CapturedFunction
    batch_size: int | None = dataclasses.field(metadata={"static": True})

    @property
    def domain(self) -> PyTree:
        """Structure of the varying parameters."""
        return tree.structure_of(self.varying)

    @property
    def codomain(self) -> PyTree:
        """Structure of the model's outputs."""
        first = self.model.results[0]
        if self.batch_size is None:
            return tree.structure_of(first)
        count = num_examples(self.inputs, "inputs")
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=x.sharding), first)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute J v, one microbatch at a time."""
        outputs = self._forward(placement.placed_like(vector, self.varying))
        return over_slices(lambda inputs: ((), outputs(inputs)), self.inputs, self.batch_size, ())[1]

    def adjoint_mv(self, vector: PyTree) -> PyTree:
        """Compute J^T u, summed over microbatches."""
        if self.batch_size is None:
            return placement.placed_like(self._backward(self.inputs, vector), self.varying)
        zero = working_zeros(self.varying)
        total = sum_over_batches(lambda batch: self._backward(*batch), (self.inputs, vector), self.batch_size, zero)
        return placement.placed_like(tree.cast_like(total, self.domain), self.varying)

    def _outputs(self, inputs: PyTree) -> Callable[[PyTree], PyTree]:
        return lambda varying: self.model(merge(varying, self.constant), inputs)

    def _forward(self, vector: PyTree) -> Callable[[PyTree], PyTree]:
        outputs = lambda inputs: lambda varying: (self._outputs(inputs)(varying), None)
        return lambda inputs: linearized(outputs(inputs), self.varying).push(vector)

    def _backward(self, inputs: PyTree, vector: PyTree) -> PyTree:
        return jax.vjp(self._outputs(inputs), self.varying)[1](vector)[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GramOperator(LinearOperator):
    """Gram operator A A^H of a rectangular map, on the output vectors of A."""

    inner: RectangularOperator

    @property
    def structure(self) -> PyTree:
        """Structure of the output vectors of A."""
        return self.inner.codomain

    def mv(self, vector: PyTree) -> PyTree:
        """Compute A (A^H u)."""
        return self.inner.mv(self.inner.adjoint_mv(vector))


@explained
def jacobian(
    model: Model,
    params: PyTree,
    inputs: PyTree,
    *,
    batch_size: int | None = None,
    select: Select | None = None,
    has_aux: bool = False,
) -> RectangularOperator:
    """Build the Jacobian of a model's outputs in its parameters, as a map for `svds`.

        J = d f(p, x) / dp,    from parameters to outputs

    Args:
        model: `model(params, inputs) -> outputs`, a pytree of real arrays of any shapes.
        params: pytree of arrays; integer leaves are constants. Or a flax.nnx module, for `model(module, inputs)`: its
            nnx.Param vary, vectors have the structure of their State, the rest is constant. The module is not modified.
        inputs: inputs of the model; with batch_size a pytree of arrays with a common leading axis of N examples.
        batch_size: number of examples in a microbatch, for the memory of one microbatch. The outputs must then have the
            leading axis N too, and those of an example must depend on it alone. Batch statistics would be those of a
            microbatch.
        select: the parameters that vary; the others are constants, and vectors have None in their place. A function
            `select(path, leaf) -> bool`, a string such as "*/kernel", a compiled regular expression, or a list of
            these.
        has_aux: the model returns a pair (outputs, aux); aux is dropped.

    Returns:
        A map with `mv` (J v, shaped like the outputs), `adjoint_mv` (J^T u, shaped like the selected parameters),
        `domain`, `codomain` and `shape`. `op.transposed()` is J^T.

    Raises:
        ValueError: for an invalid batch_size, an empty selection, inputs of differing lengths, or outputs without an
            axis of examples to concatenate along.
        TypeError: for complex parameters, or outputs that are not real.

    Cost: J v takes about two evaluations of the model, J^T u three, in the memory of a gradient. A model with a
    `custom_vjp` has no forward mode: J v is then the derivative of J^T u, at the same cost.

    Example:
        >>> import eigenjax
        >>> model = lambda params, x: x * params["slope"] + params["offset"]
        >>> op = jacobian(model, {"slope": jnp.ones(()), "offset": jnp.ones(())}, jnp.arange(3.0))
        >>> print(op.shape, op.mv({"slope": jnp.ones(()), "offset": jnp.zeros(())}), op.adjoint_mv(jnp.ones(3)))
        (3, 2) [0. 1. 2.] {'offset': Array(3., dtype=float32), 'slope': Array(3., dtype=float32)}
        >>> print(eigenjax.svds(op, k=1).values.round(4))
        [2.6762]
    """
    check_callable(model, "model")
    batch_size = checked_batch_size(batch_size)
    inputs = as_arrays(inputs, "inputs")
    if batch_size is not None:
        num_examples(inputs, "inputs")
    params, model = parameters_of(params, without_aux(model, "model") if has_aux else model)
    varying, constant = partition(params, select)
    params, batches = merge(varying, constant), batch_examples(inputs, batch_size)
    traced = capture(_formed(model), [(params, batch) for batch in batches], "model")
    _check_outputs(traced.results[0], None if batch_size is None else num_examples(batches[0]))
    return JacobianMap(varying, constant, inputs, traced, batch_size)


@explained
def neural_tangent_kernel(
    model: Model,
    params: PyTree,
    inputs: PyTree,
    *,
    batch_size: int | None = None,
    select: Select | None = None,
    has_aux: bool = False,
) -> LinearOperator:
    """Build the empirical neural tangent kernel J J^T of a model, an operator on its outputs for `eigsh`.

        K = J J^T,    K_ab = <df_a/dp, df_b/dp>

    Its nonzero eigenvalues are those of J^T J, the Gauss-Newton matrix of half the sum of squares.

    Args:
        model: `model(params, inputs) -> outputs`, a pytree of real arrays of any shapes.
        params: pytree of arrays; integer leaves are constants. Or a flax.nnx module, for `model(module, inputs)`: its
            nnx.Param vary, the rest is constant. The module is not modified.
        inputs: inputs of the model; with batch_size a pytree of arrays with a common leading axis of N examples.
        batch_size: number of examples in a microbatch, for the memory of one microbatch. The outputs must then have the
            leading axis N too, and those of an example must depend on it alone.
        select: the parameters that vary; the others are constants. A function `select(path, leaf) -> bool`, a string
            such as "*/kernel", a compiled regular expression, or a list of these.
        has_aux: the model returns a pair (outputs, aux); aux is dropped.

    Returns:
        An operator on pytrees shaped like the outputs, with N times the number of outputs of one example as its size.

    Raises:
        ValueError: for an invalid batch_size, an empty selection, inputs of differing lengths, or outputs without an
            axis of examples to concatenate along.
        TypeError: for complex parameters, or outputs that are not real.

    Cost: a matvec takes one J^T u and one J v, and stores one additional vector of the size of the parameters.

    Example:
        >>> import eigenjax
        >>> kernel = neural_tangent_kernel(lambda p, x: x @ p, jnp.ones(2), jnp.array([[1.0, 0.0], [1.0, 1.0]]))
        >>> print(eigenjax.to_dense(kernel))
        [[1. 1.]
         [1. 2.]]

    Source: Jacot, Gabriel and Hongler (2018), Neural tangent kernel.
    """
    return GramOperator(jacobian(model, params, inputs, batch_size=batch_size, select=select, has_aux=has_aux))


def _formed(model: Model) -> Model:
    """Wrap the model so that it returns full logits instead of a `LinearHead`."""

    @functools.wraps(model)
    def outputs(params: PyTree, inputs: PyTree) -> PyTree:
        result = model(params, inputs)
        return result.logits() if isinstance(result, LinearHead) else result

    return outputs


def _check_outputs(outputs: PyTree, count: int | None) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(outputs)[0]:
        name = f"the model's output{jax.tree_util.keystr(path)}"
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"{name} has dtype {leaf.dtype}: the Jacobian is that of real outputs; leave others out")
        if count is not None and leaf.shape[:1] != (count,):
            raise ValueError(
                f"{name} has shape {leaf.shape}: with batch_size= it needs the leading axis of the {count} examples "
                "of a microbatch"
            )
