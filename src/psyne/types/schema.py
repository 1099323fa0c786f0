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
from .difference import Description, between, between_types, counterpart, short, subset_lacks
from .dtypes import dtype_from
from .foreign import as_type
from .message import Message, MessageMeta
from .resident import Resident, resident_type
from .struct import Struct, struct_of
from .text import Bytes, Text
from .variant import VariantHdr

__all__ = [
    "Kinds", "check_memory", "difference", "in_order_of", "kinds_of", "read_kinds", "schema_of", "type_name",
    "types_in",
]  # fmt: skip

Kinds = list[tuple[type, _native.Layout, int]]
MAX_TYPES = 1024
MAX_DEPTH = 32  # of records in records that a description may have


def schema_of(types: Sequence[MessageMeta]) -> str:
    """The schema text of a channel of these types, in their order."""
    if len(types) > MAX_TYPES:
        raise InvalidArgument(f"a channel carries at most {MAX_TYPES} types; got {len(types)}")
    described = [cls.__schema__ for cls in types]
    for i, cls in enumerate(types):
        if described[i] in described[:i]:
            raise InvalidArgument(f"two of the types are alike: {cls.__name__} is {short(described[i])}")
        if len(types) > 1 and cls.__layout__.columns:
            raise InvalidArgument(f"{cls.__name__} lies in columns, which only a channel of one type can have")
    return json.dumps(described[0] if len(types) == 1 else {"types": described}, separators=(",", ":"))


def kinds_of(types: Sequence[MessageMeta]) -> Kinds:
    """What the native ends know of types, by their number."""
    return [(cls, cls.__layout__, VariantHdr.of_type(i, cls).word) for i, cls in enumerate(types)]


def in_order_of(schema: str, types: list[MessageMeta]) -> list[MessageMeta]:
    """The same types as a channel names them, if they are the same: their order is the channel's."""
    try:
        theirs = _described(schema)
    except LayoutMismatch:  # whoever opens the channel is told, unless it can be replaced
        return types
    if len(theirs) != len(types) or any(cls.__schema__ not in theirs for cls in types):
        return types
    return sorted(types, key=lambda cls: theirs.index(cls.__schema__))


def _described(schema: str) -> list[Description]:
    """The descriptions in a schema text, which may be damaged: only what `_type_of` makes a type of is a type."""
    try:
        d = json.loads(schema)
        described = d.get("types", [d])
        if not all(isinstance(one, dict) for one in described) or not 1 <= len(described) <= MAX_TYPES:
            raise TypeError(f"a channel has 1 to {MAX_TYPES} types")
        return list(described)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unknown(error) from error


def _unknown(error: Exception) -> LayoutMismatch:
    return LayoutMismatch(
        f"the channel describes itself in a way that this psyne does not know, or its file is damaged: {error}"
    )


def types_in(schema: str) -> list[MessageMeta]:
    """Message classes for a channel that describes itself."""
    return [_type_of(d) for d in _described(schema)]


def read_kinds(schema: str, asked: Sequence[Any], subset: bool, address: str) -> Kinds:
    """A class for each type of a channel, out of those that a receiver asked for.

    `Message` stands for all others; nothing asked: classes are made of the description. With ``subset`` a Struct may
    leave fields out. Raises LayoutMismatch, which says field by field what differs.
    """
    theirs = _described(schema)
    _check_memory(theirs, asked, address)
    others = not asked or any(cls in (Message, Resident) for cls in asked)
    classes = [as_type(cls) for cls in asked if cls not in (Message, Resident)]
    found = {theirs.index(cls.__schema__): cls for cls in classes if cls.__schema__ in theirs}
    # What is no description of a type of ours is checked before anything is said of it.
    made = {i: _type_of(d) for i, d in enumerate(theirs) if i not in found}
    for cls in classes:
        if cls.__schema__ in theirs:
            continue
        rest = [theirs[i] for i in made]
        yours, other = cls.__schema__, counterpart(rest, cls.__schema__) or (rest[0] if len(theirs) == 1 else None)
        if subset and issubclass(cls, Struct) and other is not None:
            number = theirs.index(other)
            found[number] = _subset(cls, other, address)
            del made[number]
        elif other is not None:
            fewer = "; subset=True reads these fields and leaves the others" if _within(yours, other) else ""
            where = "" if len(theirs) == 1 else f"{cls.__name__}."
            raise LayoutMismatch(f"{address} has another layout: {between(other, yours, where)}{fewer}")
        else:
            raise LayoutMismatch(
                f"{address} has another layout: it carries {', '.join(map(short, theirs))}, and no {short(yours)}"
            )
    if made and not others:
        raise LayoutMismatch(
            f"{address} also carries {', '.join(short(theirs[i]) for i in made)}; "
            f"name these types too, or psyne.Message for all others"
        )
    return kinds_of([found.get(i) or made[i] for i in range(len(theirs))])


