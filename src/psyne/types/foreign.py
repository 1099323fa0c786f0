"""Layouts that people have already: numpy dtypes, ctypes structures, dataclasses, msgspec structs."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
import types
import typing
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

import numpy as np

from ..errors import LayoutMismatch
from .array import Array
from .dtypes import dtype_from
from .fields import Field
from .message import Message, MessageMeta, made_once
from .struct import Struct, attribute_of, struct_of

__all__ = ["AnyLayout", "as_type"]

if TYPE_CHECKING:

    class _Dataclass(Protocol):
        __dataclass_fields__: ClassVar[dict[str, Any]]

    class _MsgspecStruct(Protocol):
        __struct_fields__: ClassVar[tuple[str, ...]]

    AnyLayout: TypeAlias = (
        type[Message]
        | np.dtype[Any]
        | type[np.generic]
        | type[ctypes.Structure]
        | type[_Dataclass]
        | type[_MsgspecStruct]
    )
else:
    AnyLayout = object
"""What describes messages: a message class, or a layout that `as_type` makes one of."""

PYTHON: dict[type, str] = {int: "i8", float: "f8", bool: "?", complex: "c16"}
MEANT = {
    "int": 'Array("i8")', "float": 'Array("f8")', "bool": 'Array("?")', "complex": 'Array("c16")', "str": "Text",
    "bytes": "Bytes", "ndarray": "Array(dtype, shape)", "RecordBatch": "ArrowBatch(schema)",
}  # fmt: skip

_made: weakref.WeakKeyDictionary[type, MessageMeta] = weakref.WeakKeyDictionary()


def as_type(given: Any) -> MessageMeta:
    """The message class for a class or a layout.

    A message class is itself. A structured dtype, a ``ctypes.Structure`` (with its very offsets), a dataclass or a
    ``msgspec.Struct`` becomes a `Struct` with its fields, any other dtype an `Array` of one number. In annotations
    ``int`` is 64 bits, ``float`` too; ``np.float32`` and its like are themselves, an array is ``Annotated[NDArray[
    np.float32], (3,)]``, and another such class is nested. Raises LayoutMismatch for anything else.
    """
    if isinstance(given, MessageMeta):
        if not hasattr(given, "__layout__"):
            raise LayoutMismatch(f"{given.__name__} has no layout: give a subclass with fields, or Array(dtype, shape)")
        return given
    if isinstance(given, (list, tuple, types.UnionType)):
        raise LayoutMismatch(f"types are given one by one, as in psyne.sender(address, Imu, Alarm); got {given!r}")
    if isinstance(given, np.dtype):
        return struct_of("record", given) if given.fields is not None else Array(given)
    if isinstance(given, type):
        return made_once(_made, given, lambda: _from_class(given))
    raise LayoutMismatch(
        f"a message type is a Struct, an Array(dtype, shape), Bytes, Text, a numpy dtype, a ctypes.Structure, "
        f"a dataclass or a msgspec.Struct; got {given!r}" + (f": say Array({given!r})" * isinstance(given, str))
    )


def _from_class(given: type) -> MessageMeta:
    if issubclass(given, (ctypes.Structure, ctypes.Union)):
        return _from_ctypes(given)
    if issubclass(given, np.generic):
        return Array(np.dtype(given))
    msgspec = sys.modules.get("msgspec")
    if dataclasses.is_dataclass(given):
        names = [field.name for field in dataclasses.fields(given)]
    elif msgspec is not None and issubclass(given, msgspec.Struct):
        names = list(getattr(given, "__struct_fields__"))  # noqa: B009
    else:
        meant = MEANT.get(given.__name__)
        raise LayoutMismatch(
            f"{given.__name__} says nothing of a layout; "
            + (f"perhaps you mean {meant}; " if meant else "")
            + "a message type is a Struct, an Array, Bytes, Text, a numpy dtype, a ctypes.Structure, a dataclass or a "
            "msgspec.Struct"
        )
    hints = typing.get_type_hints(given, include_extras=True)

    def message_of(cls: type[Struct], value: Any) -> Message | None:
        return (
            cls(**{name: _part(cls, name, getattr(value, name)) for name in names})
            if isinstance(value, given)
            else None
        )

    body: dict[str, Any] = {attribute_of(name, names): _field(given, name, hints[name]) for name in names}
    return MessageMeta(
        given.__name__, (Struct,), {**body, "__foreign__": given, "_message_of": classmethod(message_of)}
    )


def _part(cls: type[Struct], name: str, value: Any) -> Any:
    nested = cast("type[Message] | None", cls.__fields__[name].type)
    return (nested._message_of(value) or value) if nested is not None else value


def _field(owner: type, name: str, hint: Any) -> Field[Any, Any]:
    shape: tuple[int, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
        shape = next((tuple(extra) for extra in extras if isinstance(extra, tuple)), ())
    if typing.get_origin(hint) is np.ndarray:  # NDArray[np.float32]
        arguments = typing.get_args(hint)
        hint = typing.get_args(arguments[1])[0] if len(arguments) > 1 and typing.get_args(arguments[1]) else None
        if not shape:
            raise LayoutMismatch(f"{owner.__name__}.{name}: an array needs its shape: Annotated[NDArray[…], (3,)]")
    if hint in PYTHON:
        return Field(PYTHON[hint], shape, name)
    if isinstance(hint, type) and issubclass(hint, np.generic):
        return Field(hint, shape, name)
    if isinstance(hint, (type, np.dtype)) and hint not in (str, bytes):
        nested = as_type(hint)
        layout = nested.__layout__
        if not layout.shaped and not layout.columns:
            return Field(
                layout.dtype, (*shape, *layout.shape), name, nested if layout.dtype.fields is not None else None
            )
    raise LayoutMismatch(
        f"{owner.__name__}.{name}: {hint!r} has no fixed size; a field is int, float, bool, complex, "
        f"a numpy scalar class, Annotated[NDArray[np.float32], (3,)] or a class of such fields"
    )


def _ctypes_dtype(given: Any) -> np.dtype[Any]:
    """The dtype with the very offsets of ctypes: numpy puts a packed structure elsewhere when it is in another one."""
    if issubclass(given, ctypes.Array):
        return np.dtype((_ctypes_dtype(given._type_), (given._length_,)))
    make: Any = np.dtype
    if not issubclass(given, (ctypes.Structure, ctypes.Union)):
        return cast("np.dtype[Any]", make(given))
    fields = [field for cls in reversed(given.__mro__) for field in vars(cls).get("_fields_", ())]
    if any(len(field) > 2 for field in fields):
        raise TypeError("bits of a field are not a field of their own")
    spec: dict[str, Any] = {
        "names": [name for name, *_ in fields],
        "formats": [_ctypes_dtype(kind) for _, kind in fields],
        "offsets": [getattr(given, name).offset for name, *_ in fields],
        "itemsize": ctypes.sizeof(given),
    }
    try:
        return cast("np.dtype[Any]", make(spec, align=True))
    except ValueError:  # packed
        return cast("np.dtype[Any]", make(spec))


def _from_ctypes(given: type) -> MessageMeta:
    try:
        dtype = _ctypes_dtype(given)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise LayoutMismatch(f"{given.__name__} cannot be a message: {error}") from error

    def message_of(cls: type[Struct], value: Any) -> Message | None:
        if not isinstance(value, given):
            return None
        message = cls()
        message.array[...] = np.frombuffer(value, dtype_from(dtype), 1)[0]  # type: ignore[call-overload]
        return message

    return struct_of(given.__name__, dtype, body={"__foreign__": given, "_message_of": classmethod(message_of)})
