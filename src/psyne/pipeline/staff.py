"""The workers of a running pipeline: a process or thread each, with a line to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, Literal

from ..handover import Memory
from .task import Task
from .worker import run_in_process, run_in_thread

__all__ = ["Kind", "Worker", "start"]

Kind = Literal["processes", "threads"]
SPAWN = multiprocessing.get_context("spawn")
HELD_BACK = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Worker:
    """One worker while it lives."""

    source: str
    task: Task
    body: BaseProcess | Thread
    link: Connection[Any, Any]
    ready: bool = False
    done: bool = False
    why: str = ""
    """It has told why it failed."""

    @property
    def pid(self) -> int:
        return self.body.pid or 0 if isinstance(self.body, BaseProcess) else os.getpid()

    @property
    def who(self) -> str:
        """For people."""
        number = f" {self.task.member}" if self.task.member else ""
        return f"{self.task.kind} {self.task.name!r}{number and ', member' + number} (pid {self.pid})"

    def tell(self, word: str) -> None:
        """One of the words of `leash`; a worker that is gone does not hear it."""
        with contextlib.suppress(OSError):
            self.link.send(word)

    def kill(self) -> None:
        """A process ends at once. A thread cannot be ended: it is told to."""
        if isinstance(self.body, BaseProcess):
            self.body.kill()
            self.body.join()
        else:
            self.tell("over")
            self.tell("stop")

    def leave(self) -> None:
        """It has ended, or is about to: afterwards nothing is left of it here."""
        if isinstance(self.body, BaseProcess):
            self.body.join()
            self.why = self.why or _ending(self.body.exitcode or 0)
        self.link.close()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"


def start(source: str, task: Task, kind: Kind, memory: Memory) -> Worker:
    """Starts a worker. A process begins with SIGINT and SIGTERM blocked, until it knows what they mean to it."""
    ours, theirs = SPAWN.Pipe()
    name = f"{source} {task.name} {task.member}"
    if kind == "threads":
        thread = Thread(target=run_in_thread, args=(task, theirs, memory), name=name, daemon=True)
        thread.start()
        return Worker(source, task, thread, ours)
    process = SPAWN.Process(target=run_in_process, args=(task, theirs, memory), name=name)
    resource_tracker.ensure_running()  # starting it unblocks these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return Worker(source, task, process, ours)
