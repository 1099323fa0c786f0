"""What an end of an anonymous channel takes along when it is pickled: the memory, the types and the options."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import reduction
from typing import Any, Protocol

from .errors import LayoutMismatch
from .options import Growth, Wait
from .stage import NativeAdded, NativeStage, Pattern
from .types import MessageMeta
from .types.schema import difference, schema_of, types_in

__all__ = ["Handover", "Memory", "TypeReference"]


class _Duplicate(Protocol):
    def detach(self) -> int: ...


class Memory:
    """The descriptor of a channel's memory; closed with the last end in this process that has it.

    It is pickled for processes that `multiprocessing` starts, and for running ones that have its authentication key
    (those of pools): these fetch the descriptor from this process, which must still live then.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd: int = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return _fetch, (reduction.DupFd(self.fd),)

    @property
    def name(self) -> str:
        """The number of the memory: the same in all processes."""
        return str(os.fstat(self.fd).st_ino)


def _fetch(duplicate: _Duplicate) -> Memory:
    fd = duplicate.detach()
    os.set_inheritable(fd, False)
    return Memory(fd)


@dataclass(frozen=True)
class TypeReference:
    """A message class as it travels: by its name where that leads to it, else as its schema."""

    module: str
    name: str
    schema: str

    @classmethod
    def to(cls, kind: MessageMeta) -> "TypeReference":
        return cls(kind.__module__, kind.__qualname__, schema_of([kind]))

    def find(self) -> MessageMeta:
        """The class, or one made from the schema. Raises LayoutMismatch when the class has another layout here."""
        try:
            found: Any = importlib.import_module(self.module)
            for part in self.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError):  # a notebook's, or made inside a function
            return types_in(self.schema)[0]
        if not isinstance(found, MessageMeta) or not hasattr(found, "__schema__"):
            return types_in(self.schema)[0]
        if (here := schema_of([found])) != self.schema:
            raise LayoutMismatch(
                f"{self.module}.{self.name} has another layout in this process: {difference(self.schema, here)}"
            )
        return found


@dataclass(frozen=True)
class Handover:
    """Everything that an end needs to join its channel, wherever it is."""

    memory: Memory
    types: list[MessageMeta]
    pattern: Pattern
    stages: list[NativeStage]
    capacity: int
    align: int
    drops: bool
    growth: Growth | None
    timestamps: bool | None
    wait: Wait
    stage: str
    follow: bool
    oldest_first: bool = False
    added: NativeAdded | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        options = {key: value for key, value in vars(self).items() if key != "types"}
        return _unpack, ([TypeReference.to(kind) for kind in self.types], options)

    def of_stage(self, stage: str, added: NativeAdded | None) -> "Handover":
        return replace(self, stage=stage, added=added)


def _unpack(types: list[TypeReference], options: dict[str, Any]) -> Handover:
    return Handover(types=[kind.find() for kind in types], **options)
