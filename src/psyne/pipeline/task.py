"""What one worker is to do: it travels to its process, and carries nothing of the other workers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..handover import TypeReference
from ..options import SenderOptions

__all__ = ["Task", "is_class"]


@dataclass(frozen=True)
class Task:
    """A source where `options` are given, else a member of a stage."""

    name: str
    member: int
    work: Callable[..., Any]
    address: str
    types: tuple[TypeReference, ...]
    row: int
    """Of the board of figures."""
    options: SenderOptions | None = None
    batch: int | None = None
    linger: float = 0.0

    @property
    def kind(self) -> str:
        return "stage" if self.options is None else "source"


def is_class(work: object) -> bool:
    """A class, or one with arguments: ``partial(Infer, "weights.pt")``."""
    return isinstance(work.func if isinstance(work, partial) else work, type)
