"""Arrow record batches in a slot."""

from __future__ import annotations

import base64
import functools
import sys
import weakref
from typing import TYPE_CHECKING, Any, overload

from ..errors import LayoutMismatch, PeerCorrupted
from .message import MessageMeta, made_once
from .text import _Sized

if TYPE_CHECKING:
    from typing import Self

    import pyarrow as pa

__all__ = ["ArrowBatch"]

ARROW_BYTES = 1 << 20


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("ArrowBatch needs pyarrow: pip install pyarrow") from error
    return pyarrow


@functools.lru_cache
def _schema_of(text: str) -> Any:
    """The schema that a channel's description has. Raises LayoutMismatch for what is none."""
    pa = _pyarrow()
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise LayoutMismatch(f"the channel's Arrow schema cannot be read; its file is damaged: {error}") from error


class ArrowBatch(_Sized, max_bytes=ARROW_BYTES):
    """An Arrow record batch: ``ArrowBatch(schema, max_bytes=1 << 20)`` is a class of messages.

    ``m.batch = record_batch`` writes the batch straight into the slot, in Arrow's IPC stream format; ``m.batch`` is a
    record batch whose buffers are the slot's bytes, which it keeps. Without a schema a channel carries batches of any.
    ``ArrowBatch(batch=…)`` is a message in private memory. Raises LayoutMismatch for a batch of another schema,
    ValueError for one beyond ``max_bytes`` or that is not valid.
    """

    __arrow__: str | None = None

    if TYPE_CHECKING:
        # The batch by keyword: without stubs of pyarrow the checkers could not tell it from a schema.
        @overload
        def __new__(cls, schema: pa.Schema, *, max_bytes: int = ...) -> type[ArrowBatch]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, *, max_bytes: int) -> type[ArrowBatch]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, *, batch: pa.RecordBatch = ...) -> Self: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    else:

        def __new__(cls, schema: Any = None, *, max_bytes: int | None = None, batch: Any = None) -> Any:
            if max_bytes is None and schema is None:
                return super().__new__(cls)
            if schema is not None and not isinstance(schema, _pyarrow().Schema):
                raise TypeError(
                    f"ArrowBatch(schema) makes a message class and takes a pyarrow.Schema, not a "
                    f"{type(schema).__name__}; ArrowBatch(batch=…) is a message in private memory"
                )
            text = None if schema is None else base64.b64encode(schema.serialize()).decode()
            return arrow_type(text, max_bytes or ARROW_BYTES)

        def __init__(self, *, batch: Any = None) -> None:
            if batch is not None:
                self.batch = batch

    def __init_subclass__(cls, max_bytes: int | None = None, arrow: str | None = None) -> None:
        super().__init_subclass__(max_bytes=max_bytes)
        cls.__arrow__ = arrow
        cls._lay_out(cls.__layout__, {"arrow": arrow, "max_bytes": cls.__max_bytes__})

    @classmethod
    def _takes(cls, value: Any) -> bool:
        pyarrow = sys.modules.get("pyarrow")
        return pyarrow is not None and isinstance(value, pyarrow.RecordBatch)

    @classmethod
    def _message_of(cls, value: Any) -> ArrowBatch | None:
        return cls(batch=value) if cls._takes(value) else None

    @property
    def batch(self) -> pa.RecordBatch:
        """The record batch over the bytes of the slot. Raises PeerCorrupted for what is none.

        Reading checks what could lead out of the slot: offsets, indices, UTF-8. Columns of numbers cost nothing,
        strings about 0.4 ms a MiB: take it once.
        """
        pa = _pyarrow()
        try:
            batch = pa.ipc.open_stream(pa.py_buffer(memoryview(self))).read_next_batch()
            batch.validate(full=True)
            if self.__arrow__ is None:
                _read_names(batch.schema)
        except (pa.ArrowException, StopIteration, OSError, UnicodeDecodeError) as error:
            raise PeerCorrupted(f"a message of {len(self)} bytes is no Arrow record batch: {error}") from error
        if self.__arrow__ is not None and not batch.schema.equals(schema := _schema_of(self.__arrow__)):
            raise PeerCorrupted(
                f"this channel carries record batches of\n{schema}\na message is one of\n{batch.schema}"
            )
        return batch

    @batch.setter
    def batch(self, value: pa.RecordBatch) -> None:
        pa = _pyarrow()
        if self.__arrow__ is not None:
            schema = _schema_of(self.__arrow__)
            if not value.schema.equals(schema):
                raise LayoutMismatch(f"this channel carries record batches of\n{schema}\ngot one of\n{value.schema}")
        value.validate(full=True)  # readers will
        self._reshape(None)  # type: ignore[attr-defined]
        sink = pa.FixedSizeBufferWriter(pa.py_buffer(memoryview(self)))
        try:
            with pa.ipc.new_stream(sink, value.schema) as writer:
                writer.write_batch(value)
        except OSError as error:  # the rest of the slot is too short
            room = len(self)
            limit = f"max_bytes={room}" if room == self.__max_bytes__ else f"the {room} bytes of this loan(size=…)"
            raise ValueError(f"a record batch of {value.nbytes} bytes and its schema exceed {limit}") from error
        self.truncate(sink.tell())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} bytes>" if self._open else f"<{type(self).__name__}, released>"  # type: ignore[attr-defined]


def _read_names(fields: Any) -> None:
    """Raises UnicodeDecodeError for a name that is no UTF-8, also of a field in a field: Arrow does not look."""
    for field in fields:
        _ = field.name
        _read_names(field.type.field(i) for i in range(field.type.num_fields))


_made: weakref.WeakValueDictionary[tuple[str | None, int], MessageMeta] = weakref.WeakValueDictionary()


def arrow_type(schema: str | None, max_bytes: int) -> MessageMeta:
    """The class of messages for a serialised Arrow schema (base64), or for any."""
    name, body = "ArrowBatch_of" if schema else "ArrowBatch_any", {"__module__": __name__}
    return made_once(
        _made,
        (schema, max_bytes),
        lambda: MessageMeta(name, (ArrowBatch,), body, max_bytes=max_bytes, arrow=schema),
    )
