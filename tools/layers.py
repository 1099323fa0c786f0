"""The layers of Psyne, lowest first: a file uses only the rows below its own.

`python tools/layers.py --check` reports every file that breaks this, every file that has no row
and every row that has no file. Without `--check` it prints the table.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

Rows = list[list[str]]

# core/include/psyne/<name>.hpp
CORE: Rows = [
    ["errors"],
    ["system/posix"],
    ["system/linux", "system/darwin"],
    ["system/system"],
    ["atomic", "word", "variant"],
    ["layout"],
    ["storage"],
    ["slab", "channel_file", "directory", "memory"],
    ["eventcount", "bell", "graph", "lane_slabs", "growth_policy"],
    ["ring_buffer", "slab_allocator", "turn"],
    ["extents"],
    ["registry", "lane", "dynamic_ring_buffer"],
    ["waiting", "lanes", "inspect", "tap_lane"],
    ["sender", "receiver", "tap"],
    ["opening", "net/crc32c", "net/line"],
    ["net/wire", "net/message_shape"],
    ["net/outbox"],
    ["net/link"],
    ["net/source_link", "net/in_link"],
    ["net/out_link", "net/tap_link"],
    ["net/side"],
    ["net/connection"],
    ["net/pump"],
    ["net/gateway"],
]

# src/psyne/<name>.py, or everything in src/psyne/<name>/
PYTHON: Rows = [
    ["_native", "errors", "log", "tls"],
    ["after", "info", "statistics"],
    ["address", "stage", "types"],
    ["options", "batch", "inspect"],
    ["handover", "listener", "matching"],
    ["ends"],
    ["taps"],
    ["network", "devices"],
    ["openers", "anonymous", "items"],
    ["interop", "queues", "ring", "testing", "waiting"],
    ["align"],
    ["aio", "bridges", "pipeline"],
    ["__init__"],
    ["demo", "doctor"],
    ["cli"],
]

HEADERS = "core/include/psyne"
PACKAGE = "src/psyne"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
PYTHON_HEADER = re.compile(r"Python\.h|nanobind/|numpy/")


def headers(root: Path) -> Iterator[tuple[Path, str, set[str]]]:
    """Each core header, its name, and the core or Python headers that it includes."""
    base = (root / HEADERS).resolve()
    paths = sorted(base.rglob("*.hpp"))
    name_of = {path: path.relative_to(base).with_suffix("").as_posix() for path in paths}
    for path, name in name_of.items():
        used = set()
        for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
            for other in (base.parent / target, (path.parent / target).resolve()):
                if other in name_of:
                    used.add(name_of[other])
            if PYTHON_HEADER.match(target):
                used.add(target)
        yield path, name, used


def modules(root: Path) -> Iterator[tuple[Path, str, set[str]]]:
    """Each Python file, its module, and the modules of Psyne that it imports, wherever it does."""
    base = (root / PACKAGE).resolve()
    paths = sorted({*base.rglob("*.py"), *base.glob("*.pyi")})
    top = {path.relative_to(base).parts[0].partition(".")[0] for path in paths}
    for path in paths:
        inside = path.relative_to(base).with_suffix("").parts
        used = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in imported(node, ("psyne", *inside[:-1])):
                used.add(name[1] if len(name) > 1 and name[1] in top else "__init__")
        yield path, inside[0], used - {inside[0]}


def imported(node: ast.AST, package: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The dotted names below psyne that an import statement in `package` reaches for."""
    names: list[tuple[str, ...]] = []
    if isinstance(node, ast.Import):
        names = [tuple(alias.name.split(".")) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        start = package[: len(package) + 1 - node.level] if node.level else ()
        module = node.module.split(".") if node.module else []
        names = [(*start, *module, alias.name) for alias in node.names]
    return [name for name in names if name[0] == "psyne"]


def check(root: Path, core: Rows = CORE, python: Rows = PYTHON) -> list[str]:
    """One sentence for each broken rule."""
    problems = []
    for rows, files in ((core, headers(root)), (python, modules(root))):
        row_of = {name: row for row, names in enumerate(rows) for name in names}
        seen = set()
        for path, name, used in files:
            seen.add(name)
            where = path.relative_to(root.resolve()).as_posix()
            if name not in row_of:
                problems.append(f"{where} has no row; give {name!r} one in tools/layers.py")
                continue
            for other in sorted(used):
                if other not in row_of:
                    problems.append(f"{where} uses {other!r}, which has no row in tools/layers.py")
                elif row_of[other] >= row_of[name]:
                    side = "beside" if row_of[other] == row_of[name] else "above"
                    problems.append(f"{where} uses {other!r}, which is {side} {name!r}, not below")
        for name in sorted(row_of.keys() - seen):
            problems.append(f"tools/layers.py lists {name!r}: no such file")
    return problems


def main() -> int:
    if "--check" not in sys.argv[1:]:
        for title, rows in ((HEADERS, CORE), (PACKAGE, PYTHON)):
            print(title, *("  " + "  ".join(row) for row in rows), sep="\n")
        return 0
    problems = check(Path(__file__).parents[1])
    print("\n".join(problems) or "every file keeps to its layer")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