def check_memory(schema: str, classes: Sequence[MessageMeta], address: str) -> None:
    """Raise LayoutMismatch for messages of another memory than those of a channel: of the CPU, or of a GPU."""
    _check_memory(_described(schema), classes, address)


def _check_memory(theirs: list[Description], asked: Sequence[Any], address: str) -> None:
    there = any("resident" in d for d in theirs)
    wanted = any(isinstance(cls, MessageMeta) and issubclass(cls, Resident) for cls in asked)
    if there and not wanted:
        raise LayoutMismatch(
            f"the messages of {address} are in memory of a GPU: open senders and receivers with "
            'device="cuda:0"; taps and ends over a network cannot read them'
        )
    if wanted and not there:
        raise LayoutMismatch(
            f"the messages of {address} are in memory of the CPU: leave device= out, and view them on the device "
            "with psyne.device(name).view(m)"
        )


def _type_of(d: Description) -> MessageMeta:
    """The class that a description is of. Raises LayoutMismatch for whatever is none: it may be damaged or hostile."""
    try:
        made = _made_of(d)
    except Exception as error:
        raise _unknown(error) from error
    if made.__schema__ != d:
        raise LayoutMismatch(f"the channel's layout cannot be had from its description here: {d}")
    return made


def _made_of(d: Description) -> MessageMeta:
    if "resident" in d:
        of = {key: value for key, value in d.items() if key != "resident"}
        return resident_type(_type_of(of), str(d["resident"]))
    if "text" in d:
        return Text if d["text"] == Text.__max_bytes__ else cast("MessageMeta", Text(max_bytes=d["text"]))
    if "bytes" in d and "struct" not in d:
        return Bytes if d["bytes"] == Bytes.__max_bytes__ else cast("MessageMeta", Bytes(max_bytes=d["bytes"]))
    if "arrow" in d:
        if not isinstance(d["arrow"], str | None):
            raise TypeError(f"{d['arrow']!r} is no Arrow schema")
        return arrow_type(d["arrow"], d["max_bytes"])
    if "ndim" in d:
        return array_type(_dtype_of(d["array"]), ndim=d["ndim"], max_bytes=d["max_bytes"])
    if d.get("order") == "F":
        rows, columns = d["shape"]
        return cast("MessageMeta", Matrix(rows, columns, _dtype_of(d["array"]), order="F"))
    if "array" in d:
        return array_type(_dtype_of(d["array"]), tuple(d["shape"]))
    return struct_of(d["struct"], _dtype_of(d), columns=d.get("layout") == "columns")


def _dtype_of(d: Description, depth: int = 0) -> np.dtype[Any]:
    if depth > MAX_DEPTH:
        raise ValueError(f"records in records, more than {MAX_DEPTH} levels")
    if "dtype" in d:
        if not isinstance(d["dtype"], str):
            raise TypeError(f"{d['dtype']!r} is no name of a dtype")
        return dtype_from(d["dtype"])
    fields = d["fields"]
    return np.dtype(
        {
            "names": [f["name"] for f in fields],
            "formats": [(_dtype_of(f, depth + 1), tuple(f["shape"])) for f in fields],
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
    if "struct" not in theirs:
        raise LayoutMismatch(f"{address} carries {short(theirs)}, which has no fields to be a subset of")
    if lacking := subset_lacks(theirs, cls.__schema__):
        raise LayoutMismatch(f"{address} does not have these fields of {cls.__name__}: {lacking}")
    dtype, layout = _dtype_of(theirs), "columns" if theirs.get("layout") == "columns" else "rows"
    return MessageMeta(cls.__name__, (cls,), {}, layout=layout, dtype=dtype)


def difference(theirs: str, yours: str) -> str:
    """What differs between two schemas, field by field."""
    types_in(theirs)  # raises for what is no description
    return between_types(_described(theirs), _described(yours))


def type_name(schema: str) -> str:
    """Imu(stamp, accel) | Array(<f4, [480, 640]): the types of a channel in one line."""
    names = []
    types_in(schema)  # raises for what is no description
    for d in _described(schema):
        if "struct" in d:
            names.append(f"{d['struct']}({', '.join(field['name'] for field in d['fields'])})")
        elif "array" in d:
            element = d["array"].get("dtype", "record")
            dims = str(d["shape"] or "") if "shape" in d else f"{d['ndim']}d, at most {d['max_bytes']}"
            more = (", Fortran" if d.get("order") == "F" else "") + (f", on {d['resident']}" if "resident" in d else "")
            names.append(f"Array({element}{', ' if dims else ''}{dims}{more})")
        elif "arrow" in d:
            names.append(f"ArrowBatch(at most {d['max_bytes']})")
        else:
            kind, most = next(iter(d.items()))
            names.append(f"{kind.capitalize()}(at most {most})")
    return " | ".join(names)


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
