"""Shared memory: modes and owners, reserved before use, prefaulted, no system calls on the way of a message."""

import contextlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import psyne
from psyne import Array

from .helpers.layouts import Line, Number, line_of
from .helpers.process import Child

ROOT = os.geteuid() == 0

# ---- modes and owners ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_are_0600_in_a_directory_that_is_0700(psyne_directory: Path, monkeypatch: pytest.MonkeyPatch, umask: int):
    made = psyne_directory / "made"
    monkeypatch.setenv("PSYNE_DIR", str(made))
    before = os.umask(umask)
    try:
        with psyne.sender("ipc://modes", Number), psyne.receiver("ipc://modes"):
            assert stat.S_IMODE(made.stat().st_mode) == 0o700
            assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {0o600}
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o1777])
def test_a_directory_that_others_may_enter_is_refused_with_its_mode(psyne_directory: Path, mode: int):
    psyne_directory.chmod(mode)
    for open_end in (lambda: psyne.sender("ipc://modes", Number), lambda: psyne.receiver("ipc://modes")):
        with pytest.raises(psyne.IncompatibleChannel, match=rf"{psyne_directory}.*mode {mode:04o}.*0700.*chmod"):
            open_end()


@pytest.mark.skipif(not ROOT, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused_with_its_owner(psyne_directory: Path):
    os.chown(psyne_directory, 65534, 65534)
    with pytest.raises(psyne.IncompatibleChannel, match=r"uid 65534.*must be yours \(uid 0\)"):
        psyne.sender("ipc://modes", Number)
    os.chown(psyne_directory, 0, 0)


@pytest.mark.skipif(not ROOT, reason="only root can give a file away")
def test_a_channel_file_of_another_user_is_refused(psyne_directory: Path):
    with psyne.sender("ipc://modes", Number):
        (path,) = psyne_directory.glob("*.channel")
        os.chown(path, 65534, 65534)
        with pytest.raises(psyne.IncompatibleChannel, match="not a private regular file of uid 0"):
            psyne.receiver("ipc://modes")
        os.chown(path, 0, 0)


def test_a_directory_that_is_a_link_or_a_file_is_refused(psyne_directory: Path, monkeypatch: pytest.MonkeyPatch):
    (psyne_directory / "real").mkdir(0o700)
    (psyne_directory / "link").symlink_to(psyne_directory / "real")
    (psyne_directory / "file").touch()
    for name in ("link", "file"):
        monkeypatch.setenv("PSYNE_DIR", str(psyne_directory / name))
        with pytest.raises(OSError, match=str(psyne_directory / name)):
            psyne.sender("ipc://modes", Number)


# ---- no space ------------------------------------------------------------------------------------------------------


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("capacity", [10**12, 2**62, 2**63 + 1, 2**64 - 1, 10**30])
def test_a_capacity_that_no_machine_has_is_no_space_with_the_number_of_bytes(capacity: int):
    with pytest.raises((psyne.NoSpace, psyne.InvalidArgument), match=r"\d{9,}.*capacity"):
        psyne.sender("ipc://huge", Line, capacity=capacity)


@contextlib.contextmanager
def small_tmpfs(directory: Path, size: str) -> Iterator[Path]:
    """A tmpfs of its own, mounted for one test; the test is skipped where that is not allowed."""
    directory.mkdir(0o700)
    mount = shutil.which("mount")
    if not ROOT or mount is None:
        pytest.skip("needs root and mount(8)")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_file_system_is_an_exception_and_spares_those_who_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    block = Array("u1", 65536)
    with small_tmpfs(tmp_path / "small", "2m") as small:
        monkeypatch.setenv("PSYNE_DIR", str(small))
        tx, rx = psyne.sender("ipc://blocks", block, capacity=8), psyne.receiver("ipc://blocks")
        before = sorted(path.name for path in small.iterdir())
        with pytest.raises(psyne.NoSpace, match=r"\d{7} bytes.*capacity=.*PSYNE_DIR") as refused:
            psyne.sender("ipc://blocks", block, capacity=64)
        assert isinstance(refused.value, MemoryError)
        with pytest.raises(psyne.NoSpace):
            psyne.sender("ipc://others", block)
        assert sorted(path.name for path in small.iterdir()) == before
        for n in range(20):  # every page of these is there: no SIGBUS
            tx.send(np.full(65536, n, "u1"))
            with rx.receive() as m:
                assert (m.array == n).all()
        with psyne.sender("ipc://others", block, capacity=2):
            pass
        tx.close()
        rx.close()
        del m
        assert list(small.iterdir()) == []


def test_every_page_is_reserved_before_the_first_message(psyne_directory: Path):
    with psyne.sender("ipc://reserved", Array("u1", 1 << 20), capacity=16):
        for path in psyne_directory.iterdir():
            rows = 2 * 4096  # of a stage that nobody has added there are no pages: only the header and the row of main
            assert path.stat().st_blocks * 512 >= (rows if path.suffix == ".acks" else path.stat().st_size)


# ---- no faults, no system calls, no growth -------------------------------------------------------------------------

WORK = """
import resource, time
def used():
    pages = int(open('/proc/self/statm').read().split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt, pages
def send(first, n):
    message = np.zeros(8, 'u8')
    words = memoryview(message)
    for i in range(first, first + n):
        words[0] = i
        tx.send(message)
def receive(n):
    wrong = 0
    for i in range(n):
        m = rx.receive()
        wrong += m.array[0] != rounds + i
    return wrong
def measured(work):
    before = used()
    result = work()
    after = used()
    return after[0] - before[0], after[1] - before[1], result
rounds = 0
"""


def spinning_pair(writer: Child, reader: Child) -> None:
    for child in (writer, reader):
        child.run(WORK)
    writer.run("tx = psyne.sender('ipc://pair', Line, capacity=1024, wait='spin', pattern='spsc')")
    reader.run("rx = psyne.receiver('ipc://pair', wait='spin')")
    for _ in range(2):  # warm-up: more than a lap, and the code paths of measuring
        writer.begin("measured(lambda: send(0, 3000))")
        reader.begin("rounds = 0; measured(lambda: receive(3000))")
        writer.result()
        assert reader.result()[2] == 0


@pytest.mark.watchdog(300)
def test_a_million_messages_cause_no_page_faults_and_no_growth():
    with Child() as writer, Child() as reader:
        spinning_pair(writer, reader)
        writer.begin("measured(lambda: send(0, 1_000_000))")
        reader.begin("measured(lambda: receive(1_000_000))")
        for child in (writer, reader):
            faults, pages, wrong = child.result()
            assert not wrong
            assert faults < 10
            assert pages < 10


@pytest.mark.watchdog(300)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_messages_of_spinning_ends_cause_hardly_any_system_calls(tmp_path: Path):
    with Child() as writer, Child() as reader:
        spinning_pair(writer, reader)
        traces = []
        for child in (writer, reader):
            log = tmp_path / f"{child.pid}"
            trace = subprocess.Popen(
                ["strace", "-c", "-f", "-o", str(log), "-p", str(child.pid)], stderr=subprocess.PIPE, text=True
            )
            assert trace.stderr is not None
            first = trace.stderr.readline()
            if "attached" not in first:
                trace.wait()
                trace.stderr.close()
                pytest.skip(f"strace may not attach here: {first.strip()}")
            traces.append((trace, log))
        writer.begin("send(0, 200_000)")
        reader.begin("receive(200_000)")
        for child in (writer, reader):
            assert not child.result()
        for trace, log in traces:
            trace.terminate()
            trace.wait()
            trace.stderr.close()
            total = re.search(r"(\d+)(?:\s+\d+)?\s+total", log.read_text())
            assert total is not None
            assert int(total[1]) < 100, log.read_text()


def test_memory_is_populated_before_the_first_message():
    """A page fault for each page of these 16 MiB would be 4096, or 256 where the kernel maps the pages around."""
    touched = """
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
m.array[::4096].sum() if reads else m.array.fill(1)
resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before"""
    with Child() as writer, Child() as reader:
        writer.run("tx = psyne.sender('ipc://pages', psyne.Array('u1', 16 << 20), capacity=2); m = tx.loan()")
        assert writer.run(touched, reads=False) < 64
        writer.run("tx.send(m)")
        reader.run("rx = psyne.receiver('ipc://pages'); m = rx.receive()")
        assert reader.run(touched, reads=True) < 64


def test_slots_are_used_again_and_memory_does_not_grow():
    with psyne.sender("ipc://flat", Line, capacity=8) as tx, psyne.receiver("ipc://flat") as rx:
        addresses = set()
        for n in range(1000):
            tx.send(line_of(1, n))
            with rx.receive() as m:
                addresses.add(m.array.ctypes.data)
        assert len(addresses) == 8
        assert max(addresses) - min(addresses) == 7 * 64
