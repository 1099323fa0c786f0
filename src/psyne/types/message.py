"""What all message classes share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import _native
from ..info import Info

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal, Self

    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray
    from typing_extensions import CapsuleType

    from ..after import After

__all__ = ["Message", "MessageMeta", "is_reserved", "made_once"]

K = TypeVar("K")

RESERVED = frozenset({"array", "copy", "private", "release", "discard", "truncate", "info"})


def is_reserved(name: str) -> bool:
    """Does a message need the attribute of this name itself? Also what Python asks every object for."""
    return name in RESERVED or (name.startswith("_") and (name.startswith("__") or hasattr(Message, name)))


class MessageMeta(type):
    """Gives message classes their layout, and keeps their instances free of a ``__dict__``."""

    __layout__: _native.Layout
    __schema__: dict[str, Any]
    __is_text__: bool

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> MessageMeta:
        body.setdefault("__slots__", ())
        cls = super().__new__(mcls, name, bases, body, **kwargs)
        _native.adopt(cls)
        return cls

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(name, bases, body)


_making = threading.RLock()


def _after_fork() -> None:
    global _making
    _making = threading.RLock()  # a thread that is not here may have had the other


os.register_at_fork(after_in_child=_after_fork)


def made_once(known: MutableMapping[K, MessageMeta], key: K, make: Callable[[], MessageMeta]) -> MessageMeta:
    """The class that is known for a key; made if there is none, and only once if several threads ask."""
    made = known.get(key)
    if made is None:
        with _making:
            made = known.get(key)
            if made is None:
                made = known[key] = make()
    return made


class Message(_native.Message, metaclass=MessageMeta):
    """What all message classes share. A message is an instance of its type, lying in its slot."""

    __layout__: _native.Layout
    __schema__: dict[str, Any]
    __is_text__: bool = False
    __foreign__: type | None = None

    @classmethod
    def _lay_out(cls, layout: _native.Layout, schema: dict[str, Any]) -> None:
        cls.__layout__, cls.__schema__ = layout, schema

    @classmethod
    def _message_of(cls, value: Any) -> Message | None:
        """A message made of an instance of the class that described the layout."""
        return None

    @classmethod
    def _takes(cls, value: Any) -> bool:
        """In a channel of several types: is this the one for ``value``?"""
        return cls.__foreign__ is not None and isinstance(value, cls.__foreign__)

    def _content(self) -> Any:
        """A copy of all of it that can be pickled."""
        return np.array(self.array)  # type: ignore[attr-defined]

    def _fill(self, content: Any) -> None:
        if self.__layout__.shaped:
            self._reshape(content.shape)  # type: ignore[attr-defined]
        self.array[...] = content  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, and as `copy` copies it, a message lies in private memory."""
        return _restored, (type(self), self._content())

    if TYPE_CHECKING:

        @property
        def info(self) -> Info:
            """Sequence, sender, missed, redelivered, timestamp."""
            ...

        def release(self, *, after: After | None = None) -> None:
            """End the message now. Raises BufferError while views on it live.

            ``after``: of a received message, an event of a device that still uses it, or a `concurrent.futures.Future`.
            It is over at once; a mutating stage passes it on when the event is done, and no slot is used again before.
            If that work fails, the message goes the way of one whose owner died on it (``on_crash=`` of its stage), and
            the next call of its receiver raises EventFailed; if it has failed already, this one does.
            """

        def discard(self) -> None:
            """Take a loan back: nothing is sent when its block ends."""

        def truncate(self, n: int) -> None:
            """Shorten the first axis of a loan that brings its own shape. Raises TypeError for other types."""

        def copy(self) -> Self:
            """The same in private memory."""
            ...

        def private(self) -> Self:
            """The same, writable, on copy-on-write pages: what is written stays here, the slot keeps its bytes.

            Pages that nobody wrote to still follow the slot, which is kept as by a view. A message below 64 KiB, or
            one that is in no slot, is copied.
            """
            ...

        @classmethod
        def from_buffer(cls, buffer: ReadableBuffer, offset: int = 0) -> Self:
            """A message over memory of one's own, which it keeps; read-only if the buffer is.

            Raises InvalidArgument if the buffer is too short from `offset` bytes on, not contiguous or misaligned.
            """
            ...

        @property
        def __array_interface__(self) -> dict[str, object]:
            """For libraries that take arrays. Asking pins the message: its slot is kept until the object is gone."""
            ...

        def __array__(self, dtype: None = None, copy: bool | None = None) -> NDArray[np.generic]: ...
        def __dlpack__(
            self,
            *,
            stream: None = None,
            max_version: tuple[int, int] | None = None,
            dl_device: tuple[int, int] | None = None,
            copy: bool | None = None,
        ) -> CapsuleType:
            """A DLPack capsule over the same memory, which keeps the slot; ``copy=True`` copies.

            Raises CannotShare, a BufferError, for records, and for read-only memory below ``max_version=(1, 0)``.
            """
            ...

        def __dlpack_device__(self) -> tuple[int, int]:
            """(1, 0): the CPU."""
            ...

        def __enter__(self) -> Self: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
        ) -> Literal[False]: ...
        def __buffer__(self, flags: int, /) -> memoryview: ...


def _restored(cls: type[Message], content: Any) -> Message:
    message = cls()
    message._fill(content)
    return message
