"""What type checkers are told about the compiled module is what the module is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import psyne
import psyne._native

ROOT = Path(__file__).parents[1]
STUB = ROOT / "src" / "psyne" / "_native.pyi"
DECLARED = {"Batch": "batch.py", "Sender": "ends.py", "Receiver": "ends.py"}


def members(body: list[ast.stmt]) -> set[str]:
    """The names that the statements of a stub or a class define."""
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    variables = {ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign)}
    return functions | variables


def test_the_committed_stub_is_the_generated_one() -> None:
    command = [sys.executable, str(ROOT / "tools" / "stubs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stub_names_everything_in_the_module_and_nothing_else() -> None:
    written = members(ast.parse(STUB.read_text(encoding="utf-8")).body)
    assert written == {name for name in vars(psyne._native) if not name.startswith("__")}


@pytest.mark.parametrize("name", DECLARED)
def test_what_an_end_declares_for_type_checkers_exists(name: str) -> None:
    [declaration] = [
        statement
        for owner in ast.parse((ROOT / "src" / "psyne" / DECLARED[name]).read_text(encoding="utf-8")).body
        if isinstance(owner, ast.ClassDef) and owner.name == name
        for statement in owner.body
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
    ]
    declared = members(declaration.body)
    assert declared
    assert {member for member in declared if not hasattr(getattr(psyne, name), member)} == set()
