"""Structure of the package: imports in one direction, short files and functions, documented public names."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import eigenjax

PACKAGE = pathlib.Path(eigenjax.__file__).parent
# Each layer may import the layers before it, never those after it.
LAYERS = (
    *("arguments", "calls", "printing", "vectors", "result"),
    *("operators/functions", "operators/sparse", "operators", "operators/parts", "operators/curvature"),
    *("dense", "krylov", "krylov/golub_kahan", "krylov/general"),
    *("solvers", "solvers/convergence", "solvers/linear"),
    *("solvers/symmetric", "solvers/interval", "solvers/pencil", "solvers/general"),
    *("solvers/singular", "solvers/dense"),
    *(
        "implicit/systems",
        "implicit",
        "implicit/info",
        "spectrum/probing",
        "spectrum",
        "spectrum/exponential",
        "training",
        "runs",
    ),
    *("report/inputs", "report/analysis", "report/pictures", "report/output", "report", "__init__", "__main__"),
)
MOST_FILES, MOST_IMPORTS = 12, 30
# Optional dependencies may be imported here, inside functions, never when the package is imported.
EXTRAS_ALLOWED = ("solvers/pencil", "training", "runs", "report", "__main__")
OPTIONAL = ("flax", "optax", "orbax", "rich", "matplotlib", "sklearn", "scipy", "chex")
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path):
    """Return the folder of a module, or its file name at the top level."""
    relative = path.relative_to(PACKAGE)
    return relative.parent.as_posix() if len(relative.parts) > 1 else relative.stem


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph():
    """Map each module to the modules of the package that it imports."""
    modules = {".".join(("eigenjax", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    # `from eigenjax.vectors import tree` names a module, `from eigenjax.vectors.tree import row` its parent.
    resolve = lambda name: name if name in modules else name.rpartition(".")[0]
    graph = {module: {resolve(name) for name in imports_of(path)} & set(modules) for module, path in modules.items()}
    return modules, graph


MODULES, IMPORTS = import_graph()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    layer = layer_of(MODULES[module])
    for name in IMPORTS[module] - {"eigenjax"}:
        assert LAYERS.index(layer_of(MODULES[name])) <= LAYERS.index(layer), f"{layer} imports {name}"
    for name in imports_of(MODULES[module]):
        if not {layer, layer.partition("/")[0]} & set(EXTRAS_ALLOWED):
            assert name.partition(".")[0] not in OPTIONAL, f"{layer} imports {name}"
        assert "jax._src" not in name


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda p: p.name)
def test_a_folder_is_small_enough_to_find_ones_way(folder):
    inside = {module for module, path in MODULES.items() if path.parent == folder}
    assert len(inside) <= MOST_FILES
    assert sum(len(IMPORTS[module] & inside) for module in inside) <= MOST_IMPORTS
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


def test_there_is_no_import_cycle():
    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        for name in IMPORTS[module]:
            visit(name, [*trail, module])

    for module in MODULES:
        visit(module, [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            has_docstring = ast.get_docstring(node) is not None
            start = node.body[0].end_lineno + 1 if has_docstring else node.body[0].lineno
            assert node.end_lineno - start + 1 <= 50, node.name


def test_the_public_names_are_sorted_and_documented_with_an_example():
    assert eigenjax.__all__ == sorted(eigenjax.__all__)
    for name in eigenjax.__all__:
        documentation = inspect.getdoc(getattr(eigenjax, name))
        assert documentation, name
        is_function = inspect.isfunction(getattr(eigenjax, name))
        for part in (*(("Args:", "Returns:", "Example:") if is_function else ()), ">>>"):
            assert part in documentation, f"{name} has no {part}"


def test_importing_takes_nothing_optional_along():
    code = f"import sys, eigenjax; print([m for m in {OPTIONAL!r} if m in sys.modules and m not in before])"
    code = "import sys, jax; import jax.numpy; before = set(sys.modules); " + code
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.slow
def test_importing_changes_no_global_configuration():
    code = (
        "import jax; before = dict(jax.config.values); import eigenjax; "
        "assert dict(jax.config.values) == before; eigenjax.lanczos([[1.0]], 1); "
        "assert dict(jax.config.values) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Each docstring is read alone: it begins with its subject, and does not refer to another docstring.
NOT_FIRST = re.compile(
    r"(What|How|That|This|Of|So|Where|Which|Likewise|As|One|Whether|If|Because|When)\b|.*\b(as of|as there)\b", re.S
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_docstrings_begin_in_plain_terms(path):
    kinds = ast.FunctionDef | ast.ClassDef | ast.Module
    texts = (ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))
    assert not [text.splitlines()[0] for text in texts if NOT_FIRST.match(text)]
