"""Collectives of a compiled program, with the loops that contain them, read from the text of the program.

XLA's text has one instruction per line, in computations; a `while` names its body. The name scope `PRODUCT`, in which
`named` computes the matvecs, distinguishes the operator's collectives from the solver's: XLA keeps the scope in the
name of each instruction.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from eigenjax import as_operator
from eigenjax.vectors.tree import PyTree

PRODUCT = "the_product"
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# In an adjoint derived by JAX, the name is transpose(the_product).
_OF_PRODUCT = re.compile(rf"[/(]{PRODUCT}[/)]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_BYTES |= {"c64": 8, "c128": 16, "s16": 2, "u16": 2}


class Collective(NamedTuple):
    """Instruction that sends data between devices."""

    kind: str
    bytes: int  # bytes that one device receives
    loops: tuple[str, ...]  # the loop bodies that contain it, the outermost first
    is_product: bool  # True if it belongs to the operator


class Loop(NamedTuple):
    """Loop with matvecs in its body."""

    path: tuple[str, ...]
    step: tuple[Collective, ...]  # in each iteration, besides those of the matvec
    passes: tuple[Collective, ...]  # in the nested loop with the most collectives: a Gram-Schmidt pass
    rare: tuple[Collective, ...]  # in other nested loops, at any depth: at a breakdown
    product: tuple[Collective, ...]  # those of the matvec
    is_innermost: bool  # True if no nested loop has matvecs


def named(op: Any, like: PyTree = None) -> Any:
    """Wrap an operator so that its matvecs are in the name scope `PRODUCT`."""

    def product(vector):
        with jax.named_scope(PRODUCT):
            # The barrier keeps computations that only prepare the vector for the matvec inside the name scope.
            return op(jax.lax.optimization_barrier(vector))

    return as_operator(product, like=op.structure if like is None else like)


def collectives(text: str) -> list[Collective]:
    """List all collectives of a program; those in a loop are listed once."""
    computations, entry = _parsed(text)
    return list(_walk(computations, entry, ()))


def product_loops(text: str) -> list[Loop]:
    """List the loops with matvecs in the body, such as the steps of a Krylov space; not loops within a matvec."""
    computations, entry = _parsed(text)
    found = list(_walk(computations, entry, ()))
    paths = sorted({path for path in _bodies(computations, entry, ()) if _takes_products(computations, path[-1])})
    loops = []
    for path in paths:
        inside = [one for one in found if one.loops[: len(path)] == path]
        # Collectives of a nested loop with matvecs belong to that loop.
        nested = [other for other in paths if other != path and other[: len(path)] == path]
        inside = [one for one in inside if not any(one.loops[: len(other)] == other for other in nested)]
        of_solver = [one for one in inside if not one.is_product]
        within = sorted({one.loops[: len(path) + 1] for one in of_solver if len(one.loops) == len(path) + 1})
        inner_loops = [tuple(one for one in of_solver if one.loops == other) for other in within]
        step, passes = tuple(one for one in of_solver if one.loops == path), max(inner_loops, key=len, default=())
        rare = tuple(one for one in of_solver if one not in step and one not in passes)
        product = tuple(one for one in inside if one.is_product)
        loops.append(Loop(path, step, passes, rare, product, not nested))
    return loops


class _Instruction(NamedTuple):
    opcode: str
    bytes: int
    called: tuple[str, ...]
    op_name: str


def _parsed(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if (match := COMPUTATION.match(line)) is not None:
            name = match[1]
            computations[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and (match := INSTRUCTION.match(line)) is not None:
            branches = [part.strip().lstrip("%") for found in BRANCHES.findall(line) for part in found.split(",")]
            called = (*_CALLED.findall(line), *branches)
            op_name = found[1] if (found := _OP_NAME.search(line)) is not None else ""
            computations[name].append(_Instruction(match[2], _size(match[1]), called, op_name))
    return computations, entry


def _size(shape: str) -> int:
    total = 0
    for dtype, axes in _ARRAY.findall(shape):
        count = 1
        for axis in filter(None, axes.split(",")):
            count *= int(axis)
        total += count * _BYTES.get(dtype, 0)
    return total


def _walk(computations: dict[str, list[_Instruction]], name: str, loops: tuple[str, ...]) -> Iterator[Collective]:
    for line in computations.get(name, ()):
        kind = line.opcode.removesuffix("-start")
        if kind in KINDS:
            # A name without a path is an argument, such as a parameter, which only matvecs gather.
            is_product = _of_product(line) or (bool(line.op_name) and "/" not in line.op_name)
            yield Collective(kind, line.bytes, loops, is_product)
        elif line.opcode == "while":
            yield from _walk(computations, line.called[0], (*loops, line.called[0]))
        elif line.opcode in ("call", "conditional", "async-start"):
            for called in line.called:
                yield from _walk(computations, called, loops)


def _bodies(
    computations: dict[str, list[_Instruction]], name: str, loops: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    for line in computations.get(name, ()):
        if line.opcode == "while":
            if not _of_product(line):
                yield (*loops, line.called[0])
                yield from _bodies(computations, line.called[0], (*loops, line.called[0]))
        elif line.opcode in ("call", "conditional"):
            for called in line.called:
                yield from _bodies(computations, called, loops)


def _takes_products(computations: dict[str, list[_Instruction]], name: str) -> bool:
    """Return whether a computation, or a branch or call in it, makes a matvec; loops in it are not looked into."""
    body = computations.get(name, [])
    branches = [called for line in body if line.opcode in ("call", "conditional") for called in line.called]
    return any(_of_product(line) for line in body) or any(_takes_products(computations, other) for other in branches)


def _of_product(line: _Instruction) -> bool:
    return _OF_PRODUCT.search(line.op_name) is not None
