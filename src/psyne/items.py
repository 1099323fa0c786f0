"""What lies in a slot of a Queue: a head that says what it is, and the bytes. A private format of this version.

    ┌─────────────────────────────────────────────────┬────────────────┬──────┬─────────┬────────────────────┐
    │ head bytes · kind · flags · count · text bytes  │ count sizes    │ text │ padding │ payload, aligned   │
    └─────────────────────────────────────────────────┴────────────────┴──────┴─────────┴────────────────────┘

The sizes are the dimensions of an array, or the bytes of each buffer; the text is a dtype or the name of a class.
"""

import ast
import io
import json
import math
import pickle
import struct
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import PeerCorrupted
from .handover import TypeReference
from .types import Bytes, Message, Struct, Text
from .types.dtypes import dtype_from, dtype_text

__all__ = ["HEAD_ROOM", "Item", "decode", "encode"]

Raw = NDArray[np.uint8]

HEAD = struct.Struct("<HBBII")
LINE = 64  # heads and buffers are multiples of it: an array in a slot is aligned as jax and vector loads want
HEAD_ROOM = 512  # bytes of a slot beyond max_bytes
ARRAY, BYTES, TEXT, STRUCT, PICKLE = range(1, 6)
FORTRAN = 1
REMEMBERED = 1024


class Item(NamedTuple):
    """An object, ready to be written: its head and the arrays of bytes behind it."""

    head: bytes
    parts: list[Raw]

    @property
    def bytes(self) -> int:
        return len(self.head) + sum(_lines(len(part)) for part in self.parts)

    def write(self, slot: Raw) -> None:
        at = len(self.head)
        slot[:at] = np.frombuffer(self.head, np.uint8)
        for part in self.parts:
            slot[at : at + len(part)] = part
            at += _lines(len(part))


class Head(NamedTuple):
    kind: int
    flags: int
    size: int
    sizes: tuple[int, ...]
    text: bytes


