"""The public face is what `psyne.__all__` says, and nothing else."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import psyne
import psyne.errors

# The lines of the tree that the errors' module draws: ├── Full (TimeoutError, queue.Full)   no slot
DRAWN = re.findall(r"^(?:│   )?[├└]── (\w+) \(([\w., ]+)\)", psyne.errors.__doc__ or "", re.MULTILINE)


def test_every_name_in_all_exists_and_stands_there_once() -> None:
    assert len(set(psyne.__all__)) == len(psyne.__all__)
    assert [name for name in psyne.__all__ if not hasattr(psyne, name)] == []


def test_static_tools_see_every_public_name() -> None:
    source = Path(psyne.__file__).read_text(encoding="utf-8")
    bound = {
        alias.asname or alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    public = {name for name in bound if not name.startswith("_")}
    assert public == {name for name in psyne.__all__ if not name.startswith("_")}


def test_the_package_carries_its_types() -> None:
    files = {path.name for path in Path(psyne.__file__).parent.iterdir()}
    assert {"py.typed", "_native.pyi"} <= files


def builtin(name: str) -> type[BaseException]:
    """The class that a name like TimeoutError or queue.Full stands for."""
    module, _, plain = name.rpartition(".")
    found: type[BaseException] = getattr(importlib.import_module(module or "builtins"), plain)
    return found


@pytest.mark.parametrize(("name", "parents"), DRAWN)
def test_an_error_has_the_parents_that_the_tree_of_errors_shows(name: str, parents: str) -> None:
    error = getattr(psyne, name)
    if parents in psyne.errors.__all__:  # drawn below that one
        assert error.__bases__ == (getattr(psyne, parents),)
    else:
        assert error.__bases__ == (psyne.PsyneError, *map(builtin, parents.split(", ")))
    assert error is getattr(psyne.errors, name)


def test_the_tree_of_errors_shows_every_error() -> None:
    public = [getattr(psyne, name) for name in psyne.__all__]
    errors = [it for it in public if isinstance(it, type) and issubclass(it, BaseException)]
    assert {error.__name__ for error in errors} == {"PsyneError", *(name for name, _ in DRAWN)}
    assert [error for error in errors if not error.__doc__] == []


def test_an_end_has_no_verbs_of_the_other_end() -> None:
    writing = {"loan", "try_loan", "loan_many", "send", "send_many", "drain"}
    reading = {"receive", "try_receive", "receive_many", "try_receive_many", "batches", "__iter__"}
    assert writing <= set(dir(psyne.Sender))
    assert reading <= set(dir(psyne.Receiver))
    assert not writing & set(dir(psyne.Receiver))
    assert not reading & set(dir(psyne.Sender))
