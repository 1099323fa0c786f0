"""The description of a pipeline: its sources, their stages, and everything that can be checked before it runs."""

from __future__ import annotations

import os
import re
import secrets
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from ..address import channel_name
from ..anonymous import channel
from ..errors import InvalidArgument
from ..handover import TypeReference
from ..options import ChannelOptions, SenderOptions
from ..stage import Pattern, Stage, stage_graph
from ..types import AnyLayout, as_type
from .check import check_count, check_work, name_of
from .drawing import draw
from .gather import idle_report
from .policy import Restart, restart_of
from .report import Report
from .running import Running
from .task import Task

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Pipeline", "Source"]

MAX_MEMBERS = 64  # of all stages of a channel, and senders


@dataclass(frozen=True)
class StageNode:
    """A stage as the program has it."""

    work: Callable[..., Any]
    stage: Stage
    members: int
    batch: int | None
    linger: float
    restart: Restart


@dataclass
class Source:
    """A channel with its sender and stages; `Pipeline.source` makes it."""

    name: str
    address: str
    work: Callable[..., Any]
    types: tuple[TypeReference, ...]
    members: int
    restart: Restart
    options: SenderOptions
    capacity: int
    workers: Literal["processes", "threads"]
    default_restart: Restart
    stages: list[StageNode] = field(default_factory=list)

    def stage(
        self, work: Callable[..., Any], *, name: str | None = None, mutate: bool = False,
        after: str | Sequence[str] | None = None, members: int = 1, batch: int | None = None, linger: float = 0.0,
        on_crash: Literal["skip", "redeliver"] = "skip", restart: Restart | str | None = None,
    ) -> Self:  # fmt: skip
        """Add a stage. Its function is called with each message, or with a `Batch` of up to ``batch``; returns self.

        A class is instantiated by each worker itself, and the instance is called; its ``close()``, if it has one, at
        the end. ``name`` is that of the function or class by default. ``mutate``, ``after`` and ``on_crash`` are those
        of `psyne.Stage`; ``members`` share the messages out. Of a batch's messages the last may come ``linger`` seconds
        after the first. ``restart`` replaces the pipeline's policy. Raises InvalidArgument for what can never work.
        """
        check_work(work, "a stage's function takes a message", self.workers)
        stage = Stage(name_of(work, name), mutate, after, on_crash)
        check_count(members, "members")
        if batch is not None:
            check_count(batch, "batch")
            if batch > self.capacity:
                raise InvalidArgument(
                    f"batch={batch} of stage {stage.name!r} is more than the ring of {self.name!r} holds: "
                    f"{self.capacity} messages; lower it, or raise capacity= of the source"
                )
        if not isinstance(linger, (int, float)) or not 0 <= linger < float("inf"):
            raise InvalidArgument(f"linger is a number of seconds, 0 or more; got {linger!r}")
        if linger and batch is None:
            raise InvalidArgument("linger= is for batches: say batch= as well")
        node = StageNode(
            work, stage, members, batch, linger, self.default_restart if restart is None else restart_of(restart)
        )
        stage_graph([*(s.stage for s in self.stages), stage])
        if (total := members + sum(s.members for s in self.stages)) > MAX_MEMBERS:
            raise InvalidArgument(
                f"a channel has at most {MAX_MEMBERS} receivers; the stages of {self.name!r} have {total}"
            )
        self.stages.append(node)
        return self

    @property
    def pattern(self) -> Pattern:
        """The narrowest one that these members allow."""
        shared = any(stage.members > 1 for stage in self.stages)
        if self.members > 1:
            return "mpmc" if shared else "mpsc"
        return "spmc" if shared else "spsc"

    def tasks(self, first_row: int) -> list[Task]:
        """What the workers of this channel are to do: senders first, then the stages in their order."""
        options: SenderOptions = {**self.options, "pattern": self.pattern, "stages": [s.stage for s in self.stages]}
        rows = iter(range(first_row, first_row + MAX_MEMBERS * 2))
        tasks = [
            Task(self.name, member, self.work, self.address, self.types, next(rows), options)
            for member in range(self.members)
        ]
        for node in self.stages:
            tasks += [
                Task(
                    node.stage.name,
                    member,
                    node.work,
                    self.address,
                    self.types,
                    next(rows),
                    None,
                    node.batch,
                    node.linger,
                )
                for member in range(node.members)
            ]
        return tasks

    def restart_of(self, task: Task) -> Restart:
        if task.options is not None:
            return self.restart
        return next(node.restart for node in self.stages if node.stage.name == task.name)

    def after(self) -> dict[str, tuple[str, ...]]:
        """The stages directly before each stage; none: it runs right behind the source. In an order that fits."""
        graph = stage_graph([node.stage for node in self.stages])
        return {
            name: tuple(graph[k][0] for k in range(i) if bits >> k & 1) for i, (name, bits, _, _) in enumerate(graph)
        }


