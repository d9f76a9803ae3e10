"""Which module may import which, checked on the source with `ast`.

Imports inside functions count, those under `if TYPE_CHECKING` do not. No module is imported.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

BASE = ("errors", "files", "keys", "labels", "log")
LIBRARY = ("data", "evaluation", "imageio", "models", "optimization", "reporting", "runtime")
MAY_IMPORT = {
    **dict.fromkeys(BASE, ()),
    "files": ("errors",),
    "log": ("errors",),
    "runtime": BASE,
    "imageio": BASE,
    "models": BASE,
    "optimization": BASE,
    "evaluation": (*BASE, "imageio", "runtime"),
    "data": (*BASE, "imageio", "runtime"),
    "reporting": (*BASE, "evaluation", "imageio"),
    "config": (*BASE, "data", "imageio", "models", "optimization", "runtime"),
    "training": (*BASE, *LIBRARY, "config"),
    "cli": (*BASE, "config", "reporting", "runtime", "training"),
    "inference": (*BASE, *LIBRARY, "config", "training"),
    "interop": (*BASE, *LIBRARY, "config", "training", "cli"),
}
"""What each package, and each of the modules below the commands, may import of mbh_jax.

Every other module at the top of mbh_jax is part of the command line and may import everything."""

ONLY_IMPORTED_BY = {
    "orbax": ("mbh_jax.training.checkpoints",),
    "tensorflow": ("mbh_jax.data.pipeline", "mbh_jax.data.records"),
    "tensorflow_datasets": ("mbh_jax.data.pipeline", "mbh_jax.data.records"),
}
"""Large dependencies, and the only modules of mbh_jax and configs that import them."""

NEVER_IMPORTED = ("benchmarks", "configs", "data_prep", "launch")
"""What mbh_jax does not import: all of these know mbh_jax."""

MAX_LINES = 300
MAX_TOP_MODULES = 14


def _name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    _name(path): path
    for package in ("benchmarks", "configs", "data_prep", "mbh_jax")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def import_statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """The import statements of a module that are executed, also those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from import_statements(ast.Module(node.orelse, []))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        else:
            yield from import_statements(node)


def imports(source: str) -> set[str]:
    """Modules that a source imports: of `from a import b` a.b where it is a module of ours."""
    found = set()
    for node in import_statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module) for name in full.values()}
    return found


GRAPH = {name: imports(path.read_text()) for name, path in FILES.items()}


def package_of(module: str) -> str:
    """The part of mbh_jax that a module belongs to; "" for mbh_jax/__init__.py."""
    return module.split(".")[1] if "." in module else ""


def cycles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Groups of nodes of which each can be reached from each other one."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        found: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += graph.get(node, ())
        reached[start] = found
    return {
        frozenset(other for other in graph if other in reached[node] and node in reached[other])
        for node in graph
        if node in reached[node]
    }


def packages() -> dict[str, set[str]]:
    """The graph between the parts of mbh_jax."""
    graph: dict[str, set[str]] = {}
    for module, imported in GRAPH.items():
        if module.split(".")[0] == "mbh_jax":
            arrows = graph.setdefault(package_of(module), set())
            arrows |= {package_of(name) for name in imported if name.split(".")[0] == "mbh_jax"}
            arrows.discard(package_of(module))
    return graph


def violations() -> set[tuple[str, str]]:
    """(module, package) of each import that MAY_IMPORT does not allow."""
    found = set()
    for module, imported in GRAPH.items():
        package = package_of(module)
        if module.split(".")[0] != "mbh_jax" or package not in MAY_IMPORT:
            continue
        allowed = {package, *MAY_IMPORT[package]}
        ours = {package_of(name) for name in imported if name.split(".")[0] == "mbh_jax"}
        found |= {(module, other) for other in ours - allowed}
    return found


def test_imports_between_packages_go_one_way() -> None:
    assert not violations()


def test_every_package_has_a_rule() -> None:
    folders = {path.name for path in (REPOSITORY / "mbh_jax").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= set(MAY_IMPORT)


def test_no_import_cycles() -> None:
    assert not cycles(GRAPH) | cycles(packages())


def test_the_package_knows_nothing_of_what_uses_it() -> None:
    found = {
        (module, name)
        for module, imported in GRAPH.items()
        for name in imported
        if module.split(".")[0] == "mbh_jax" and name.split(".")[0] in NEVER_IMPORTED
    }
    assert not found


@pytest.mark.parametrize("dependency", ONLY_IMPORTED_BY)
def test_large_dependencies_are_imported_in_one_place(dependency: str) -> None:
    importers = {
        module
        for module, imported in GRAPH.items()
        if module.split(".")[0] in ("mbh_jax", "configs")
        and dependency in {name.split(".")[0] for name in imported}
    }
    assert importers <= set(ONLY_IMPORTED_BY[dependency])


def test_modules_are_short() -> None:
    lines = {name: path.read_text().count("\n") for name, path in FILES.items()}
    assert not {name: number for name, number in lines.items() if number > MAX_LINES}


def test_few_modules_lie_at_the_top() -> None:
    top = {path.stem for path in (REPOSITORY / "mbh_jax").glob("*.py")}
    assert len(top) <= MAX_TOP_MODULES, sorted(top)


def test_imports_in_functions_count_and_imports_for_types_do_not() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import orbax.checkpoint
else:
    import jax
def f():
    try:
        from mbh_jax import errors
        from mbh_jax.errors import UserError
    except ImportError:
        import tensorflow as tf
"""
    assert imports(source) == {"typing", "jax", "mbh_jax.errors", "tensorflow"}


def test_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "jax"}, "c": {"b"}, "d": {"d"}, "e": {"a"}}
    assert cycles(graph) == {frozenset("bc"), frozenset("d")}
