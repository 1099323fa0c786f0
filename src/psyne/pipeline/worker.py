"""What a worker does, in a process or a thread of its own: it sends, or takes messages and calls a function."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NoReturn

from ..ends import Receiver, Sender
from ..errors import ChannelClosed, Empty, EndOfChannel, Full, SenderLost
from ..handover import Memory
from ..inspect import inspect
from ..openers import receiver, sender
from .board import Figures
from .leash import Leash
from .task import Task, is_class

__all__ = ["run_in_process", "run_in_thread"]

SLICE = 0.1  # seconds of waiting after which a worker looks whether it is over
FAILED = 1  # exit code of a process whose function raised
logger = logging.getLogger("psyne")


def run_in_process(task: Task, link: "Connection[Any, Any]", memory: Memory) -> None:
    """The target of a process. Its parent has blocked both signals until here.

    A terminal's Ctrl-C reaches all processes, `kill` of a service too: only the source may follow, so that the stages
    still work off what it sent.
    """
    stopper = Interrupt() if task.options is not None else None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stopper.on_signal if stopper else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    leash = Leash(link, stopper.ask if stopper else lambda: None)

    def fail(error: BaseException) -> NoReturn:
        leash.publish()
        leash.tell("failed", _told(task, error))
        _die()

    try:
        Worker(task, leash, memory, stopper, fail).run()
    except BaseException as error:
        fail(error)
    leash.tell("done")


def run_in_thread(task: Task, link: "Connection[Any, Any]", memory: Memory) -> None:
    """The target of a thread."""
    stopper = Closing() if task.options is not None else None
    leash = Leash(link, stopper.ask if stopper else lambda: None)
    try:
        Worker(task, leash, memory, stopper, on_failure=lambda error: None).run()
    except BaseException as error:
        leash.tell("failed", _told(task, error))
    else:
        leash.tell("done")


class Interrupt:
    """Stops a source's function by SystemExit, from a signal in the main thread."""

    def __init__(self) -> None:
        self.asked = self.inside = False

    def ask(self) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if first and self.inside:
            raise SystemExit(0)

    def give(self, out: Sender[Any]) -> None:
        """This is the sender that the function has."""


class Closing:
    """Stops a source's function in a thread: its sender closes, so the next call of it raises ChannelClosed."""

    def __init__(self) -> None:
        self.asked = self.inside = False
        self._out: Sender[Any] | None = None

    def ask(self) -> None:
        self.asked = True
        if self._out is not None:
            self._out.close()

    def give(self, out: Sender[Any]) -> None:
        self._out = out
        if self.asked:
            out.close()


class Worker:
    """One task, from its beginning to its end."""

    def __init__(
        self, task: Task, leash: Leash, memory: Memory, stopper: Interrupt | Closing | None,
        on_failure: Callable[[BaseException], object],
    ) -> None:  # fmt: skip
        self.task, self.leash, self.stopper, self.on_failure = task, leash, stopper, on_failure
        self.figures = Figures(memory, task.row)
        self.types: tuple[Any, ...] = tuple(kind.find() for kind in task.types)

    def run(self) -> None:
        if self.stopper is not None:
            self._send(self.stopper)
        else:
            self._receive()

    def _send(self, stopper: Interrupt | Closing) -> None:
        assert self.task.options is not None
        work = self.task.work() if is_class(self.task.work) else self.task.work
        with sender(self.task.address, *self.types, **self.task.options) as out:
            self.leash.publish = lambda: self.figures.publish(out)
            stopper.give(out)
            self.leash.tell("ready")
            self.leash.go.wait()
            try:
                stopper.inside = True
                if not stopper.asked:
                    work(out)
            except SystemExit as error:
                if not stopper.asked and error.code:
                    raise
            except ChannelClosed:
                if not stopper.asked:
                    raise
            finally:
                stopper.inside = False
            self._drain(out)
            self.figures.publish(out)

    def _drain(self, out: Sender[Any]) -> None:
        """While the sender is there so is the channel, and a member that is started again finds it."""
        while not self.leash.over.is_set() and not out.closed:
            try:
                return out.drain(timeout=SLICE)
            except Full:
                continue
            except ChannelClosed:
                return None

    def _receive(self) -> None:
        task = self.task
        work = task.work() if is_class(task.work) else task.work
        with receiver(task.address, *self.types, stage=task.name) as messages:
            if not self._join(messages):
                return
            self.leash.publish = lambda: self.figures.publish(messages)
            self.leash.tell("ready")
            while (m := self._next(messages)) is not None:
                with m:
                    self._call(work, m)
            self.figures.publish(messages)
        if is_class(task.work) and callable(close := getattr(work, "close", None)):
            close()

    def _join(self, messages: Receiver[Any]) -> bool:
        """False: the source was lost before it opened its channel."""
        while not messages.joined:
            try:
                messages._await_channel(time.monotonic_ns() + int(SLICE * 1e9))
            except Empty:
                if self.leash.over.is_set():
                    return False
        return True

    def _next(self, messages: Receiver[Any]) -> Any:
        """The next message or batch; None at the end."""
        while True:
            try:
                if self.task.batch is None:
                    return messages.receive(timeout=SLICE)
                return messages.receive_many(self.task.batch, timeout=SLICE, linger=self.task.linger)
            except Empty:
                if self.leash.over.is_set() and self._nothing_comes():
                    return (
                        messages.try_receive()
                        if self.task.batch is None
                        else messages.try_receive_many(self.task.batch)
                    )
            except EndOfChannel:
                return None
            except SenderLost:  # a source that is started again sends more
                if self.leash.over.wait(SLICE):
                    return None

    def _nothing_comes(self) -> bool:
        """Have all left whose messages this stage waits for? Some of them will never be passed."""
        seen = inspect(self.task.address)
        if seen is None:
            return True
        if any(lane.sender is not None and lane.sender.alive for lane in seen.lanes):
            return False
        before, left = set[str](), [self.task.name]
        while left:
            left = [name for name in seen.stage(left.pop()).after if name not in before] + left
            before.update(left)
        return not any(member.alive for name in before for member in seen.stage(name).members)

    def _call(self, work: Callable[[Any], object], m: Any) -> None:
        """Inside the message's block: a process that fails dies in there, so the message goes the way of the killed."""
        try:
            self.figures.begin()
            work(m)
            self.figures.end(1 if self.task.batch is None else len(m))
        except BaseException as error:
            self.on_failure(error)
            raise


def _told(task: Task, error: BaseException) -> str:
    """Logs a failure here; what the supervisor is told of it."""
    logger.error("%s %r (pid %d) failed", task.kind, task.name, os.getpid(), exc_info=error)
    return f"{type(error).__name__}: {error}\n" + "".join(traceback.format_exception(error))


def _die() -> NoReturn:
    """At once, with what it holds: others of its stage get it as the channel's rules say."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(FAILED)