class Pipeline:
    """Sources and stages as one program, in processes (the default) or threads.

    ``pipe.source(capture, Frame)`` adds a channel, ``.stage(work)`` a stage of it, and ``pipe.run()`` runs all until
    the sources have ended. ``restart``: what happens when a worker is killed or fails: ``"never"`` stops the pipeline,
    ``"on_crash"`` starts it again, up to 5 times a minute, ``psyne.pipeline.on_crash(n)`` up to n times.
    """

    def __init__(
        self, *, workers: Literal["processes", "threads"] = "processes", restart: Restart | str = "never"
    ) -> None:  # fmt: skip
        if workers not in ("processes", "threads"):
            raise InvalidArgument(f"workers is 'processes' or 'threads', not {workers!r}")
        self.workers: Literal["processes", "threads"] = workers
        self.restart: Restart = restart_of(restart)
        self.sources: list[Source] = []
        self._running: Running | None = None

    def source(
        self, capture: Callable[..., Any], /, *types: AnyLayout, name: str | None = None, address: str | None = None,
        members: int = 1, restart: Restart | str | None = None, **options: Unpack[SenderOptions],
    ) -> Source:  # fmt: skip
        """Add a channel of these types whose sender ``capture(out)`` gets, in a worker of its own.

        When it returns, all that it sent is worked off, and its stages end. ``address`` is a name of its own by
        default; with ``address="ipc://camera"`` taps and other programs find the channel. ``members``: so many workers
        call ``capture``, each with a sender. The options are those of `psyne.sender`, but for ``pattern`` and
        ``stages``, which follow from the stages that are added; ``timestamps`` are kept, since latencies are reported.
        Raises InvalidArgument, TypeError.
        """
        check_work(capture, "a source's function takes a sender", self.workers)
        name = name_of(capture, name)
        if any(source.name == name for source in self.sources):
            raise InvalidArgument(f"there is a source {name!r} already; give this one a name=")
        check_count(members, "members")
        if members > MAX_MEMBERS:
            raise InvalidArgument(f"a channel has at most {MAX_MEMBERS} senders; got members={members}")
        if given := {"pattern", "stages"} & options.keys():
            raise InvalidArgument(f"{given.pop()}= follows from the stages: add them with .stage(…) and members=")
        if options.get("timestamps") is None:
            options["timestamps"] = True
        checked, _ = channel(*types, **cast("ChannelOptions", options))  # of types and options; nobody joins
        if address is None:
            word = re.sub(r"\W", "_", name, flags=re.ASCII)[:48]
            scheme = "memory" if self.workers == "threads" else "ipc"
            address = f"{scheme}://{word}-{os.getpid()}-{secrets.token_hex(4)}"
        self._check_address(address)
        references = tuple(TypeReference.to(as_type(kind)) for kind in types)
        policy = self.restart if restart is None else restart_of(restart)
        source = Source(
            name, address, capture, references, members, policy, options, checked.capacity, self.workers, self.restart
        )  # fmt: skip
        self.sources.append(source)
        return source

    def run(self) -> Report:
        """Run until every source has ended and all is worked off; returns the last `Report`.

        In the main thread SIGINT and SIGTERM stop the sources first, then the stages as they have worked off what was
        sent; a second one ends everything at once. Raises PipelineError when a worker was lost for good.
        """
        if threading.current_thread() is not threading.main_thread():
            return self.start().wait()
        asked: list[int] = []

        def ask(number: int, frame: object) -> None:
            asked.append(number)
            if self._running is not None:
                self._running.stop(signal.Signals(number).name) if len(asked) == 1 else self._running.kill()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._running = None
            running = self.start()
            if asked:  # while it started
                running.stop(signal.Signals(asked[0]).name)
            report = running.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if len(asked) > 1:
            raise KeyboardInterrupt if asked[-1] == signal.SIGINT else SystemExit(128 + asked[-1])
        return report

    def start(self) -> Running:
        """Start all workers and return: ``with pipe.start() as running: …`` stops them in order at its end.

        Raises InvalidArgument when there is no source, or a source without a stage.
        """
        if self._running is not None and self._running.alive:
            raise InvalidArgument("this pipeline runs already")
        if not self.sources:
            raise InvalidArgument("this pipeline has no source; add one with pipe.source(capture, Frame)")
        for source in self.sources:
            if not source.stages:
                raise InvalidArgument(f"source {source.name!r} has no stage; add one with .stage(work)")
        self._running = Running(self.sources, self.workers)
        return self._running

    def report(self) -> Report:
        """How the pipeline does, or did when it last ran."""
        return self._running.report() if self._running is not None else idle_report(self.sources)

    def draw(self) -> str:
        """An SVG picture: sources, stages and what runs after what, with the numbers of `report` once it runs."""
        return draw(self.report())

    def _repr_svg_(self) -> str:
        return self.draw()

    def _check_address(self, address: str) -> None:
        channel_name(address)
        if self.workers == "processes" and address.startswith("memory://"):
            raise InvalidArgument(f"{address} is inside one process; take ipc://, or workers='threads'")
        if any(source.address == address for source in self.sources):
            raise InvalidArgument(f"another source of this pipeline has the address {address}")
