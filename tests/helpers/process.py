"""Real processes for tests: told what to do over a pipe, stopped and killed by real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Self

__all__ = ["HELPERS", "PATIENCE", "Child", "cpu_ticks", "descriptors", "run_program", "sleeping", "until"]

HELPERS = Path(__file__).parent
PATIENCE = 60.0  # seconds until a condition that does not come true fails a test; never a limit on speed


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Polls until `condition()` is true and returns its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.001)
    return value


def descriptors() -> set[tuple[int, int, int]]:
    """Number, device and inode of each open file. Compare by `-`: what earlier tests left may close meanwhile."""
    opened = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            seen = os.fstat(int(name))
            opened.add((int(name), seen.st_dev, seen.st_ino))
    return opened


def _stat(pid: int, thread: int | None) -> list[str]:
    text = Path(f"/proc/{pid}/task/{thread or pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def sleeping(pid: int, thread: int | None = None) -> bool:
    """Does the kernel say that this thread (default: the first) sleeps?"""
    return _stat(pid, thread)[0] == "S"


def cpu_ticks(pid: int, thread: int | None = None) -> int:
    """Processor time of a thread so far, in clock ticks."""
    stat = _stat(pid, thread)
    return int(stat[11]) + int(stat[12])


class Child:
    """A Python process that executes statements, with psyne, numpy and the shared layouts in its namespace.

    `before` are the words of a command that runs it, as `env` does.
    """

    def __init__(self, *before: str) -> None:
        self._link, theirs = Pipe()
        self.process = subprocess.Popen(
            [*before, sys.executable, str(HELPERS / "child.py"), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.pid = self.process.pid

    def begin(self, code: str, **values: Any) -> None:
        """Starts statements without waiting for their end; `values` become variables there."""
        self._link.send((code, values))

    def begun(self) -> None:
        """Waits until the statements of `begin` are being executed."""
        assert self._receive() == ("begun", None)

    def result(self, patience: float = PATIENCE) -> Any:
        """The value of the last statement, or the exception that it raised there."""
        kind, value = self._receive()
        if kind == "begun":
            kind, value = self._receive(patience)
        if kind == "error":
            raise value
        return value

    def run(self, code: str, **values: Any) -> Any:
        """Executes statements and returns the value of the last one."""
        self.begin(code, **values)
        return self.result()

    def begin_waiting(self, code: str, *, spins: bool = False, **values: Any) -> None:
        """Starts statements and returns when the child sleeps in them (or burns processor time, if it spins)."""
        self.begin(code, **values)
        self.begun()
        if spins:
            start = cpu_ticks(self.pid)
            until(lambda: cpu_ticks(self.pid) >= start + 3, "spinning")
        else:
            until(lambda: sleeping(self.pid), "sleeping")

    def answered(self) -> bool:
        """Has the child finished its statements?"""
        return self._link.poll()

    def interrupt(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def stop(self) -> None:
        """SIGSTOP, and returns when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        until(lambda: _stat(self.pid, None)[0] == "T", "stopping")

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self, *, reap: bool = True) -> None:
        """SIGKILL, and returns when the process is gone (or a zombie)."""
        os.kill(self.pid, signal.SIGKILL)
        if reap:
            self.process.wait()
        else:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def finish(self) -> int:
        """Lets the interpreter exit normally; its exit code."""
        self._link.close()
        return self.process.wait()

    def _receive(self, patience: float = PATIENCE) -> Any:
        assert self._link.poll(patience), f"process {self.pid} does not answer"
        return self._link.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._link.close()


def run_program(code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a whole program to the end of its interpreter, with the shared layouts importable."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HELPERS,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    if check:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
