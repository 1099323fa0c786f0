"""Starts the three programs, follows what they report, and ends them all when one fails or the user stops."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import IO, Any, NoReturn

from psyne import _native
from psyne.address import channel_directory

from .options import Options
from .program import STOPPED, DemoError
from .progress import Progress
from .result import PROGRAMS, Result

__all__ = ["demo"]

GRACE = 5.0  # seconds for a program to leave its channel after SIGTERM


def demo(options: Options) -> None:
    """Raises DemoError, in one sentence, when a program fails or the result is not what it must be."""
    signal.signal(signal.SIGTERM, _stop)
    clip, output = options.clip(), os.path.abspath(options.output)
    channel = f"psyne-demo-{os.getpid()}"
    with Programs(channel, clip, options.frames, output, options.device) as programs:
        result = Result(clip, programs.pids)
        with Progress(result) as progress:
            for name, facts in programs.reports():
                result.take(name, facts)
                progress.update()
    result.check()
    progress.console.print(result.table(), result.proof(), sep="\n")
    print(f"contact sheet: {options.output}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result.as_dict(), file, indent=1)


class Programs:
    """The three processes. Leaving the block ends those that still run."""

    def __init__(self, channel: str, clip: str, frames: int | None, output: str, device: str | None) -> None:
        self._channel = channel
        address = f"ipc://{channel}"
        arguments = {
            "capture": (address, clip, str(frames or 0)),
            "analyse": (address, device or ""),
            "show": (address, os.path.basename(clip), output),
        }
        self._lines: SimpleQueue[tuple[str, dict[str, Any] | None]] = SimpleQueue()
        self._errors: dict[str, str] = {}
        self._running: dict[str, subprocess.Popen[str]] = {}
        for name in PROGRAMS:
            self._running[name] = self._start(name, *arguments[name])
        self._all = dict(self._running)
        self.pids = {name: program.pid for name, program in self._all.items()}

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-P", "-m", f"psyne.demo.{name}", *arguments],
            stdin=subprocess.PIPE,  # its end tells the program that the supervisor is gone
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the supervisor; it ends the others in order
        )
        assert program.stdout is not None
        Thread(target=self._read, args=(name, program.stdout), daemon=True).start()
        return program

    def _read(self, name: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._lines.put((name, json.loads(line)))
        self._lines.put((name, None))

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end()
        for program in self._all.values():
            assert program.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                program.stdin.close()
        _native.describe(channel_directory(), self._channel)  # a look removes what the killed left behind

    def reports(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the programs say, until all have ended. Raises DemoError when one fails."""
        waiting = {"analyse", "show"}
        while self._running:
            name, facts = self._lines.get()
            if facts is None:
                if self._running.pop(name).wait() != 0:
                    self._fail()
            elif "error" in facts:
                self._errors[name] = facts["error"]
            elif "ready" in facts:
                waiting.discard(name)
                if not waiting:
                    self._go()
            else:
                yield name, facts

    def _go(self) -> None:
        """Lets capture begin, so that no picture grows old while the others still start."""
        stdin = self._all["capture"].stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write("go")
            stdin.flush()

    def _fail(self) -> NoReturn:
        """One failure brings others with it: the cause is the one nearest to the video."""
        stopped = self._end()
        cause = next(n for n in PROGRAMS if self._all[n].returncode != 0 and (n not in stopped or n in self._errors))
        raise DemoError(f"{cause} (pid {self.pids[cause]}) failed: {self._reason(cause)}")

    def _reason(self, name: str) -> str:
        code = self._all[name].returncode
        if name in self._errors:
            return self._errors[name]
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"

    def _end(self) -> set[str]:
        """Returns the programs that still ran and were stopped."""
        stopped = {name for name, program in self._running.items() if program.poll() is None}
        for program in self._running.values():
            program.terminate()
        for program in self._running.values():
            try:
                program.wait(GRACE)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        while self._running:
            name, facts = self._lines.get()
            if facts is None:
                del self._running[name]
            elif "error" in facts:
                self._errors[name] = facts["error"]
        return stopped


def _stop(number: int, frame: object) -> NoReturn:
    sys.exit(STOPPED)
