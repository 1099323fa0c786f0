"""`psyne doctor`, run as its users run it, and what it says of machines that lack something."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import psyne
from psyne import doctor
from psyne.devices import KINDS, unavailable, vulkan

from .helpers import fakecuda
from .helpers.layouts import Number
from .helpers.process import Child

COMMAND = Path(sysconfig.get_path("scripts")) / "psyne"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "doctor", *arguments], capture_output=True, text=True, timeout=90, env=os.environ | environment
    )


def examined(**environment: str) -> dict[str, Any]:
    done = run("--json", **environment)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.leaves_nothing
def test_it_says_on_one_screen_what_is_there(psyne_directory: Path) -> None:
    done = run(COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith(f"psyne       {psyne.__version__}, Python 3.")
    text = " ".join(done.stdout.split())
    assert "a message crosses a channel in" in text
    assert f"channels in {psyne_directory}" in text
    assert "(ulimit -l)" in text
    for info in psyne.devices():
        assert f"{info.name} {info.product}; {info.driver}; " in text
        assert info.zero_copy in text
    for kind, why in unavailable().items():
        assert f"{kind} not here: {' '.join(why.split())}" in text


@pytest.mark.leaves_nothing
def test_the_same_for_programs(psyne_directory: Path) -> None:
    seen = examined()
    assert seen["psyne"]["version"] == psyne.__version__
    assert seen["message"]["crosses"] is True
    room = os.statvfs(psyne_directory)
    assert seen["directory"]["bytes"] == room.f_blocks * room.f_frsize
    assert 0 <= seen["directory"]["free_bytes"] <= seen["directory"]["bytes"]
    assert seen["channels"] == {"open": [], "removed_files": 0, "other_files": 0}
    (cpu,) = [it for it in seen["devices"] if it["kind"] == "cpu"]
    assert cpu["unified"] is True
    assert {it["kind"] for it in seen["devices"]} | set(seen["unavailable"]) == set(KINDS)


def test_a_device_that_is_there_is_listed_with_its_memory(tmp_path: Path) -> None:
    environment = {"PSYNE_LIBCUDA": fakecuda.library(), "FAKECUDA_DIR": str(tmp_path)}
    (cuda,) = [it for it in examined(**environment)["devices"] if it["kind"] == "cuda"]
    assert (cuda["name"], cuda["product"], cuda["unified"]) == ("cuda:0", "stand-in 0", False)
    text = " ".join(run(**environment).stdout.split())
    assert (
        "cuda:0 stand-in 0; CUDA 13.0; memory is not unified; reads and writes messages in place, over the bus" in text
    )


def test_a_kind_that_is_missing_is_named_with_what_to_install() -> None:
    seen = examined(PSYNE_LIBCUDA="/nowhere/libcuda.so.1", PSYNE_LIBVULKAN="/nowhere/libvulkan.so.1")
    assert "install the driver" in seen["unavailable"]["cuda"]
    assert "Debian has it as libvulkan1" in seen["unavailable"]["vulkan"]


def test_a_driver_that_fails_is_told_of_and_the_others_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def devices() -> list[Any]:
        raise psyne.SystemFailure(5, "vkEnumeratePhysicalDevices: the driver is lost")

    monkeypatch.setattr(vulkan, "devices", devices)
    seen = doctor.examine()
    assert "the driver is lost" in seen["unavailable"]["vulkan"]
    assert "cpu" in [it["kind"] for it in seen["devices"]]


@pytest.mark.leaves_nothing
def test_it_counts_open_channels_and_removes_what_the_dead_left(psyne_directory: Path) -> None:
    with psyne.sender("ipc://alive", Number), Child() as child:
        child.run("tx = psyne.sender('ipc://dead', Number)")
        assert len(examined()["channels"]["open"]) == 2
        child.kill()
        seen = examined()["channels"]
        assert seen["open"] == ["ipc://alive"]
        assert seen["removed_files"] >= 2  # the channel, a slab
        assert examined()["channels"]["removed_files"] == 0
        (psyne_directory / "notes.txt").write_text("not a channel's")
        assert examined()["channels"]["other_files"] == 1
        assert "1 files that belong to no channel" in " ".join(run().stdout.split())
    (psyne_directory / "notes.txt").unlink()


def test_where_no_message_crosses_it_says_why_and_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("--json", PSYNE_DIR=str(tmp_path / "file"))
    assert done.returncode == 1
    message = json.loads(done.stdout)["message"]
    assert message["crosses"] is False
    assert "file" in message["error"]
    assert "a message DOES NOT CROSS a channel: " in " ".join(run(PSYNE_DIR=str(tmp_path / "file")).stdout.split())


def test_a_directory_on_a_disk_is_told_and_one_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"path": "/x", "exists": False, "filesystem": "ext4", "bytes": 5 << 30, "free_bytes": 1 << 20}
    text = doctor._filesystem_in_words(seen)
    assert "on a disk's file system (ext4)" in text
    assert "set PSYNE_DIR to a place in /dev/shm" in text
    assert "not there yet" in text
    assert doctor._room_in_words(seen) == "1.0 MiB of 5.0 GiB are free"
    monkeypatch.setenv("PSYNE_DIR", "/dev/shm/psyne-not-there-yet")
    there = doctor._directory("/dev/shm/psyne-not-there-yet")
    assert (there["exists"], there["filesystem"]) == (False, "tmpfs")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"membarrier": False}, "no membarrier (a sandbox may forbid it)"),
        ({"membarrier": None}, "cannot be told"),
        ({"limits": {"locked_bytes": None, "open_files": None}}, "any amount (ulimit -l)"),
        ({"udmabuf": True}, "/dev/udmabuf is for us"),
        ({"udmabuf": False}, "/dev/udmabuf is not here, or not for us"),
    ],
)
def test_what_a_machine_has_and_lacks_is_said_in_words(change: dict[str, Any], text: str) -> None:
    assert text in " ".join(doctor.told(doctor.examine() | change, 100).split())
