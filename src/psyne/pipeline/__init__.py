"""A pipeline as a program: sources and stages, each in processes or threads of its own, over the same bytes."""

from .policy import Restart, never, on_crash
from .program import Pipeline, Source
from .report import Report, SourceReport, StageReport
from .running import Running

__all__ = ["Pipeline", "Report", "Restart", "Running", "Source", "SourceReport", "StageReport", "never", "on_crash"]
