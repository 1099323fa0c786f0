"""The command `psyne`: help, version, the list of channels."""

import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

import psyne
from psyne import Array, ArrowBatch, Bytes, Matrix, Stage, Struct, Text, f32, u64

COMMAND = Path(sysconfig.get_path("scripts")) / "psyne"


class Imu(Struct):
    stamp = u64()
    accel = f32(3)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60)


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "doctor" in done.stdout
    assert "ls" in done.stdout
    assert "bridge" in done.stdout


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"psyne {version('psyne')}\n"


@pytest.mark.parametrize("arguments", [(), ("dance",), ("demo", "--frames", "many")])
def test_a_wrong_command_line_is_explained(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: psyne" in done.stderr


def test_the_command_line_starts_without_the_demo_and_its_extras() -> None:
    code = "import psyne.cli, sys; print([m for m in sys.modules if m.split('.')[0] in ('av', 'PIL', 'rich')])"
    code += "; print([m for m in sys.modules if m.startswith('psyne.demo')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stderr


def test_ls_shows_address_type_pattern_and_stages_of_open_channels() -> None:
    with (
        psyne.sender("ipc://imu", Imu, pattern="mpmc", stages=[Stage("calibrate", mutate=True), "fuse"]),
        psyne.sender("ipc://grid.x", psyne.Array("f4", (480, 640))),
    ):
        done = run("ls")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ipc://grid.x   Array(<f4, [480, 640])   mpsc   main",
        "ipc://imu      Imu(stamp, accel)        mpmc   calibrate → fuse",
    ]


def test_ls_shows_what_each_stage_runs_after_where_the_stages_are_no_chain() -> None:
    diamond = [Stage("a", mutate=True), Stage("b", after="a"), Stage("c", after="a"), Stage("d", after=["b", "c"])]
    with psyne.sender("ipc://d", Imu, stages=diamond), psyne.sender("ipc://f", Imu, stages=["x", Stage("y", after=[])]):
        assert run("ls").stdout.splitlines() == [
            "ipc://d   Imu(stamp, accel)   mpsc   a, b(after a), c(after a), d(after b, c)",
            "ipc://f   Imu(stamp, accel)   mpsc   x, y",
        ]


def test_ls_tells_every_kind_of_type_from_the_others() -> None:
    types = {
        "Array(<f8)": Array("f8"),
        "Array(<f4, 2d, at most 4096)": Array("f4", ndim=2),
        "Array(<f8, [3, 4], Fortran)": Matrix(3, 4, order="F"),
        "Text(at most 4096)": Text,
        "Bytes(at most 100)": Bytes(max_bytes=100),
        "ArrowBatch(at most 9000)": ArrowBatch(max_bytes=9000),
        "Imu(stamp, accel)": Imu,
    }
    with psyne.sender("ipc://all", *types.values()):
        assert run("ls").stdout == f"ipc://all   {' | '.join(types)}   mpsc   main\n"


def test_ls_shows_no_channel_when_there_is_none(psyne_directory: Path) -> None:
    assert run("ls").stdout == f"no channels in {psyne_directory}\n"


def test_ls_shows_no_channel_after_its_last_end_has_left(psyne_directory: Path) -> None:
    psyne.sender("ipc://imu", Imu).close()
    assert run("ls").stdout == f"no channels in {psyne_directory}\n"


def test_ls_names_a_file_that_is_no_channel(psyne_directory: Path) -> None:
    file = psyne_directory / "imu.0123456789abcdef.channel"
    file.write_bytes(b"something else")
    file.chmod(0o600)
    done = run("ls")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"ipc://imu   ({file}")
