"""A line that lives in a terminal; plain lines, now and then, elsewhere."""

import time
from types import TracebackType

from rich import progress
from rich.console import Console

from .result import Result

__all__ = ["Progress"]

PLAIN_PERIOD = 1.0  # seconds between plain lines


class Progress:
    def __init__(self, result: Result) -> None:
        self.console = Console(highlight=False)
        self._result = result
        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("frames", total=None, figures="starting")
        self._shown, self._printed = 0, float("-inf")

    def __enter__(self) -> "Progress":
        self.console.print(self._result.clip, soft_wrap=True)
        self.console.print(", ".join(f"{name}: pid {pid}" for name, pid in self._result.pids.items()), soft_wrap=True)
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def update(self) -> None:
        if self._result.frames == self._shown:
            return
        self._shown = self._result.frames
        total = self._result.expected or None
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self._shown, total=total, figures=self._figures())
        elif time.monotonic() - self._printed >= PLAIN_PERIOD or self._shown == total:
            self._printed = time.monotonic()
            self.console.print(f"{self._shown} of {total or '?'} frames   {self._figures()}", soft_wrap=True)

    def _figures(self) -> str:
        r = self._result
        if not r.seconds:
            return ""
        age = r.latencies[-1] / 1e6
        return f"{r.frames / r.seconds:5.1f} frames/s   {r.megabytes / r.seconds:6.1f} MB/s   latency {age:5.1f} ms"
