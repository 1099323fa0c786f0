"""docs/walk.md names files, symbols and calls that exist; so does every other page, and its numbers are right."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import psyne
from psyne.types.schema import schema_of

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
TEXT = PAGES["walk.md"]
LAYOUT = (ROOT / "core/include/psyne/layout.hpp").read_text(encoding="utf-8")

STEP = re.compile(r"^( *)- `([\w./-]+):([\w.:]+)`(?: as `(\w+)`)? \w", re.MULTILINE)
MENTION = re.compile(r"`((?:examples|src|bindings|core|tests|tools|models|benchmarks)/[\w./-]+)(?::([\w.:]+))?`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
CONSTANT = re.compile(r"^\| `(k\w+)` \| (\d+) \|", re.MULTILINE)
PAIR = re.compile(r"^\| `([A-Z ]+)` \| `([\w./-]+)` \| `([\w./-]+)` \|$", re.MULTILINE)
# Between the parameters of a C++ function and its body.
OPENED = re.compile(r"(?:\s|(?:const|noexcept|override|final|try)\b)*(?::[^;{}]*(?:\{[^{}]*\}[^;{}]*)*?)?\{")
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|R"\((.*?)\)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)


@dataclass(frozen=True)
class Step:
    depth: int
    file: str
    symbol: str
    alias: str  # what the caller calls it, if that is another name

    @property
    def name(self) -> str:
        """The last part of the symbol; a constructor is called by the name of its class."""
        return re.split(r"\.|::", self.symbol.removesuffix(".__init__"))[-1]

    def __str__(self) -> str:
        return f"{self.file}:{self.symbol}"


def steps(text: str) -> list[Step]:
    return [Step(len(indent) // 2, file, symbol, alias) for indent, file, symbol, alias in STEP.findall(text)]


def calls(text: str) -> list[tuple[Step, Step]]:
    """Each step that stands under another one, after that one."""
    found: list[tuple[Step, Step]] = []
    open_steps: list[Step] = []
    for step in steps(text):
        open_steps = [it for it in open_steps if it.depth < step.depth]
        if open_steps:
            found.append((open_steps[-1], step))
        open_steps.append(step)
    return found


def python_body(source: str, symbol: str) -> str:
    """The definition of ``function``, ``Class`` or ``Class.method``; empty when there is none."""
    nodes: list[ast.AST] = [ast.parse(source)]
    for name in symbol.split("."):
        nodes = [
            child
            for node in nodes
            for child in ast.walk(node)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and child.name == name
        ]
    return "\n".join(ast.get_source_segment(source, node) or "" for node in nodes)


def closed(code: str, start: int) -> int:
    """The position behind the bracket that closes the one at `start`."""
    depth, brackets = 0, {"(": 1, "{": 1, ")": -1, "}": -1}
    for i in range(start, len(code)):
        depth += brackets.get(code[i], 0)
        if depth == 0:
            return i + 1
    return len(code)


def cpp_body(source: str, symbol: str) -> str:
    """The definition of ``function``, ``Class`` or ``Class::member``; empty when there is none."""
    code = NOT_CODE.sub(lambda match: " " * len(match[0]), source)
    *scopes, name = symbol.split("::")
    spans = [(0, len(code))]
    for scope in scopes:
        spans = [(i, closed(code, i)) for a, b in spans for i in class_starts(code, scope) if a <= i < b]
    bodies = []
    for a, b in [*spans, (0, len(code))] if scopes else spans:
        inside = (a, b) in spans  # else it must say its class: Class::member(
        for match in re.finditer(rf"\b{name if inside else symbol}\s*\(", code[a:b]):
            end = closed(code, a + match.end() - 1)
            opened = OPENED.match(code, end)
            if opened:
                bodies.append(source[a + match.start() : closed(code, opened.end() - 1)])
        bodies += [source[i : closed(code, i)] for i in class_starts(code, name) if inside and a <= i < b]
    return "\n".join(bodies)


def class_starts(code: str, name: str) -> list[int]:
    """Where the brace of each definition of a class of that name opens."""
    return [match.end() - 1 for match in re.finditer(rf"\b(?:class|struct)\s+{name}\b[^;{{()]*\{{", code)]


def body(file: str, symbol: str) -> str:
    path = ROOT / file
    if not path.exists():
        return ""
    source = path.read_text(encoding="utf-8")
    return python_body(source, symbol) if path.suffix == ".py" else cpp_body(source, symbol)


def test_the_walk_is_read() -> None:
    bullets = [line for line in TEXT.splitlines() if line.lstrip().startswith("- ")]
    assert len(steps(TEXT)) == len(bullets) > 50


@pytest.mark.parametrize("step", dict.fromkeys(steps(TEXT)), ids=str)
def test_a_step_is_there(step: Step) -> None:
    assert body(step.file, step.symbol), f"{step} is gone; set docs/walk.md right"


@pytest.mark.parametrize(("caller", "step"), calls(TEXT), ids=lambda step: step.name)
def test_a_step_is_called_by_the_one_that_it_stands_under(caller: Step, step: Step) -> None:
    text = body(caller.file, caller.symbol)
    assert re.search(rf"\b{step.alias or step.name}\b", text), f"{caller} does not call {step}"


@pytest.mark.parametrize("step", [it for it in steps(TEXT) if it.alias], ids=str)
def test_another_name_is_bound_to_its_function(step: Step) -> None:
    source = (ROOT / step.file).read_text(encoding="utf-8")
    bound = re.search(rf'"{step.alias}",\s*{step.name}\b', source)
    assert bound or f'"{step.alias}"' in body(step.file, step.symbol)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_mentions_is_there(page: str) -> None:
    for file, symbol in MENTION.findall(PAGES[page]):
        assert (ROOT / file).exists(), file
        assert not symbol or body(file, symbol), f"{file}:{symbol}"
    for target in LINK.findall(PAGES[page]):
        assert (ROOT / "docs" / target).exists(), target


def constant(name: str) -> int:
    """The value of a constant of the layout, whose expressions use integers and other constants."""
    found = re.search(rf"\b{name}\s*=\s*([^;]+);", LAYOUT)
    assert found is not None, name
    return int(eval(re.sub(r"\bk\w+", lambda it: str(constant(it[0])), found[1])))


@pytest.mark.parametrize(("name", "value"), CONSTANT.findall(PAGES["design.md"]))
def test_a_constant_has_the_value_that_the_design_says(name: str, value: str) -> None:
    asserted = re.search(rf"static_assert\({name} == (\d+)\)", LAYOUT)
    assert (int(asserted[1]) if asserted else constant(name)) == int(value)


def labels(file: Path) -> set[str]:
    return set(re.findall(r"// ([A-Z]{3,}(?: [A-Z]+)*)\b", file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("label", "store", "load"), PAIR.findall(TEXT))
def test_a_label_stands_on_both_sides(label: str, store: str, load: str) -> None:
    assert label in labels(ROOT / store)
    assert label in labels(ROOT / load)


def test_the_walk_tells_of_every_label() -> None:
    known = set().union(*(labels(header) for header in (ROOT / "core" / "include").rglob("*.hpp")))
    assert [label for label in sorted(known) if f"`{label}`" not in TEXT] == []


def test_the_test_sees_what_is_gone() -> None:
    assert not body("core/include/psyne/sender.hpp", "Sender::try_lend")
    assert not body("core/include/psyne/sender.hpp", "Receiver::try_loan")
    assert not body("core/include/psyne/sender.hpp", "fail")  # called there, defined elsewhere
    assert not body("src/psyne/ends.py", "Sender.receive")
    assert not body("src/psyne/gone.py", "Sender")
    assert "ready" not in body("core/include/psyne/word.hpp", "let_go")  # no more than the function


SCHEMA = re.compile(r"^\| `((?:Array|Matrix|Bytes|Text|ArrowBatch)[^`]*)` \| `(\{[^`]*\})`", re.MULTILINE)


@pytest.mark.parametrize(("type_", "text"), SCHEMA.findall(PAGES["design.md"]))
def test_the_schema_of_a_type_is_the_one_that_is_written_down(type_: str, text: str) -> None:
    assert schema_of([eval(type_, vars(psyne))]) == text


def test_the_schema_of_a_struct_is_the_one_that_is_written_down() -> None:
    class Imu(psyne.Struct):
        stamp = psyne.u64()
        accel = psyne.f32(3)

    assert f"`{schema_of([Imu])}`" in PAGES["design.md"]
    assert len(SCHEMA.findall(PAGES["design.md"])) >= 8
