"""The native core of psyne: ends, messages, layouts."""

from collections.abc import Iterator
from typing import Any

import numpy


LAYOUT_VERSION: int = 1

class Layout:
    """Dtype and shape of one message."""

    def __init__(self, dtype: numpy.dtype, shape: tuple[int, ...], zeroed: bool) -> None: ...

    @property
    def dtype(self) -> numpy.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def bytes(self) -> int: ...

    @property
    def alignment(self) -> int: ...

    def __str__(self) -> str: ...

class Message:
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Batch:
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Lease:
    pass

def adopt(cls: type, /) -> None: ...

class Field:
    def __init__(self, dtype: numpy.dtype[Any], shape: tuple[int, ...], offset: int, index: int, /) -> None: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any: ...
    def __set__(self, instance: object, value: Any, /) -> None: ...

class SenderEnd:
    """The native sending end."""

    def __init__(self) -> None: ...

    def _close(self, failed: bool) -> None: ...

    @property
    def closed(self) -> bool: ...

    @property
    def address(self) -> str: ...

    @property
    def capacity(self) -> int: ...

class ReceiverEnd:
    """The native receiving end."""

    def __init__(self) -> None: ...

    def _close(self) -> None: ...

    @property
    def closed(self) -> bool: ...

    @property
    def address(self) -> str: ...

    @property
    def joined(self) -> bool: ...

class Iteration:
    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...

def describe(directory: str, name: str) -> dict[str, Any] | None:
    """Schema, pattern and stages of an open channel, or None."""

def open_sender(end: object, directory: str, name: str, schema: str, pattern: int, stages: list[tuple[str, int, bool, bool]], capacity: int, align: int, drops: bool, wait: str, program: str, type: object, layout: Layout, batch_type: object) -> None: ...

def open_receiver(end: object, directory: str, name: str, stage: str, wait: str, program: str, follow: bool) -> bool:
    """Join a channel; False when there is none."""

def give_type(end: object, type: object, layout: object, batch_type: object) -> None: ...

def leave(end: object) -> None: ...

def schema(end: object) -> str:
    """The schema text of the channel that a receiver has joined."""

def watch(directory: str, deadline: int) -> bool: ...

def counters(end: object) -> dict[str, int] | None: ...

def now_ns() -> int:
    """The monotonic clock of deadlines."""
