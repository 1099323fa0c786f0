"""Bytes and text of any length up to a bound."""

from __future__ import annotations

import builtins
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from .. import _native
from ..errors import PeerCorrupted
from .array import MAX_BYTES
from .message import Message, MessageMeta, made_once

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["Bytes", "Text"]

T = TypeVar("T", bound="_Sized")


class _Sized(Message):
    """Messages of a length of their own: an array of bytes of shape (n,)."""

    __max_bytes__: int = MAX_BYTES

    def __init_subclass__(cls, max_bytes: int | None = None) -> None:
        cls.__max_bytes__ = cls.__max_bytes__ if max_bytes is None else max_bytes
        if not isinstance(cls.__max_bytes__, int) or cls.__max_bytes__ < 1:
            raise TypeError(f"max_bytes is a number of bytes, 1 or more; got {max_bytes!r}")
        layout = _native.Layout(np.dtype("u1"), (0,), max_bytes=cls.__max_bytes__)
        cls._lay_out(layout, {"text" if cls.__is_text__ else "bytes": cls.__max_bytes__})

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        if len(view) > self.__max_bytes__:
            raise ValueError(
                f"{len(view)} bytes do not fit into a {type(self).__name__}, which has at most "
                f"max_bytes={self.__max_bytes__}"
            )
        self._reshape(len(view))  # type: ignore[attr-defined]
        self.array[...] = np.frombuffer(view, np.uint8)

    def __len__(self) -> int:
        """Bytes of the message."""
        return len(self.array)

    if TYPE_CHECKING:

        @property
        def array(self) -> NDArray[np.uint8]:
            """The bytes as a uint8 array of shape (n,) over the same memory."""
            ...


class Bytes(_Sized):
    """Bytes of any number up to ``max_bytes`` (default 4096): ``Bytes``, or ``Bytes(max_bytes=1 << 20)``.

    ``m.bytes`` is a copy, ``memoryview(m)`` and ``m.array`` are the bytes in the slot. ``out.send(b"…")`` copies in;
    ``with out.loan(size=n) as m`` or ``m.bytes = …`` writes in place. ``Bytes(b"…")`` is a message in private memory.
    """

    if TYPE_CHECKING:

        @overload
        def __new__(cls, *, max_bytes: int) -> type[Bytes]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, value: bytes | bytearray | memoryview = ...) -> Self: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    else:

        def __new__(cls, value: Any = b"", *, max_bytes: int | None = None) -> Any:
            return super().__new__(cls) if max_bytes is None else _sized(cls, max_bytes)

        def __init__(self, value: Any = b"") -> None:
            if isinstance(value, (str, int)):
                raise TypeError(f"Bytes(b'…') takes bytes or a buffer, not {type(value).__name__}; Text takes a str")
            self._put(value)

    @property
    def bytes(self) -> builtins.bytes:
        """A copy of the bytes. Assigning writes them and sets the length; raises ValueError beyond ``max_bytes``."""
        return self.array.tobytes()

    @bytes.setter
    def bytes(self, value: builtins.bytes | bytearray | memoryview) -> None:
        self._put(value)

    def __bytes__(self) -> builtins.bytes:
        return self.array.tobytes()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} bytes>" if self._open else f"<{type(self).__name__}, released>"  # type: ignore[attr-defined]


class Text(_Sized):
    """Text of up to ``max_bytes`` bytes of UTF-8 (default 4096): ``Text``, or ``Text(max_bytes=1 << 20)``.

    ``m.text`` or ``str(m)`` decodes a copy, ``m.array`` is the UTF-8 in the slot. ``out.send("…")`` copies in, ``m.text
    = "…"`` writes a loan. ``Text("…")`` is a message in private memory.
    """

    __is_text__ = True

    if TYPE_CHECKING:

        @overload
        def __new__(cls, *, max_bytes: int) -> type[Text]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, value: str = ...) -> Self: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    else:

        def __new__(cls, value: Any = "", *, max_bytes: int | None = None) -> Any:
            return super().__new__(cls) if max_bytes is None else _sized(cls, max_bytes)

        def __init__(self, value: str = "") -> None:
            self.text = value

    @property
    def text(self) -> str:
        """The text. Assigning writes it and sets the length; raises ValueError beyond ``max_bytes``.

        Raises PeerCorrupted for what is no UTF-8.
        """
        try:
            return self.array.tobytes().decode()
        except UnicodeDecodeError as error:
            raise PeerCorrupted(f"a message of {len(self)} bytes is no UTF-8: {error}") from error

    @text.setter
    def text(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a Text takes a str, not {type(value).__name__}; Bytes takes bytes")
        self._put(value.encode())

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text!r}>" if self._open else f"<{type(self).__name__}, released>"  # type: ignore[attr-defined]


_made: weakref.WeakValueDictionary[tuple[type, int], MessageMeta] = weakref.WeakValueDictionary()


def _sized(cls: type[_Sized], max_bytes: int) -> MessageMeta:
    name, body = f"{cls.__name__}_{max_bytes}", {"__module__": __name__}
    return made_once(_made, (cls, max_bytes), lambda: MessageMeta(name, (cls,), body, max_bytes=max_bytes))
