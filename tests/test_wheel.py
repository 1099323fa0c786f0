"""What an installation puts on a machine: the package and its command, no tests, no sources."""

import json
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePath

import pytest


@pytest.fixture
def installed() -> Distribution:
    package = distribution("psyne")
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("psyne is installed editable, so there is no wheel; `pip install .` makes one")
    return package


@pytest.fixture
def files(installed: Distribution) -> list[PurePath]:
    return [PurePath(str(path)) for path in installed.files or []]


def test_the_wheel_holds_the_package_and_nothing_else(files: list[PurePath]) -> None:
    strangers = [
        str(path) for path in files if path.parts[0] not in ("psyne", "..") and not path.parts[0].endswith(".dist-info")
    ]
    assert strangers == []
    assert {path.name for path in files if path.parts[0] == ".."} == {"psyne"}


def test_the_wheel_holds_no_tests_and_no_sources(files: list[PurePath]) -> None:
    kernels = {path for path in files if path.parent == PurePath("psyne/demo/kernels")}  # which the demo reads
    assert {path.suffix for path in kernels} == {".cl", ".comp", ".ptx", ".spv"}
    kinds = {path.suffix for path in {*files} - kernels if path.parts[0] == "psyne" and path.suffix != ".pyc"}
    assert kinds == {".py", ".pyi", ".so", ".typed"}
    assert [str(path) for path in files if path.name.startswith(("test_", "conftest"))] == []


def test_the_wheel_holds_one_extension_for_this_python(files: list[PurePath]) -> None:
    extensions = [path.name for path in files if path.suffix == ".so"]
    assert len(extensions) == 1
    assert extensions[0].startswith(f"_native.{sys.implementation.cache_tag}")


def test_the_wheel_carries_its_licence(installed: Distribution, files: list[PurePath]) -> None:
    assert installed.metadata["License-Expression"] == "Apache-2.0"
    assert [path.name for path in files if "licenses" in path.parts] == ["LICENSE"]


def test_numpy_is_the_only_dependency(installed: Distribution) -> None:
    needed = [line for line in installed.requires or [] if "extra ==" not in line]
    assert [line.partition(">")[0] for line in needed] == ["numpy"]


def test_the_installed_package_is_imported_from_any_directory(installed: Distribution, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-c", "import psyne, psyne._native; print(psyne.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == Path(str(installed.locate_file("psyne/__init__.py")))


def test_the_command_line_is_installed_and_explains_itself(installed: Distribution, files: list[PurePath]) -> None:
    [command] = [path for path in files if path.parts[0] == ".." and path.name == "psyne"]
    path = str(installed.locate_file(command))
    done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
