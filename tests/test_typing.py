"""Type checkers infer the types of messages, accept the package itself, and refuse what is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REFUSED = ROOT / "tests" / "typing" / "refused.py"
EXPECTED = re.compile(r"# refused: ([\w-]+), ([\w|]+)$")
# The insides of programs, and structures of C: nobody uses these names.
INSIDE = re.compile(
    r"psyne\.(demo|pipeline\.(board|gather|leash|supervisor|worker)|network\.(?!serve\.)|devices\.vulkan_api)"
)
SECONDS = 300  # mypy without its cache, beside others on two processors, was seen to need 100
pytestmark = pytest.mark.watchdog(SECONDS + 30)
# Both read psyne from the sources. The wrapper of pyright must not tell of newer versions.
ENVIRONMENT = {"MYPYPATH": str(ROOT / "src"), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}

Errors = set[tuple[int, str]]


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if tool == "pyright":  # it would take the first python of the PATH
        arguments = ("--pythonpath", sys.executable, *arguments)
    return subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )


def mypy_errors(path: Path) -> Errors:
    found = [json.loads(line) for line in run("mypy", "--output=json", str(path)).stdout.splitlines()]
    return {(it["line"], it["code"]) for it in found if it["severity"] == "error"}


def pyright_errors(path: Path) -> Errors:
    found = json.loads(run("pyright", "--outputjson", str(path)).stdout)["generalDiagnostics"]
    return {(it["range"]["start"]["line"] + 1, it["rule"]) for it in found if it["severity"] == "error"}


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_the_package_and_the_inferred_types_pass(tool: str) -> None:
    done = run(tool, "src/psyne", "tests/typing")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("errors", "comment"), [(mypy_errors, 1), (pyright_errors, 2)], ids=["mypy", "pyright"])
def test_every_wrong_line_is_refused_and_no_other(
    tmp_path: Path, errors: Callable[[Path], Errors], comment: int
) -> None:
    lines = REFUSED.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# type: ignore")
    copy = tmp_path / "refused.py"
    copy.write_text("\n".join(["", *lines[1:]]) + "\n", encoding="utf-8")
    # Where all overloads fail pyright names the rule of one or of all: both are written down.
    expected = {n: match[comment].split("|") for n, line in enumerate(lines, 1) if (match := EXPECTED.search(line))}
    assert expected
    found = dict(errors(copy))
    assert found.keys() == expected.keys()
    assert [(n, rule) for n, rule in found.items() if rule not in expected[n]] == []


def test_no_type_of_the_public_interface_is_left_to_guesses(tmp_path: Path) -> None:
    # As the checkers see an installed package: its sources in an environment of their own.
    venv.create(tmp_path / "venv", with_pip=False)
    python = sysconfig.get_python_version()
    site = tmp_path / "venv" / "lib" / f"python{python}" / "site-packages"
    shutil.copytree(ROOT / "src" / "psyne", site / "psyne")
    (site / "others.pth").write_text("\n".join(filter(os.path.isdir, sys.path)) + "\n", encoding="utf-8")
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "psyne", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT | {"PATH": path, "VIRTUAL_ENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    assert len(symbols) > 500
    guessed = {s["name"] for s in symbols if not s["isTypeKnown"] or s["isTypeAmbiguous"]}
    assert {name for name in guessed if not INSIDE.match(name)} == set()
