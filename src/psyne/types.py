"""Message types: classes whose instances lie in a slot (or in private memory)."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from . import _native
from .errors import LayoutMismatch
from .info import Info

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, SupportsFloat, SupportsIndex

    from numpy.typing import ArrayLike

    _Shape = int | tuple[int, ...]

__all__ = [
    "Array", "Message", "Struct", "bool_", "c64", "c128", "f16", "f32", "f64",
    "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64",
]  # fmt: skip

V = TypeVar("V")  # what a field gives
W = TypeVar("W")  # what it takes
S = TypeVar("S", bound=np.generic)
RESERVED = frozenset({"array", "copy", "private", "release", "discard", "truncate", "info"})


class Field(Generic[V, W]):
    """A field of a Struct as it is declared; the class that is made holds a native descriptor in its place."""

    def __init__(self, dtype: Any, shape: tuple[int, ...], name: str | None = None) -> None:
        self.dtype, self.shape, self.name = np.dtype(dtype), shape, name
        if any(not isinstance(n, int) or n < 1 for n in shape):
            raise TypeError(f"the shape of a field is made of positive ints; got {shape}")

    if TYPE_CHECKING:

        def __get__(self, message: object, owner: type | None = None) -> V: ...
        def __set__(self, message: object, value: W) -> None: ...


def _scalar(dtype: str) -> Any:
    def declare(*shape: int, name: str | None = None) -> Field[Any, Any]:
        return Field(dtype, shape, name)

    declare.__doc__ = f"A {np.dtype(dtype).name} field; with a shape an array of them."
    return declare


if TYPE_CHECKING:

    class _Declare(Generic[V, W, S]):
        @overload
        def __call__(self, *, name: str | None = None) -> Field[V, W]: ...
        @overload
        def __call__(self, n: int, /, *shape: int, name: str | None = None) -> Field[NDArray[S], ArrayLike]: ...
        def __call__(self, *shape: int, name: str | None = None) -> Any: ...

    u8: _Declare[int, SupportsIndex, np.uint8]
    u16: _Declare[int, SupportsIndex, np.uint16]
    u32: _Declare[int, SupportsIndex, np.uint32]
    u64: _Declare[int, SupportsIndex, np.uint64]
    i8: _Declare[int, SupportsIndex, np.int8]
    i16: _Declare[int, SupportsIndex, np.int16]
    i32: _Declare[int, SupportsIndex, np.int32]
    i64: _Declare[int, SupportsIndex, np.int64]
    f16: _Declare[float, SupportsFloat | SupportsIndex, np.float16]
    f32: _Declare[float, SupportsFloat | SupportsIndex, np.float32]
    f64: _Declare[float, SupportsFloat | SupportsIndex, np.float64]
    c64: _Declare[complex, complex | np.number[Any], np.complex64]
    c128: _Declare[complex, complex | np.number[Any], np.complex128]
    bool_: _Declare[bool, bool | np.bool_, np.bool_]
else:
    u8, u16, u32, u64 = _scalar("u1"), _scalar("u2"), _scalar("u4"), _scalar("u8")
    i8, i16, i32, i64 = _scalar("i1"), _scalar("i2"), _scalar("i4"), _scalar("i8")
    f16, f32, f64 = _scalar("f2"), _scalar("f4"), _scalar("f8")
    c64, c128, bool_ = _scalar("c8"), _scalar("c16"), _scalar("?")


class MessageMeta(type):
    """Gives message classes their layout, and keeps their instances free of a ``__dict__``."""

    __layout__: _native.Layout
    __schema__: str

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> MessageMeta:
        body.setdefault("__slots__", ())
        cls = super().__new__(mcls, name, bases, body, **kwargs)
        _native.adopt(cls)
        return cls

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(name, bases, body)


class Message(_native.Message, metaclass=MessageMeta):
    """What all message classes share. A message is an instance of its type, lying in its slot."""

    if TYPE_CHECKING:

        @property
        def info(self) -> Info:
            """Sequence, sender, missed, redelivered."""
            ...

        def release(self) -> None:
            """End the message now. Raises BufferError while views on it live."""

        def discard(self) -> None:
            """Take a loan back: nothing is sent when its block ends."""

        def copy(self) -> Self:
            """The same in private memory."""
            ...

        def __enter__(self) -> Self: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
        ) -> Literal[False]: ...
        def __buffer__(self, flags: int, /) -> memoryview: ...


def _fields_of(dtype: np.dtype[Any]) -> Mapping[str, tuple[np.dtype[Any], int]]:
    """Each field's dtype and offset, in their order."""
    fields = cast("Mapping[str, tuple[np.dtype[Any], int]]", dtype.fields or {})
    return {name: (fields[name][0], fields[name][1]) for name in dtype.names or ()}


