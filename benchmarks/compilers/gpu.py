"""Claim: an H100 runs few kernels a step, waits for the host in few loops, and holds what the docstrings promise.

The solvers are compiled for an H100, which need not exist, with a diagonal operator on 2^22 numbers. For each program
`vectors` are the temporaries in vectors, and `promised` is the number in the docstring. For each of its loops:

- `loop`: its place in the tree of loops, "1.2" is the second loop in the first one; "program" is what is in no loop;
- `turns`: how many it makes, or "data" if its end depends on data: then the host waits for the device at every turn;
- `kernels`: fusions, library calls and copies in one turn, without those of its inner loops.

    python -m benchmarks.compilers.gpu [--quick] [--out DIR]
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from benchmarks.compilers import problems, targets
from benchmarks.compilers.programs import PROGRAMS, SOLVES, K, M, loss_of
from benchmarks.support import timing
from benchmarks.support.compiled_program import BRANCHES, COMPUTATION, INSTRUCTION

Row = dict[str, Any]
_COUNTED = ("lanczos", "eigsh", "eigsh, sigma", "eigs", "svds", "spectrum_tracker")
_KERNELS = ("fusion", "custom-call", "copy", "reduce", "dot", "sort")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(r"(?:true_computation|false_computation|to_apply|calls)=%?([\w.\-]+)")


def loops(text: str) -> Iterator[Row]:
    """List the loops of a program's text, an outer one before those inside it."""
    bodies, entry = _computations(text)
    yield from _inside(bodies, entry, "program", "1")


def _inside(bodies: dict[str, list[str]], name: str, path: str, turns: str) -> Iterator[Row]:
    lines = list(_lines(bodies, name))
    opcodes = [match[2] for line in lines if (match := INSTRUCTION.match(line))]
    kernels = sum(opcode in _KERNELS for opcode in opcodes)
    yield {"loop": path, "turns": turns, "kernels": kernels}
    inner = [line for line in lines if " while(" in line]
    for i, line in enumerate(inner, 1):
        known = _TURNS.search(line)
        place = f"{i}" if path == "program" else f"{path}.{i}"
        yield from _inside(bodies, _BODY.search(line)[1], place, known[1] if known else "data")


def _lines(bodies: dict[str, list[str]], name: str) -> Iterator[str]:
    """Return the instructions of a computation, and of the branches and calls in it."""
    for line in bodies.get(name, ()):
        yield line
        if " conditional(" in line or " call(" in line:
            listed = [part.strip().lstrip("%") for found in BRANCHES.findall(line) for part in found.split(",")]
            for called in (*_BRANCHES.findall(line), *listed):
                yield from _lines(bodies, called)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match[1]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and not line.startswith("}"):
            bodies[name].append(line)
        else:
            name = ""
    return bodies, entry


def rows_of(name: str, run: Any, promised: float | None) -> Iterator[Row]:
    """Compile a program, and return a row for each of its loops."""
    target = targets.h100()
    problem = problems.flat(target)
    function = lambda d: run(problem.build(d))
    found = targets.compiled(target, function, *problem.arguments)
    labels = {"target": target.name, "program": name, "compile_s": round(found.seconds, 1)}
    labels |= {"vectors": found.temporary / problem.vector, "promised": promised}
    for loop in loops(found.text):
        yield labels | loop


def main(argv: Sequence[str] | None = None) -> None:
    """Compile the programs and record their loops; the file is written after every program."""
    args = timing.arguments(__doc__, 1, argv)
    rows: list[Row] = []
    for name in _COUNTED[:1] if args.quick else _COUNTED:
        rows += rows_of(name, PROGRAMS[name].run, PROGRAMS[name].promised)
        timing.write("compiled_for_gpu", rows, args)
    if not args.quick:
        gradient = lambda op: jax.grad(lambda op: loss_of(SOLVES["eigsh"](op)), allow_int=True)(op)
        rows += rows_of("gradient of eigsh", gradient, M + 7 * K + 11.0)
    timing.record("compiled_for_gpu", rows, args)


if __name__ == "__main__":
    main()
