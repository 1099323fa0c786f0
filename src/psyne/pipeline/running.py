"""A pipeline that runs: what a program or notebook has in its hand."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import PipelineError
from .drawing import draw
from .gather import report_of
from .report import Report
from .staff import Kind
from .supervisor import Supervisor

if TYPE_CHECKING:
    from typing import Self

    from .program import Source

__all__ = ["Running"]


class Running:
    """`Pipeline.start` makes it. Leaving its ``with`` block stops the pipeline in order, and waits."""

    def __init__(self, sources: Sequence[Source], workers: Kind) -> None:
        self._supervisor = Supervisor(sources, workers)

    @property
    def alive(self) -> bool:
        """Until the last worker has ended."""
        return not self._supervisor.ended.is_set()

    def wait(self, timeout: float | None = None) -> Report:
        """Until every source has ended and all is worked off; returns the last report.

        Raises PipelineError when a worker was lost for good, TimeoutError after ``timeout`` seconds.
        """
        if not self._supervisor.ended.wait(timeout):
            raise TimeoutError(f"the pipeline still runs after {timeout:g} s: {self.report().stuck}")
        if self._supervisor.failure is not None:
            raise self._supervisor.failure
        return self.report()

    def stop(self, why: str = "stop()") -> None:
        """Ask the sources to stop; the stages end when they have worked off what was sent. Waits for nobody."""
        self._supervisor.wish("stop", why)

    def kill(self) -> None:
        """End all at once, whatever is lost. A function in a thread cannot be ended: nobody waits for it any more."""
        self._supervisor.wish("kill")

    def report(self) -> Report:
        """How each source and stage does, and where the pipeline is stuck."""
        return report_of(self._supervisor)

    def draw(self) -> str:
        """The same as an SVG picture."""
        return draw(self.report())

    def _repr_svg_(self) -> str:
        return self.draw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop("the end of its block")
        with contextlib.suppress(PipelineError) if kind is not None else contextlib.nullcontext():
            self.wait()