def _field_layout(fields: dict[str, Field[Any, Any]]) -> np.dtype[Any]:
    """C layout: natural alignment, padding at the end."""
    return np.dtype(
        [(name, f.dtype, f.shape) if f.shape else (name, f.dtype) for name, f in fields.items()], align=True
    )


class Struct(Message):
    """A record with named fields in C layout.

    >>> class Imu(Struct):
    ...     stamp = u64()
    ...     accel = f32(3)

    ``m.stamp`` is an int, ``m.accel`` a float32 array of shape (3,) over the slot. ``Imu(stamp=1)`` by itself lies in
    private memory. Raises TypeError for a field whose name a message needs itself.
    """

    def __init_subclass__(cls, layout: Literal["rows"] = "rows") -> None:
        if layout != "rows":
            raise TypeError(f"layout={layout!r}: this version lays structs out as rows")
        declared: dict[str, Field[Any, Any]] = dict(getattr(cls, "__fields__", {}))
        for key, value in list(vars(cls).items()):
            if isinstance(value, Field):
                declared[value.name or key] = value
                if value.name is not None:
                    delattr(cls, key)
        taken = sorted(RESERVED & (declared.keys() - {f.name for f in declared.values() if f.name}))
        if taken:
            raise TypeError(
                f"{cls.__name__}.{taken[0]}: a message has an attribute of that name; "
                f"call it otherwise here and say {taken[0]}_ = …(name={taken[0]!r}) to keep the field's name"
            )
        if not declared:
            return
        dtype = _field_layout(declared)
        cls.__fields__ = declared  # type: ignore[attr-defined]
        places = _fields_of(dtype)
        for index, (key, field) in enumerate(declared.items()):
            offset = places[key][1]
            attribute = key if key not in RESERVED else key + "_"
            setattr(cls, attribute, _native.Field(field.dtype, field.shape, offset, index))
        cls.__layout__ = _native.Layout(dtype, (), dtype.itemsize <= 1024)
        cls.__schema__ = json.dumps({"struct": cls.__name__, **_describe(dtype)}, separators=(",", ":"))

    def __init__(self, **fields: Any) -> None:
        for key, value in fields.items():
            if key not in type(self).__fields__:  # type: ignore[attr-defined]
                raise TypeError(f"{type(self).__name__} has no field {key!r}; it has {list(type(self).__fields__)}")  # type: ignore[attr-defined]
            setattr(self, key if key not in RESERVED else key + "_", value)

    def __repr__(self) -> str:
        if not self._open:  # type: ignore[attr-defined]
            return f"<{type(self).__name__}, released>"
        shown = ", ".join(f"{k}={getattr(self, k if k not in RESERVED else k + '_')!r}" for k in type(self).__fields__)  # type: ignore[attr-defined]
        return f"{type(self).__name__}({shown})"

    if TYPE_CHECKING:

        @property
        def array(self) -> NDArray[np.void]:
            """The record as a structured numpy array of shape () over the same memory."""
            ...


class Array(Message, Generic[S]):
    """A fixed-shape array: ``Array("f4", (480, 640))`` is a class of messages, to name it or to hand to an opener.

    ``m.array`` is a numpy array of this dtype and shape over the slot.
    """

    if TYPE_CHECKING:
        # A class, not an instance: what the checkers must know to infer Sender[Array[np.uint8]].
        @overload
        def __new__(cls, dtype: Literal["u1", "uint8"], shape: _Shape = ()) -> type[Array[np.uint8]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["u2", "uint16"], shape: _Shape = ()) -> type[Array[np.uint16]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["u4", "uint32"], shape: _Shape = ()) -> type[Array[np.uint32]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["u8", "uint64"], shape: _Shape = ()) -> type[Array[np.uint64]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["i1", "int8"], shape: _Shape = ()) -> type[Array[np.int8]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["i2", "int16"], shape: _Shape = ()) -> type[Array[np.int16]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["i4", "int32"], shape: _Shape = ()) -> type[Array[np.int32]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["i8", "int64"], shape: _Shape = ()) -> type[Array[np.int64]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["f2", "float16"], shape: _Shape = ()) -> type[Array[np.float16]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["f4", "float32"], shape: _Shape = ()) -> type[Array[np.float32]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["f8", "float64"], shape: _Shape = ()) -> type[Array[np.float64]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["c8", "complex64"], shape: _Shape = ()) -> type[Array[np.complex64]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["c16", "complex128"], shape: _Shape = ()) -> type[Array[np.complex128]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: Literal["?", "bool"], shape: _Shape = ()) -> type[Array[np.bool_]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: type[S] | np.dtype[S], shape: _Shape = ()) -> type[Array[S]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, dtype: str, shape: _Shape = ()) -> type[Array[Any]]: ...  # type: ignore[misc]
        @overload
        def __new__(cls, value: ArrayLike | None = None) -> Self: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

        @property
        def array(self) -> NDArray[S]:
            """A numpy array over the same memory; read-only for receivers that do not mutate."""
            ...

    else:

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not Array:
                return super().__new__(cls)
            return _array_type(*args, **kwargs)

        def __init__(self, value: Any = None) -> None:
            if value is not None:
                self.array[...] = value

    def __init_subclass__(cls, dtype: Any = None, shape: int | tuple[int, ...] = ()) -> None:
        if dtype is None:
            return
        element, dims = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
        if any(not isinstance(n, (int, np.integer)) or n < 1 for n in dims):
            raise TypeError(f"the shape of an Array is made of positive ints; got {dims}")
        cls.__layout__ = _native.Layout(element, dims, False)
        cls.__schema__ = json.dumps(
            {"array": _describe(element), "shape": [int(n) for n in dims]}, separators=(",", ":")
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.array!r}>" if self._open else f"<{type(self).__name__}, released>"  # type: ignore[attr-defined]


