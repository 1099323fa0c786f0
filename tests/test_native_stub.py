"""The committed stub of the compiled module says what the module is."""

import ast
import subprocess
import sys
from pathlib import Path

import psyne._native

ROOT = Path(__file__).parents[1]
STUB = ROOT / "src" / "psyne" / "_native.pyi"

# Before Python 3.12 a class does not show that it is a buffer.
BUFFER = {"__buffer__", "__release_buffer__"}


def members(body: list[ast.stmt]) -> set[str]:
    """The names that the statements of a stub define."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def test_the_committed_stub_is_the_generated_one() -> None:
    command = [sys.executable, str(ROOT / "tools" / "stubs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stub_names_every_public_member_of_the_module_and_no_other() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    public = {name for name in vars(psyne._native) if not name.startswith("_")}
    assert members(tree.body) == public
    for name, node in classes.items():
        native = getattr(psyne._native, name)
        written = members(node.body)
        assert {member for member in vars(native) if not member.startswith("_")} <= written, name
        assert {member for member in written - BUFFER if not hasattr(native, member)} == set(), name