def _lines(n: int) -> int:
    return -(-n // LINE) * LINE


def _head(kind: int, flags: int, sizes: tuple[int, ...], text: bytes = b"") -> bytes:
    bare = HEAD.size + 8 * len(sizes) + len(text)
    size = _lines(bare)
    if size >= 1 << 16:
        raise ValueError(f"the description of this item has {size} bytes; it may have 65472")
    return b"".join(
        (
            HEAD.pack(size, kind, flags, len(sizes), len(text)),
            struct.pack(f"<{len(sizes)}Q", *sizes),
            text,
            bytes(size - bare),
        )
    )


_heads: dict[tuple[np.dtype[Any], tuple[int, ...], int], bytes] = {}
_read: dict[bytes, tuple[Head, np.dtype[Any]]] = {}


def encode(thing: object, pickles: bool) -> Item:
    """Describe an object without copying its bytes (but for arrays that are not contiguous).

    Raises TypeError for what goes only as a pickle, unless ``pickles``.
    """
    kind = type(thing)
    if kind is np.ndarray and not thing.dtype.hasobject:  # type: ignore[attr-defined]
        return _array(thing)  # type: ignore[arg-type]
    if kind is bytes or kind is bytearray:
        return Item(_head(BYTES, 0, (len(thing),)), [np.frombuffer(thing, np.uint8)])  # type: ignore[arg-type, call-overload]
    if kind is str:
        text = thing.encode("utf-8", "surrogatepass")  # type: ignore[attr-defined]
        return Item(_head(TEXT, 0, (len(text),)), [np.frombuffer(text, np.uint8)])
    if isinstance(thing, Struct):
        reference = TypeReference.to(type(thing))
        name = json.dumps([reference.module, reference.name, reference.schema]).encode()
        data = _bytes_of(np.ascontiguousarray(thing.array))
        return Item(_head(STRUCT, 0, (len(data),), name), [data])
    if isinstance(thing, (Text, Bytes)):
        return encode(thing.text if isinstance(thing, Text) else thing.bytes, pickles)
    if isinstance(thing, Message):
        return _array(np.asarray(thing))
    if not pickles:
        raise TypeError(
            f"a {kind.__name__} is no array, bytes, str or Struct; psyne.Queue(pickle=True) takes what can be pickled"
        )
    return _pickled(thing)


def _bytes_of(array: NDArray[Any]) -> Raw:
    return array.reshape(-1).view(np.uint8)


def _array(array: NDArray[Any]) -> Item:
    fortran = FORTRAN if array.flags.fnc else 0
    key = (array.dtype, array.shape, fortran)
    head = _heads.get(key)
    if head is None:
        if len(_heads) >= REMEMBERED:
            _heads.clear()
        head = _heads[key] = _head(ARRAY, fortran, array.shape, _described(array.dtype))
    if fortran:
        array = array.T
    return Item(head, [_bytes_of(np.ascontiguousarray(array))] if array.nbytes else [])


def _pickled(thing: object) -> Item:
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()

    def outside(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffer.raw()
        except BufferError:  # not contiguous
            return True
        buffers.append(buffer)
        return False

    ForkingPickler(stream, 5, True, outside).dump(thing)
    parts = [np.frombuffer(stream.getbuffer(), np.uint8)] + [np.frombuffer(b.raw(), np.uint8) for b in buffers]
    return Item(_head(PICKLE, 0, tuple(len(part) for part in parts)), parts)


def decode(slot: Raw, copy: bool, pickles: bool) -> Any:
    """The object that lies in a slot: one's own, or with read-only views over the slot.

    Raises PeerCorrupted for a head that leads out of the slot; nothing there is believed.
    """
    if len(slot) < HEAD.size:
        raise PeerCorrupted(f"a slot of {len(slot)} bytes has no room for a head")
    size, kind, _flags, count, text_bytes = HEAD.unpack_from(slot.data)
    if size % LINE or not LINE <= size <= len(slot) or HEAD.size + 8 * count + text_bytes > size:
        raise PeerCorrupted(f"an item's head says {size} bytes, {count} sizes and {text_bytes} bytes of text")
    if kind == ARRAY:
        return _array_from(slot, slot[:size].tobytes(), copy)
    head = _parse(slot[:size].tobytes())
    parts = []
    at = size
    for n in head.sizes:
        if n > len(slot) - at:
            raise PeerCorrupted(f"an item of {n} bytes at byte {at} leads out of its slot of {len(slot)}")
        parts.append(slot[at : at + n])
        at = min(at + _lines(n), len(slot))
    reader = READERS.get(kind)
    if kind == PICKLE and not pickles:
        raise PeerCorrupted("a pickle in a queue that was made without pickle=True")
    if reader is None or (kind != PICKLE and len(parts) != 1) or not parts:
        raise PeerCorrupted(f"an item of the unknown kind {kind} with {len(parts)} parts")
    return reader(parts, head.text, copy)


def _parse(raw: bytes) -> Head:
    size, kind, flags, count, text_bytes = HEAD.unpack_from(raw)
    at = HEAD.size + 8 * count
    return Head(kind, flags, size, struct.unpack_from(f"<{count}Q", raw, HEAD.size), raw[at : at + text_bytes])


def _array_from(slot: Raw, raw: bytes, copy: bool) -> NDArray[Any]:
    known = _read.get(raw)
    if known is None:
        head = _parse(raw)
        known = head, _dtype_from(head.text)
        if len(_read) >= REMEMBERED:
            _read.clear()
        _read[raw] = known
    head, dtype = known
    n = math.prod(head.sizes) * dtype.itemsize
    if n > len(slot) - head.size or len(head.sizes) > 32:
        raise PeerCorrupted(
            f"an array of shape {head.sizes} and dtype {dtype} leads out of its slot of {len(slot)} bytes"
        )
    data = slot[head.size : head.size + n]
    shape = head.sizes[::-1] if head.flags & FORTRAN else head.sizes
    if copy:
        array: NDArray[Any] = np.empty(shape, dtype)
        if n:
            _bytes_of(array)[:] = data
    else:
        data.flags.writeable = False
        array = np.ndarray(shape, dtype, data)
    return array.T if head.flags & FORTRAN else array


def _bytes_from(parts: list[Raw], text: bytes, copy: bool) -> bytes | memoryview:
    return parts[0].tobytes() if copy else parts[0].data


def _text_from(parts: list[Raw], text: bytes, copy: bool) -> str:
    try:
        return parts[0].tobytes().decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise PeerCorrupted(f"a text that is no UTF-8: {error}") from error


def _struct_from(parts: list[Raw], text: bytes, copy: bool) -> Any:
    try:
        reference = TypeReference(*map(str, json.loads(text)))
    except (ValueError, TypeError) as error:
        raise PeerCorrupted(f"an item names its class in a way that this psyne does not know: {error}") from error
    message = reference.find()()
    bytes_there = _bytes_of(message.array)
    if len(bytes_there) != len(parts[0]):
        raise PeerCorrupted(f"a {reference.name} of {len(parts[0])} bytes; it has {len(bytes_there)}")
    bytes_there[:] = parts[0]
    return message


def _pickle_from(parts: list[Raw], text: bytes, copy: bool) -> Any:
    buffers = [bytearray(part.data) if copy else part.data.toreadonly() for part in parts[1:]]
    return pickle.loads(parts[0].data, buffers=buffers)


READERS: dict[int, Callable[[list[Raw], bytes, bool], Any]] = {
    BYTES: _bytes_from, TEXT: _text_from, STRUCT: _struct_from, PICKLE: _pickle_from,
}  # fmt: skip


def _described(dtype: np.dtype[Any]) -> bytes:
    if dtype.fields is None and dtype.subdtype is None:
        return dtype_text(dtype).encode()
    return repr(np.lib.format.dtype_to_descr(dtype)).encode()


def _dtype_from(text: bytes) -> np.dtype[Any]:
    try:
        said = text.decode()
        if said[:1] in "[(":
            dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(ast.literal_eval(said))
        else:
            dtype = dtype_from(said)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        return dtype
    except (ValueError, TypeError, SyntaxError, KeyError, IndexError, RecursionError, MemoryError) as error:
        raise PeerCorrupted(f"an array of the dtype {text[:80]!r}: {error}") from error