_arrays: weakref.WeakValueDictionary[tuple[Any, tuple[int, ...]], type] = weakref.WeakValueDictionary()


def _array_type(dtype: Any = None, shape: int | tuple[int, ...] = ()) -> type:
    if dtype is None:
        raise TypeError("Array(dtype, shape) makes a message class, e.g. Array('f4', (480, 640))")
    element = np.dtype(dtype)
    if element.hasobject:
        raise TypeError(f"{element} holds Python objects; messages need a fixed-size dtype")
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    key = (element, dims)
    made = _arrays.get(key)
    if made is None:
        name = f"Array_{element.name}" + "".join(f"_{n}" for n in dims)
        made = MessageMeta(name, (Array,), {"__module__": __name__}, dtype=element, shape=dims)
        _arrays[key] = made
    return made


def _describe(dtype: np.dtype[Any]) -> dict[str, Any]:
    """A dtype as plain data: fields with dtype, shape and offset, or the dtype's own name."""
    if dtype.fields is None:
        return {"dtype": dtype.str}
    fields = []
    for name, (inner, offset) in _fields_of(dtype).items():
        base, shape = inner.subdtype or (inner, ())
        fields.append({"name": name, **_describe(base), "shape": list(shape), "offset": offset})
    return {"fields": fields, "bytes": dtype.itemsize}


def _dtype_of(description: dict[str, Any]) -> np.dtype[Any]:
    if "dtype" in description:
        plain: np.dtype[Any] = np.dtype(description["dtype"])
        return plain
    fields = description["fields"]
    return np.dtype(
        {
            "names": [f["name"] for f in fields],
            "formats": [(_dtype_of(f), tuple(f["shape"])) if f["shape"] else _dtype_of(f) for f in fields],
            "offsets": [f["offset"] for f in fields],
            "itemsize": description["bytes"],
        }
    )


def type_from_schema(schema: str) -> type[Message]:
    """A message class for a channel that describes itself."""
    try:
        d = json.loads(schema)
        if "array" in d:
            return cast("type[Message]", _array_type(_dtype_of(d["array"]), tuple(d["shape"])))
        dtype = _dtype_of(d)
        body: dict[str, Any] = {}
        for name, (inner, _) in _fields_of(dtype).items():
            base, shape = inner.subdtype or (inner, ())
            body[name if name not in RESERVED else name + "_"] = Field(base, shape, name if name in RESERVED else None)
        cls = MessageMeta(d["struct"], (Struct,), body)
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutMismatch(f"the channel describes itself in a way that this psyne does not know: {error}") from error
    if cls.__schema__ != schema:
        raise LayoutMismatch(f"the channel's layout cannot be had from its description here: {schema}")
    return cast("type[Message]", cls)


def difference(theirs: str, yours: str) -> str:
    """What differs between two schemas, field by field."""
    a, b = json.loads(theirs), json.loads(yours)
    if "fields" not in a or "fields" not in b:
        return f"theirs: {_short(a)}; yours: {_short(b)}"
    lines = []
    left, right = ({f["name"]: f for f in d["fields"]} for d in (a, b))
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            lines.append(f"{name}: theirs {_short(left.get(name))}, yours {_short(right.get(name))}")
    if a["struct"] != b["struct"]:
        lines.append(f"name: theirs {a['struct']}, yours {b['struct']}")
    if a["bytes"] != b["bytes"]:
        lines.append(f"bytes: theirs {a['bytes']}, yours {b['bytes']}")
    return "; ".join(lines) or "only the order of the fields"


def _short(d: dict[str, Any] | None) -> str:
    if d is None:
        return "(none)"
    if "array" in d:
        return f"Array {_short(d['array'])}{d['shape']}"
    if "struct" in d:
        return f"Struct {d['struct']} ({', '.join(f['name'] for f in d['fields'])})"
    shown: str = d.get("dtype", "struct") + (str(d["shape"]) if d.get("shape") else "")
    return shown + (f" at byte {d['offset']}" if "offset" in d else "")
