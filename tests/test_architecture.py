"""The code keeps to docs/architecture.md: imports point downwards, no circles, no long files, pure rooms stay pure."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "fedloom"
LONGEST_FILE = 400
LONGEST_LOOP = 250

# From the ground up; a module imports from its own room and from levels below its own.
LEVELS = [
    {"errors", "randomness", "statistics", "__init__"},
    {"wire"},
    {"aggregation"},
    {"recipe"},
    {"wireless"},
    {"places"},
    {"launch"},
    {"data"},
    {"model"},
    {"evaluation", "participation", "report", "training"},
    {"runtime"},
    {"run_directory", "checkpoint", "stopping"},
    {"session"},
    {"beginning"},
    {"timetable"},
    {"arms"},
    {"suites"},
    {"shared_work"},
    {"federation"},
    {"runs", "inspection", "doctor", "planning"},
    {"comparison"},
    {"cli", "rank"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(module: str, at_load_only: bool = False) -> set[str]:
    """Modules of the package (and top-level names of others) that a module imports."""
    tree = ast.parse(MODULES[module].read_text())
    nodes = tree.body if at_load_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


# The package's own __init__ offers `fedloom.run` to others; nothing inside imports it from there.
@pytest.mark.parametrize("module", [module for module in MODULES if module != "fedloom.__init__"])
def test_imports_point_downwards(module):
    for imported in imports(module):
        if imported in MODULES:
            same_room = room_of(imported) == room_of(module)
            assert same_room or LEVEL[room_of(imported)] < LEVEL[room_of(module)], f"{module} imports {imported}"


def test_no_import_circle():
    graph = {module: {name for name in imports(module, True) if name in MODULES} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_rooms_of_pure_functions_know_no_models():
    for module in MODULES:
        if room_of(module) in {"aggregation", "wire"}:
            forbidden = {name.split(".")[0] for name in imports(module)} & {"transformers", "peft", "datasets"}
            assert not forbidden, f"{module} imports {forbidden}"


def test_only_who_is_given_a_group_imports_torch_distributed():
    group = "fedloom.runtime.process_group"
    for module, path in MODULES.items():
        assert group not in imports(module, at_load_only=True), module
        assert ("torch.distributed as dist" in path.read_text()) == (module == group), module


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "benchmarks"])
def test_files_are_short(folder):
    for path in (ROOT / folder).rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines"


def test_the_loop_reads_in_one_sitting():
    assert len((SOURCE / "federation.py").read_text().splitlines()) < LONGEST_LOOP
