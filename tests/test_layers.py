"""Every file uses only what lies below it, and the check that says so can fail."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
specification = importlib.util.spec_from_file_location("layers", ROOT / "tools" / "layers.py")
assert specification is not None
assert specification.loader is not None
layers = importlib.util.module_from_spec(specification)
specification.loader.exec_module(layers)

Report = Callable[[dict[str, str]], list[str]]

CORE = [["low"], ["high", "twin"]]
PYTHON = [["_native"], ["types", "stage"], ["__init__"], ["demo"]]
SOUND = {
    "core/include/psyne/low.hpp": "#include <atomic>",
    "core/include/psyne/high.hpp": "#include <psyne/low.hpp>",
    "core/include/psyne/twin.hpp": '#include "low.hpp"',
    "src/psyne/_native.pyi": "",
    "src/psyne/types.py": "from ._native import word",
    "src/psyne/stage.py": "import psyne._native",
    "src/psyne/__init__.py": "from psyne.types import Array\nfrom . import stage",
    "src/psyne/demo/__init__.py": "from psyne import Array\nfrom .frames import draw",
    "src/psyne/demo/frames.py": "from ..types import Array\nimport psyne",
}


@pytest.fixture
def problems(tmp_path: Path) -> Report:
    """Checks a small sound tree in which `changes` replaces or adds files."""

    def report(changes: dict[str, str]) -> list[str]:
        for name, text in (SOUND | changes).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found: list[str] = layers.check(tmp_path, CORE, PYTHON)
        return found

    return report


def test_every_file_of_psyne_keeps_to_its_layer() -> None:
    assert layers.check(ROOT) == []


def test_a_sound_tree_is_passed(problems: Report) -> None:
    assert problems({}) == []


LOW = "core/include/psyne/low.hpp"
HIGH = "core/include/psyne/high.hpp"
TYPES = "src/psyne/types.py"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (LOW, "# include <psyne/high.hpp>", "uses 'high', which is above 'low'"),
        (LOW, '#include "high.hpp"', "uses 'high', which is above 'low'"),
        (HIGH, "#include <psyne/twin.hpp>", "uses 'twin', which is beside 'high'"),
        (HIGH, "#include <Python.h>", "uses 'Python.h', which has no row"),
        ("core/include/psyne/new.hpp", "", "has no row; give 'new' one"),
        (TYPES, "from psyne import Array", "uses '__init__', which is above 'types'"),
        (TYPES, "from .demo.frames import draw", "uses 'demo', which is above 'types'"),
        (TYPES, "def f():\n    import psyne.stage", "uses 'stage', which is beside 'types'"),
        ("src/psyne/new.py", "", "has no row; give 'new' one"),
    ],
)
def test_a_breach_is_reported_once(problems: Report, name: str, text: str, complaint: str) -> None:
    found = problems({name: text})
    assert len(found) == 1
    assert found[0].startswith(name)
    assert complaint in found[0]


def test_a_row_without_a_file_is_reported(tmp_path: Path) -> None:
    assert layers.check(tmp_path, [["gone"]], []) == ["tools/layers.py lists 'gone': no such file"]
