"""One text in the channel that describes its types: JSON, read back by receivers that do not know the classes."""

from __future__ import annotations

import copyreg
import json
import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from .. import _native
from ..errors import InvalidArgument, LayoutMismatch
from .array import Matrix, array_type
from .arrow import arrow_type
from .dtypes import dtype_from
from .foreign import as_type
from .message import Message, MessageMeta
from .struct import Struct, struct_of
from .text import Bytes, Text
from .variant import VariantHdr

__all__ = ["Kinds", "difference", "in_order_of", "kinds_of", "read_kinds", "schema_of", "type_name", "types_in"]

Kinds = list[tuple[type, _native.Layout, int]]
Description = dict[str, Any]
MAX_TYPES = 1024


def schema_of(types: Sequence[MessageMeta]) -> str:
    """The schema text of a channel of these types, in their order."""
    if len(types) > MAX_TYPES:
        raise InvalidArgument(f"a channel carries at most {MAX_TYPES} types; got {len(types)}")
    described = [cls.__schema__ for cls in types]
    for i, cls in enumerate(types):
        if described[i] in described[:i]:
            raise InvalidArgument(f"two of the types are alike: {cls.__name__} is {_short(described[i])}")
        if len(types) > 1 and cls.__layout__.columns:
            raise InvalidArgument(f"{cls.__name__} lies in columns, which only a channel of one type can have")
    return json.dumps(described[0] if len(types) == 1 else {"types": described}, separators=(",", ":"))


def kinds_of(types: Sequence[MessageMeta]) -> Kinds:
    """What the native ends know of types, by their number."""
    return [(cls, cls.__layout__, VariantHdr.of_type(i, cls).word) for i, cls in enumerate(types)]


def in_order_of(schema: str, types: list[MessageMeta]) -> list[MessageMeta]:
    """The same types as a channel names them, if they are the same: their order is the channel's."""
    theirs = _described(schema)
    if len(theirs) != len(types) or any(cls.__schema__ not in theirs for cls in types):
        return types
    return sorted(types, key=lambda cls: theirs.index(cls.__schema__))


def _described(schema: str) -> list[Description]:
    try:
        d = json.loads(schema)
        return list(d["types"]) if "types" in d else [d]
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutMismatch(f"the channel describes itself in a way that this psyne does not know: {error}") from error


def types_in(schema: str) -> list[MessageMeta]:
    """Message classes for a channel that describes itself."""
    return [_type_of(d) for d in _described(schema)]


def read_kinds(schema: str, asked: Sequence[Any], subset: bool, address: str) -> Kinds:
    """A class for each type of a channel, out of those that a receiver asked for.

    `Message` stands for all others; nothing asked: classes are made of the description. With ``subset`` a Struct may
    leave fields out. Raises LayoutMismatch, which says field by field what differs.
    """
    theirs = _described(schema)
    others = not asked or any(cls is Message for cls in asked)
    classes = [as_type(cls) for cls in asked if cls is not Message]
    found: dict[int, MessageMeta] = {}
    for cls in classes:
        numbers = [i for i, d in enumerate(theirs) if d == cls.__schema__]
        if not numbers and subset and issubclass(cls, Struct):
            numbers = [i for i, d in enumerate(theirs) if d.get("struct") == cls.__name__ or len(theirs) == 1]
            if numbers:
                cls = _subset(cls, theirs[numbers[0]], address)
        if not numbers:
            fewer = not subset and any(_within(cls.__schema__, d) for d in theirs)
            hint = "; subset=True reads these fields and leaves the others" if fewer else ""
            raise LayoutMismatch(f"{address} has another layout: {_nearest(theirs, cls)}{hint}")
        found[numbers[0]] = cls
    missing = [d for i, d in enumerate(theirs) if i not in found]
    if missing and not others:
        raise LayoutMismatch(
            f"{address} also carries {', '.join(_short(d) for d in missing)}; "
            f"name these types too, or psyne.Message for all others"
        )
    return kinds_of([found.get(i) or _type_of(d) for i, d in enumerate(theirs)])


def _type_of(d: Description) -> MessageMeta:
    try:
        made = _made_of(d)
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutMismatch(f"the channel describes itself in a way that this psyne does not know: {error}") from error
    if made.__schema__ != d:
        raise LayoutMismatch(f"the channel's layout cannot be had from its description here: {d}")
    return made


def _made_of(d: Description) -> MessageMeta:
    if "text" in d:
        return Text if d["text"] == Text.__max_bytes__ else cast("MessageMeta", Text(max_bytes=d["text"]))
    if "bytes" in d and "struct" not in d:
        return Bytes if d["bytes"] == Bytes.__max_bytes__ else cast("MessageMeta", Bytes(max_bytes=d["bytes"]))
    if "arrow" in d:
        return arrow_type(d["arrow"], d["max_bytes"])
    if "ndim" in d:
        return array_type(_dtype_of(d["array"]), ndim=d["ndim"], max_bytes=d["max_bytes"])
    if d.get("order") == "F":
        rows, columns = d["shape"]
        return cast("MessageMeta", Matrix(rows, columns, _dtype_of(d["array"]), order="F"))
    if "array" in d:
        return array_type(_dtype_of(d["array"]), tuple(d["shape"]))
    return struct_of(d["struct"], _dtype_of(d), columns=d.get("layout") == "columns")


