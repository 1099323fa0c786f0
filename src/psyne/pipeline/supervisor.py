"""The supervisor: a thread that starts the workers, starts them again, and ends them in order."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from threading import Event, Thread
from typing import TYPE_CHECKING

from .. import _native
from ..address import channel_place
from ..errors import PipelineError
from ..log import logger
from .board import Board, Sample
from .staff import Kind, Worker, start

if TYPE_CHECKING:
    from .program import Source
    from .task import Task

__all__ = ["Supervisor"]

SAMPLING = 0.25  # seconds between two looks at the figures
SECOND = 1.0  # of which the rates are told
PATIENCE = 5.0  # seconds after which a source that does not stop is named

Key = tuple[str, str]  # a source, and it or one of its stages


class Supervisor:
    """Starts all workers when it is made. Its thread ends when they have ended."""

    def __init__(self, sources: Sequence[Source], kind: Kind) -> None:
        self.sources = tuple(sources)
        self.stopped_by = ""
        self.failure: PipelineError | None = None
        self.ended = Event()
        self.began: float | None = None  # when the sources were let go
        self.took = 0.0
        self.restarts: Counter[Key] = Counter()
        tasks = _numbered(sources)
        self.rows = {(source.name, task.name, task.member): task.row for source, task in tasks}
        self.board = Board(len(tasks))
        self.samples: deque[Sample] = deque(maxlen=int(SECOND / SAMPLING) + 1)
        self._kind: Kind = kind
        self._policies = {(source.name, task.name): source.restart_of(task) for source, task in tasks}
        self._crashes: dict[Key, list[float]] = {key: [] for key in self._policies}
        self._asked: float | None = None  # when the sources were asked to stop
        self._last: float | None = None  # when a worker said that it was done
        self._killed = False
        self._wishes: deque[tuple[str, str]] = deque()
        self._bell, self._button = os.pipe()
        self.workers: list[Worker] = []
        try:
            for source, task in tasks:
                self.workers.append(start(source.name, task, kind, self.board.memory))
        except BaseException:
            self._kill()
            raise
        Thread(target=self._run, name="psyne pipeline").start()

    def wish(self, what: str, why: str = "") -> None:
        """Ask it to "stop" or "kill", from any thread or signal handler: a deque and a pipe need no lock."""
        self._wishes.append((what, why))
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.write(self._button, b"!")

    def pids(self, key: Key) -> list[int]:
        """Of the workers that live."""
        return [worker.pid for worker in list(self.workers) if (worker.source, worker.task.name) == key]

    def _run(self) -> None:
        try:
            while self.workers and not self._killed:
                self._turn()
        except BaseException as error:  # of the supervisor itself: nobody must be left behind
            self.failure = PipelineError(f"the supervisor failed: {type(error).__name__}: {error}")
            self.failure.__cause__ = error
            self._kill()
        finally:
            now = time.monotonic()
            self.took = (self._last or now) - (self.began or now)
            with contextlib.suppress(OSError, PipelineError):
                for source in self.sources:
                    _native.describe(*channel_place(source.address))  # a look removes what the killed left behind
            os.close(self._button)
            os.close(self._bell)
            self.ended.set()

    def _turn(self) -> None:
        by_link: dict[object, Worker] = {worker.link: worker for worker in self.workers}
        for link in wait([self._bell, *(worker.link for worker in self.workers)], SAMPLING):
            if isinstance(link, int):
                os.read(link, 64)
            else:
                self._hear(by_link[link])
        for worker in list(self.workers):  # a line that a child of its own has inherited does not end with it
            if not worker.body.is_alive() and not worker.link.poll():
                self._gone(worker)
        while self._wishes and not self._killed:
            what, why = self._wishes.popleft()
            if what == "kill":
                self._kill()
            else:
                self._stop(why)
        if self.began is None and all(worker.ready for worker in self.workers):
            self.began = time.monotonic()
            self._tell_sources("go")
        self._sample()
        self._complain()

    def _hear(self, worker: Worker) -> None:
        try:
            word, text = worker.link.recv()
        except (EOFError, OSError):
            return self._gone(worker)
        if word == "ready":
            worker.ready = True
            if self.began is not None and worker.task.options is not None:
                worker.tell("go")  # it was started again
            return None
        worker.done, worker.why, self._last = word == "done", text, time.monotonic()
        if self._kind == "threads":
            self._gone(worker)
        return None

    def _gone(self, worker: Worker) -> None:
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        worker.leave()
        if not worker.done and not self._killed:
            self._crashed(worker)
        if not self._sends(worker.source):
            self._tell_stages(worker.source, "over")

    def _crashed(self, worker: Worker) -> None:
        key = (worker.source, worker.task.name)
        reason, _, trace = worker.why.partition("\n")
        stays = self.failure is None and (worker.task.options is None or self._asked is None)
        if stays and self._policies[key].allows(self._crashes[key], time.monotonic()):
            logger.warning("%s crashed (%s) and is started again", worker.who, reason)
            self.restarts[key] += 1
            self.workers.append(start(worker.source, worker.task, self._kind, self.board.memory))
            return
        if self.failure is not None:
            logger.warning("%s crashed as well: %s", worker.who, reason)
            return
        crashes = len(self._crashes[key])
        times = f", the {crashes}. crash of its {worker.task.kind} within a minute" if crashes > 1 else ""
        self.failure = PipelineError(f"{worker.who} crashed{times}: {reason}", worker.task.name, worker.pid, worker.why)
        if trace:
            self.failure.add_note(trace.rstrip())
        self._stop(self.stopped_by or "a crash")
        for other in self.workers:
            other.tell("over")

    def _stop(self, why: str) -> None:
        if self._asked is None:
            self._asked, self.stopped_by = time.monotonic(), why
            self._tell_sources("stop")

    def _kill(self) -> None:
        self._killed = True
        self.stopped_by = self.stopped_by or "kill()"
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.leave()
        self.workers.clear()

    def _sends(self, source: str) -> bool:
        """Is there a sender of this source, or will one be?"""
        return any(worker.source == source and worker.task.options is not None for worker in self.workers)

    def _tell_stages(self, source: str, word: str) -> None:
        for worker in self.workers:
            if worker.source == source and worker.task.options is None:
                worker.tell(word)

    def _tell_sources(self, word: str) -> None:
        for worker in self.workers:
            if worker.task.options is not None:
                worker.tell(word)

    def _sample(self) -> None:
        now = time.monotonic()
        if not self.samples or now - self.samples[-1].time >= SAMPLING:
            self.samples.append(self.board.sample(now))

    def _complain(self) -> None:
        """Once: a function in C, or one that catches SystemExit, goes on."""
        if self._asked is None or time.monotonic() - self._asked < PATIENCE:
            return
        self._asked = float("inf")
        if late := [worker.who for worker in self.workers if worker.task.options is not None]:
            logger.warning(
                "%s has not ended %g s after it was asked to; a second Ctrl-C or kill() ends everything at once",
                ", ".join(late), PATIENCE,
            )  # fmt: skip


def _numbered(sources: Sequence[Source]) -> list[tuple[Source, Task]]:
    found: list[tuple[Source, Task]] = []
    for source in sources:
        found += [(source, task) for task in source.tasks(len(found))]
    return found
