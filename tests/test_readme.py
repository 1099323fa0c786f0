"""Every code block of README.md and docs/using.md runs and prints what it says; every command exists."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import psyne
import psyne.testing
from psyne import options
from psyne.devices import unavailable

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
USING = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = Path(sysconfig.get_path("scripts"))
SECONDS = 60

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    name: str
    code: str

    @property
    def prints(self) -> list[str]:
        return PRINTS.findall(self.code)


def programs(text: str) -> list[Program]:
    """The Python blocks of a text; the first line of each names its file."""
    found = [code for language, code in BLOCK.findall(text) if language == "python"]
    return [Program(code.split("\n", 1)[0].removeprefix("# "), code) for code in found]


# What stands under one heading runs at the same time.
SECTION = re.compile(r"^### ([^\n]+)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
USES = {title: programs(text) for title, text in SECTION.findall(README)}
RUNS = USES | {"docs/using.md": programs(USING)}
COMMANDS = [
    shlex.split(command, comments=True)
    for language, text in BLOCK.findall(README)
    if language == "sh"
    for line in text.splitlines()
    for command in line.split("&&")
]


def test_every_python_block_stands_under_a_use_and_names_its_file() -> None:
    named = [program.name for use in USES.values() for program in use]
    assert named == [program.name for program in programs(README)]
    assert len(named) == len(set(named)) >= 10
    assert all(name.endswith(".py") for name in named)


@pytest.mark.leaves_nothing
@pytest.mark.watchdog(SECONDS + 30)
@pytest.mark.parametrize("use", RUNS)
def test_a_use_runs_to_its_end_and_prints_what_it_says(use: str, tmp_path: Path) -> None:
    for name, why in unavailable().items():
        if any(f'psyne.device("{name}")' in program.code for program in RUNS[use]):
            pytest.skip(why)
    running: list[tuple[Program, subprocess.Popen[str]]] = []
    try:
        for program in RUNS[use]:
            (tmp_path / program.name).write_text(program.code, encoding="utf-8")
            process = subprocess.Popen(
                [sys.executable, program.name],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            running.append((program, process))
        for program, process in running:
            printed, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, f"{program.name}:\n{errors}"
            assert printed.splitlines() == program.prints
            assert "Traceback" not in errors
    finally:
        for _, process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def test_a_use_is_short() -> None:
    for use in USES.values():
        for program in use:
            lines = [line for line in program.code.splitlines() if line.strip() and not line.startswith("#")]
            assert len(lines) <= 21, program.name
            ast.parse(program.code)


def test_the_set_up_is_two_commands() -> None:
    first = BLOCK.search(README)
    assert first is not None
    lines = [line.partition("  #")[0].rstrip() for line in first[2].splitlines()]
    assert lines == [
        "python -m pip install '.[demo]' && psyne demo",
        "python -m pip install '.[test]' && pytest",
    ]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_exists(command: list[str]) -> None:
    match command:
        case ["python", "-m", "pip", "install", what]:
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", what)
            assert extra is not None
            assert extra[1] is None or extra[1] in PROJECT["optional-dependencies"]
        case ["python", script]:
            assert (ROOT / script).is_file()
        case ["psyne", subcommand]:
            done = subprocess.run([SCRIPTS / "psyne", subcommand, "--help"], capture_output=True, timeout=60)
            assert done.returncode == 0
        case ["just", recipe, *_]:
            recipes = re.findall(r"^([\w-]+)\b.*:$", (ROOT / "justfile").read_text(encoding="utf-8"), re.MULTILINE)
            assert recipe in recipes
        case ["pytest"]:
            assert "pytest" in " ".join(PROJECT["optional-dependencies"]["test"])
        case [script]:
            assert os.access(ROOT / script, os.X_OK)
        case _:
            pytest.fail(f"no test knows {command}")


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_a_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_page_on_the_interface_names_all_of_it() -> None:
    modules = (psyne, psyne.aio, psyne.interop, psyne.pipeline, psyne.testing)
    public = {name for module in modules for name in module.__all__ if not name.startswith("__")}
    classes = (psyne.Sender, psyne.Receiver, psyne.Struct, psyne.Array, psyne.Text, psyne.Bytes, psyne.ArrowBatch)
    classes += (psyne.Batch, psyne.Queue, psyne.Listener, psyne.aio.Sender, psyne.aio.Receiver)
    classes += (psyne.Pipeline, psyne.pipeline.Running)
    methods = {name for it in classes for name in dir(it) if name[0] != "_"}
    classes += (psyne.Aligned, psyne.aio.Aligned)
    fields = {*psyne.Info._fields, *psyne.VariantHdr._fields, *psyne.Statistics.__annotations__}
    fields |= psyne.AlignedStatistics.__annotations__.keys()
    fields |= {name for it in (psyne.Info, psyne.VariantHdr) for name in vars(it) if name[0] != "_"}
    openers = (options.SenderOptions, options.ReceiverOptions, options.ChannelOptions)
    keywords = {name for it in openers for name in it.__annotations__}
    words = set(re.findall(r"\w+", USING))
    assert (public | methods | fields | keywords) - words == set()


@pytest.mark.long
@pytest.mark.watchdog(1200)
def test_the_first_command_works_in_a_clean_environment(tmp_path: Path) -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        copy = tmp_path / "psyne" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = "python -m pip install --quiet '.[demo]' && psyne demo"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path / "psyne", env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bytes copied by Psyne after the first write" in done.stdout