def _dtype_of(d: Description) -> np.dtype[Any]:
    if "dtype" in d:
        return dtype_from(d["dtype"])
    fields = d["fields"]
    return np.dtype(
        {
            "names": [f["name"] for f in fields],
            "formats": [(_dtype_of(f), tuple(f["shape"])) if f["shape"] else _dtype_of(f) for f in fields],
            "offsets": [f["offset"] for f in fields],
            "itemsize": d["bytes"],
        },
        align=False,
    )


def _within(yours: Description, theirs: Description) -> bool:
    """Has a Struct some of the fields of another one, and no others?"""
    if "struct" not in yours or "struct" not in theirs:
        return False
    mine, all_of_them = ([{**f, "offset": 0} for f in d["fields"]] for d in (yours, theirs))
    return all(f in all_of_them for f in mine)


def _subset(cls: type[Struct], theirs: Description, address: str) -> MessageMeta:
    """The class with the offsets of a layout that has more fields."""
    if "fields" not in theirs:
        raise LayoutMismatch(f"{address} carries {_short(theirs)}, which has no fields to be a subset of")
    have = {f["name"]: {k: v for k, v in f.items() if k != "offset"} for f in theirs["fields"]}
    for f in cls.__schema__["fields"]:
        if have.get(f["name"]) != {k: v for k, v in f.items() if k != "offset"}:
            raise LayoutMismatch(f"{address} has another layout: {_difference(theirs, cls.__schema__)}")
    dtype, layout = _dtype_of(theirs), "columns" if theirs.get("layout") == "columns" else "rows"
    return MessageMeta(cls.__name__, (cls,), {}, layout=layout, dtype=dtype)


def difference(theirs: str, yours: str) -> str:
    """What differs between two schemas, field by field."""
    a, b = _described(theirs), _described(yours)
    if len(a) == len(b) == 1:
        return _difference(a[0], b[0])
    lines = []
    for d in b:
        if d not in a:
            lines.append(f"yours has {_short(d)}")
    for d in a:
        if d not in b:
            lines.append(f"theirs has {_short(d)}")
    return "; ".join(lines) or "only the order of the types"


def _nearest(theirs: list[Description], cls: MessageMeta) -> str:
    yours = cls.__schema__
    for d in theirs:
        if len(theirs) == 1 or ("struct" in d and d["struct"] == yours.get("struct")):
            return _difference(d, yours)
    return f"it carries {', '.join(_short(d) for d in theirs)}, and no {_short(yours)}"


def _difference(a: Description, b: Description) -> str:
    if "struct" not in a or "struct" not in b:
        return f"theirs: {_short(a)}; yours: {_short(b)}"
    lines = []
    left, right = ({f["name"]: f for f in d["fields"]} for d in (a, b))
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            lines.append(f"{name}: theirs {_short(left.get(name))}, yours {_short(right.get(name))}")
    if a["struct"] != b["struct"]:
        lines.append(f"name: theirs {a['struct']}, yours {b['struct']}")
    if a.get("layout") != b.get("layout"):
        lines.append(f"layout: theirs {a.get('layout', 'rows')}, yours {b.get('layout', 'rows')}")
    if a["bytes"] != b["bytes"]:
        lines.append(f"bytes: theirs {a['bytes']}, yours {b['bytes']}")
    return "; ".join(lines) or "only the order of the fields"


def type_name(schema: str) -> str:
    """Imu(stamp, accel) | Array(<f4, [480, 640]): the types of a channel in one line."""
    names = []
    for d in _described(schema):
        if "struct" in d:
            names.append(f"{d['struct']}({', '.join(field['name'] for field in d['fields'])})")
        elif "array" in d:
            element = d["array"].get("dtype", "record")
            dims = str(d["shape"] or "") if "shape" in d else f"{d['ndim']}d, at most {d['max_bytes']}"
            names.append(f"Array({element}{', ' if dims else ''}{dims}{', Fortran' if d.get('order') == 'F' else ''})")
        elif "arrow" in d:
            names.append(f"ArrowBatch(at most {d['max_bytes']})")
        else:
            kind, most = next(iter(d.items()))
            names.append(f"{kind.capitalize()}(at most {most})")
    return " | ".join(names)


def _short(d: Description | None) -> str:
    if d is None:
        return "(none)"
    if "array" in d:
        dims = d["shape"] if "shape" in d else f"[{', '.join(':' * d['ndim'])}] of at most {d['max_bytes']} bytes"
        return f"Array {_short(d['array'])}{dims}" + (" in Fortran order" if d.get("order") == "F" else "")
    if "struct" in d:
        return f"Struct {d['struct']} ({', '.join(f['name'] for f in d['fields'])})"
    for sized in ("text", "bytes"):
        if sized in d and "fields" not in d:
            return f"{sized.capitalize()} of at most {d[sized]} bytes"
    if "arrow" in d:
        return f"ArrowBatch of at most {d['max_bytes']} bytes"
    shown: str = d.get("dtype", "struct") + (str(d["shape"]) if d.get("shape") else "")
    return shown + (f" at byte {d['offset']}" if "offset" in d else "")


def _pickled(cls: MessageMeta) -> str | tuple[Any, ...]:
    """A class by its name; one that `Array` and its like made, which has none in its module, by what made it."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is cls or not cls.__module__.startswith(__name__.rpartition(".")[0]):
        return cls.__qualname__
    foreign = cast("type[Message]", cls).__foreign__
    return (as_type, (foreign,)) if foreign is not None else (_type_of, (cls.__schema__,))


copyreg.pickle(MessageMeta, _pickled)
