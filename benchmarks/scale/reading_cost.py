"""Claim: the code is read in short files and functions, and few calls lie between a user and the multiplication.

Counts lines of a file and of a function's body, arguments of a function, names defined in the modules that `eigsh`
imports, and frames of the package on the stack: from `eigsh` to the matvec, and from `jax.grad` to a step of conjugate
gradients.

    python -m benchmarks.scale.reading_cost
"""

import ast
import inspect
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp

import eigenjax
from benchmarks.support import timing

PACKAGE = Path(eigenjax.__file__).parent
START = "eigenjax.solvers.symmetric.eigsh"


def modules() -> dict[str, ast.Module]:
    """Parse every module of the package."""
    parsed = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("eigenjax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        parsed[name] = ast.parse(path.read_text())
    return parsed


def imports(module: ast.Module, sources: dict[str, ast.Module]) -> Iterator[str]:
    """Yield the modules of the package that a module imports."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                # A package named on the way to a module is no import of what it brings together.
                yield from [part for part in (name, node.module) if part in sources][:1]


def closure(start: str, sources: dict[str, ast.Module]) -> set[str]:
    """Collect the modules reached by imports from one module, packages' docstrings aside."""
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(imports(sources[name], sources))
    return {name for name in reached if sources[name].body[1:]}


def functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield every function, methods and inner ones included."""
    yield from (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef))


def body_lines(function: ast.FunctionDef) -> int:
    """Count the lines of a body without its docstring."""
    first = function.body[0]
    start = first.end_lineno + 1 if ast.get_docstring(function) and first.end_lineno else first.lineno
    return (function.end_lineno or start) - start + 1


def definitions(module: ast.Module) -> int:
    """Count the functions, classes and constants of a module, methods and fields not among them."""
    kinds = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    return sum(isinstance(node, kinds) for node in module.body)


def frames_of_package(frame: FrameType | None) -> int:
    """Count the frames of the package on the stack."""
    count = 0
    while frame is not None:
        count += Path(frame.f_code.co_filename).is_relative_to(PACKAGE)
        frame = frame.f_back
    return count


def frames_to_matvec() -> int:
    """Count the frames between a call of `eigsh` and the matvec of a plain function, at most."""
    seen = []

    def matvec(v: jax.Array) -> jax.Array:
        seen.append(frames_of_package(inspect.currentframe()))
        return 2.0 * v

    eigenjax.eigsh(matvec, 1, like=jnp.ones(50))
    return max(seen)


def frames_to_conjugate_gradients() -> int:
    """Count the frames between `jax.grad` and a step of conjugate gradients, at most."""
    seen = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == "_step" and Path(code.co_filename).stem == "conjugate_gradients":
            seen.append(frames_of_package(frame))

    loss = lambda a: jnp.sum(eigenjax.eigsh(a, 2).eigenvectors ** 3)
    sys.setprofile(watch)
    try:
        jax.eval_shape(jax.grad(loss), jnp.eye(50))
    finally:
        sys.setprofile(None)
    return max(seen)


def rows() -> list[dict[str, Any]]:
    """Measure the package, a figure a row."""
    sources = modules()
    lines = [len(inspect.cleandoc(path.read_text()).splitlines()) for path in sorted(PACKAGE.rglob("*.py"))]
    every = [function for module in sources.values() for function in functions(module)]
    bodies = [body_lines(function) for function in every]
    arguments = [len([*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]) for f in every]
    reached = closure(START, sources)
    found = [("lines of a file", lines), ("lines of a function", bodies), ("arguments of a function", arguments)]
    figures = [{"figure": name, "median": statistics.median(x), "largest": max(x)} for name, x in found]
    counts = {
        "names in what eigsh imports": sum(definitions(sources[name]) for name in reached),
        "modules that eigsh imports": len(reached),
        "frames from eigsh to the matvec": frames_to_matvec(),
        "frames from jax.grad to conjugate gradients": frames_to_conjugate_gradients(),
    }
    return figures + [{"figure": name, "median": None, "largest": count} for name, count in counts.items()]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and record; --repeats and --quick change nothing."""
    args = timing.arguments(__doc__, 1, argv)
    found = rows()
    print(timing.table(found))
    timing.record("reading_cost", found, args)


if __name__ == "__main__":
    main()
